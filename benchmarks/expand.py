"""Writes a small trained llama GGUF in the shape of a bigger model, with unchanged output.

    python benchmarks/expand.py edgespec/demo/demo.gguf --shape 1b --type f16 -o demo-1b-f16.gguf

The file costs what a real model of that shape costs (bytes, multiplications, KV cache) and says what the
small model says, so acceptance and speed can be measured together without a large download; expansion.py has
the recipe. Tensors are made and written one at a time; tokenizer, chat template and all other metadata are
the source's. The last line printed is a JSON object.

Not covered: whether zeros cost less power than a real model's weights. Methods that profit from zeros or from
identity layers (layer skipping, pruning) look better here than on a real model; one that quantises a two-term
q4_0 file once more looks worse.
"""

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from expansion import PRECISIONS, SHAPES, Expansion, ExpansionError, Precision, Shape, tensor_sizes
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFValueType as Value
from gguf.quants import dequantize, quantize


class Source:
    """A llama GGUF opened for reading: its shape, metadata and tensors; raises ExpansionError if unsuited."""

    def __init__(self, path: Path) -> None:
        try:
            reader = gguf.GGUFReader(path)
        except (OSError, ValueError) as error:
            raise ExpansionError(f"cannot read {path} as GGUF: {error}") from None
        self.fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        if (architecture := self.read("general.architecture")) != "llama":
            raise ExpansionError(f"{path} is a {architecture} model; only llama can be expanded")
        self.shape = self.read_shape()
        if foreign := set(self.tensors) ^ {name for name, _ in tensor_sizes(self.shape, 0)}:
            raise ExpansionError(f"{path} is no plain tied llama model, see its tensor {min(foreign)}")
        self.n_vocab = int(self.tensors["token_embd.weight"].shape[1])

    def read(self, key: str, default: object = None) -> Any:
        """Returns the metadata value of key; raises ExpansionError if absent and without default."""
        if key in self.fields:
            return self.fields[key].contents()
        if default is None:
            raise ExpansionError(f"the source has no {key} in its metadata")
        return default

    def read_shape(self) -> Shape:
        """Returns the shape the metadata states; raises ExpansionError for what the recipe does not cover."""
        n_embd, n_head = self.read("llama.embedding_length"), self.read("llama.attention.head_count")
        head_dim = self.read("llama.attention.key_length", n_embd // n_head)
        for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
            if self.read(key, head_dim) != head_dim:
                raise ExpansionError(f"{key} {self.read(key)} differs from the source's head size {head_dim}")
        if scaling := [key for key in self.fields if key.startswith("llama.rope.scaling")]:
            raise ExpansionError(f"the source scales its rotary positions ({scaling[0]}), which is not covered")
        n_head_kv = self.read("llama.attention.head_count_kv", n_head)
        n_layer, n_ff = self.read("llama.block_count"), self.read("llama.feed_forward_length")
        return Shape(n_embd, n_layer, n_head, n_head_kv, head_dim, n_ff)

    def weight(self, name: str) -> np.ndarray:
        """Returns the tensor as float32, [n_out, n_in] or [n]."""
        tensor = self.tensors[name]
        return np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)


def changed_metadata(source: Source, expansion: Expansion, label: str) -> dict[str, tuple[object, Value]]:
    """Returns value and type of every metadata key that differs from the source's."""
    target, prefix = expansion.target, "llama.attention"
    sizes = {
        "llama.embedding_length": target.n_embd,
        "llama.block_count": target.n_layer,
        "llama.feed_forward_length": target.n_ff,
        f"{prefix}.head_count": target.n_head,
        f"{prefix}.head_count_kv": target.n_head_kv,
        f"{prefix}.key_length": target.head_dim,
        f"{prefix}.value_length": target.head_dim,
        "llama.rope.dimension_count": target.head_dim,
        "general.file_type": expansion.precision.file_type,
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
    }
    name = source.read("general.name", "model")
    about = f"{name} expanded to the shape {label}: same output, the cost of that shape. For measuring only."
    epsilon = source.read(f"{prefix}.layer_norm_rms_epsilon") * expansion.shrink
    return {
        "general.name": (f"{name}-{label}", Value.STRING),
        "general.description": (about, Value.STRING),
        f"{prefix}.layer_norm_rms_epsilon": (epsilon, Value.FLOAT32),
        **{key: (size, Value.UINT32) for key, size in sizes.items()},
    }


def expand(
    source_path: Path, target: Shape, precision: Precision, out: Path, label: str = "custom", seed: int = 0
) -> int:
    """Writes the expansion to out, whole or not at all; returns its bytes; raises ExpansionError, OSError."""
    source = Source(source_path)
    if not out.parent.is_dir():
        raise ExpansionError(f"there is no folder {out.parent} to write to")
    expansion = Expansion(source.shape, source.weight, target, precision, seed)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    writer = gguf.GGUFWriter(part, "llama")
    changed = changed_metadata(source, expansion, label)
    for key, field in source.fields.items():
        if not key.startswith("GGUF.") and key not in (*changed, "general.architecture", "general.alignment"):
            kind, element = field.types[0], field.types[-1]
            writer.add_key_value(key, field.contents(), kind, element if kind == Value.ARRAY else None)
    for key, (value, kind) in changed.items():
        writer.add_key_value(key, value, kind)
    for name, size in tensor_sizes(target, source.n_vocab):
        stored = tensor_kind(name, precision)
        n_block, block_bytes = gguf.GGML_QUANT_SIZES[stored]
        n_bytes = math.prod(size) // n_block * block_bytes
        writer.add_tensor_info(name, size, np.dtype(np.float32), n_bytes, raw_dtype=stored)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, size in tensor_sizes(target, source.n_vocab):
            writer.write_tensor_data(quantize(expansion.tensor(name, size), tensor_kind(name, precision)))
        writer.close()
        n_bytes = part.stat().st_size
        os.replace(part, out)
    finally:
        writer.close()
        part.unlink(missing_ok=True)
    return n_bytes


def tensor_kind(name: str, precision: Precision) -> Kind:
    """Returns how a tensor is stored: norms in f32, the embedding and the matrices as the precision says."""
    if "norm" in name:
        return Kind.F32
    kind: Kind = precision.embedding if name == "token_embd.weight" else precision.matrix
    return kind


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="SOURCE", help="trained llama GGUF with tied embeddings")
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--type", choices=PRECISIONS, default="f16")
    parser.add_argument("--seed", type=int, default=0, help="of the values that cannot reach the output")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT.gguf")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    label = f"{options.shape}-{options.type}"
    shape, precision = SHAPES[options.shape], PRECISIONS[options.type]
    try:
        n_bytes = expand(options.source, shape, precision, options.out, label, options.seed)
    except (ExpansionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"file": str(options.out), "shape": label, "bytes": n_bytes, "seconds": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
