"""Small drafters to trim: the demo's in other types, untied, split; and what is cut from them."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

from edgespec.gguf.header import read_header
from edgespec.gguf.keep import Kept, always_kept
from edgespec.gguf.trim import Trimmed, trim
from edgespec.gguf.vocabulary import Vocabulary, read_vocabulary

DEMO = Path(__file__).parents[1] / "edgespec" / "demo"
DRAFT = DEMO / "demo-draft.gguf"
Q8_0, Q4_0, F16 = (gguf.GGMLQuantizationType[name] for name in ("Q8_0", "Q4_0", "F16"))


def like_the_drafter(
    out: Path, kind: gguf.GGMLQuantizationType = Q8_0, *, untied: bool = False, parts: int = 1
) -> Path:
    """demo-draft with its matrices in another type, perhaps with a head of its own, perhaps in several files."""
    reader = gguf.GGUFReader(DRAFT)
    names = [f"{out.stem}-{i + 1:05d}-of-{parts:05d}.gguf" for i in range(parts)] if parts > 1 else [out.name]
    tensors = {t.name: (t.data, t.tensor_type) for t in reader.tensors}
    tensors = {name: _as(data, stored, kind) for name, (data, stored) in tensors.items()}
    if untied:
        head = dequantize(*tensors["token_embd.weight"])
        noise = np.random.default_rng(3).normal(0, head.std(), head.shape).astype(np.float32)
        tensors["output.weight"] = quantize(head + 0.3 * noise, kind), kind
    for i, name in enumerate(names):
        writer = gguf.GGUFWriter(out.with_name(name), "llama")
        if i == 0:
            _copy_metadata(reader, writer)
        if parts > 1:
            writer.add_key_value("split.no", i, gguf.GGUFValueType.UINT16)
            writer.add_key_value("split.count", parts, gguf.GGUFValueType.UINT16)
            writer.add_key_value("split.tensors.count", len(tensors), gguf.GGUFValueType.INT32)
        for data_name in list(tensors)[i::parts]:
            data, stored = tensors[data_name]
            writer.add_tensor(data_name, data, raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return out.with_name(names[0])


def _as(
    data: np.ndarray, stored: gguf.GGMLQuantizationType, kind: gguf.GGMLQuantizationType
) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
    if stored == gguf.GGMLQuantizationType.F32 or stored == kind:
        return data, stored
    return quantize(dequantize(data, stored), kind), kind


def _copy_metadata(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        _add(writer, key, field)


def _add(writer: gguf.GGUFWriter, key: str, field: gguf.ReaderField) -> None:
    writer.add_key_value(key, field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None)


def tiny(architecture: str, out: Path) -> Path:
    """A random model of one layer, of another architecture, with the demo's vocabulary; says nothing sensible."""
    d, ff = 256, 512
    rng = np.random.default_rng(7)
    writer, reader = gguf.GGUFWriter(out, architecture), gguf.GGUFReader(DRAFT)
    for key, field in reader.fields.items():
        if key.startswith("tokenizer."):
            _add(writer, key, field)
    heads = {"head_count": 4, "head_count_kv": 1, "key_length": 64, "value_length": 64, "sliding_window": 128}
    numbers = {"context_length": 512, "embedding_length": d, "block_count": 1, "feed_forward_length": ff}
    for name, value in {**numbers, **{f"attention.{n}": v for n, v in heads.items()}}.items():
        writer.add_uint32(f"{architecture}.{name}", value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-6)
    sizes = {"attn_q": (d, d), "attn_k": (64, d), "attn_v": (64, d), "attn_output": (d, d),
             "ffn_gate": (ff, d), "ffn_up": (ff, d), "ffn_down": (d, ff)}  # fmt: skip
    norms = {"attn_norm": d, "ffn_norm": d}
    if architecture in ("gemma2", "gemma3"):
        norms |= {"post_attention_norm": d, "post_ffw_norm": d}
    if architecture == "gemma3":
        norms |= {"attn_q_norm": 64, "attn_k_norm": 64}
    biases = {"attn_q": d, "attn_k": 64, "attn_v": 64} if architecture == "qwen2" else {}
    matrices = {"token_embd.weight": (8192, d), **{f"blk.0.{n}.weight": s for n, s in sizes.items()}}
    vectors = {"output_norm.weight": d, **{f"blk.0.{n}.weight": s for n, s in norms.items()}}
    vectors |= {f"blk.0.{n}.bias": s for n, s in biases.items()}
    for name, size in matrices.items():
        writer.add_tensor(name, quantize(rng.normal(0, 0.05, size).astype(np.float32), Q8_0), raw_dtype=Q8_0)
    for name, n in vectors.items():
        writer.add_tensor(name, rng.normal(1, 0.1, n).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def vocabulary_of(path: Path) -> Vocabulary:
    return read_vocabulary(path, read_header(path))


def some_ids(path: Path, k: int, seed: int = 1) -> np.ndarray:
    """What must stay and random others, k in all, ascending."""
    vocabulary = vocabulary_of(path)
    must = always_kept(vocabulary)
    others = np.setdiff1d(np.arange(len(vocabulary)), must)
    chosen = np.random.default_rng(seed).choice(others, k - len(must), replace=False)
    return np.sort(np.concatenate([must, chosen])).astype(np.int32)


def cut(source: Path, out: Path, k: int = 1024) -> Trimmed:
    return trim(source, out, Kept(some_ids(source, k), None), "counts of a test")
