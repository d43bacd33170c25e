"""Whether a file is a model that edgespec can run, from its header alone, and what it is.

Every refusal is one sentence that says what to do; no bytes, however broken, give anything but a ModelFile or
an EdgespecError (tests cut and flip the demo to see).

Not covered: whether the runtime knows the architecture, and anything that lies in the tensor data.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gguf.constants import LlamaFileType, PoolingType

from edgespec.errors import ModelNotFound, ModelUnusable
from edgespec.gguf.header import Header, Value, read_header
from edgespec.gguf.trimmed import Trim, read_trim

_ENCODERS = frozenset({
    "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3",
    "eurobert", "t5encoder", "gemma-embedding", "llama-embed",
})  # fmt: skip
_DIFFUSION = frozenset({"dream", "llada", "llada-moe", "rnd1"})
_OTHER_KINDS = {
    "clip": "the picture or sound part (mmproj) of a model",
    "mmproj": "the picture or sound part (mmproj) of a model",
    "adapter": "a LoRA adapter, not a whole model",
    "imatrix": "an importance matrix for quantising, not a model",
    "wavtokenizer-dec": "a speech decoder, not a text model",
}
_ARCHITECTURE = re.compile(r"[\w.-]{1,64}\Z", re.ASCII)
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_MAX_PARTS = 1024


@dataclass(frozen=True)
class ModelFile:
    """A model that can be loaded, as its header tells.

    path          the file to load (the first part of a split model)
    n_ctx_train   context it was trained for, None where the file does not say
    tensor_bytes  bytes of all weights, all parts together
    quantisation  llama.cpp's name without "MOSTLY_": "Q4_K_M", "Q8_0", "F16"
    causal        always True of a file that passed; kept for those who show it
    pooling       "none" or None: a file that asks for more is an embedding model and does not pass
    tokenizer     llama.cpp's tokenizer model: "gpt2", "llama", "t5", ...
    mask_token_id what stands for a token to fill in, None where the file names none
    trim          of a drafter that has only some rows of its head (n_vocab is the whole vocabulary's all the same)
    """

    path: Path
    architecture: str
    name: str
    n_tensors: int
    n_vocab: int
    n_ctx_train: int | None
    tensor_bytes: int
    quantisation: str
    causal: bool
    pooling: str | None
    tokenizer: str
    mask_token_id: int | None = None
    trim: Trim | None = None


def inspect(path: str | os.PathLike[str]) -> ModelFile:
    """What the file is; raises ModelNotFound or ModelUnusable, each naming the file and what to do."""
    path = Path(path)
    parts = headers(path)
    header = parts[path]
    meta = header.metadata
    architecture = str(meta["general.architecture"])
    pooling = _refuse_embedding_models(path, meta, architecture)
    trim = read_trim(path, meta)
    tokenizer = _check_whole(path, meta, header.lengths, parts, trim)
    tensors = [tensor for part_header in parts.values() for tensor in part_header.tensors]
    return ModelFile(
        path=path,
        architecture=architecture,
        name=_printable(_text(meta, "general.name") or path.stem),
        n_tensors=len(tensors),
        n_vocab=trim.n_vocab if trim else header.lengths["tokenizer.ggml.tokens"],
        n_ctx_train=_integer(meta, f"{architecture}.context_length"),
        tensor_bytes=sum(tensor.n_bytes for tensor in tensors),
        quantisation=_quantisation(meta, parts),
        causal=True,
        pooling=pooling,
        tokenizer=tokenizer,
        mask_token_id=_integer(meta, "tokenizer.ggml.mask_token_id"),
        trim=trim,
    )


def headers(path: Path) -> dict[Path, Header]:
    """The header of every part of a model, the first one first; raises what inspect raises for files cut short, parts
    missing and files of another kind."""
    header = read_header(path)
    architecture = _text(header.metadata, "general.architecture")
    _refuse_other_kinds(path, header.metadata, architecture)
    if architecture is None or not _ARCHITECTURE.match(architecture):
        raise ModelUnusable(f"{path} does not name its architecture; get a complete .gguf file of the model")
    parts = {path: header, **_other_parts(path, header.metadata)}
    for part, part_header in parts.items():
        _check_complete(part, part_header)
    return parts


def _refuse_other_kinds(path: Path, meta: Mapping[str, Value], architecture: str | None) -> None:
    kind = _text(meta, "general.type")
    if kind is None and "adapter.type" in meta:
        kind = "adapter"
    for word in (kind, architecture):
        if word in _OTHER_KINDS:
            raise ModelUnusable(f"{path} is {_OTHER_KINDS[word]}; name the text model's own .gguf file")
    if kind not in (None, "model"):
        raise ModelUnusable(
            f"{path} is of the kind {_printable(kind)!r}, not a model; name the text model's own .gguf file"
        )


def _refuse_embedding_models(path: Path, meta: Mapping[str, Value], architecture: str) -> str | None:
    """The pooling named by the file, if any; raises ModelUnusable for what cannot continue a text."""
    if architecture == "t5" or f"{architecture}.decoder_start_token_id" in meta:
        raise ModelUnusable(
            f"{path} is an encoder-decoder model ({architecture}), which edgespec cannot run; "
            "name a decoder model, such as a Llama or Qwen chat model"
        )
    if architecture in _DIFFUSION:
        raise ModelUnusable(
            f"{path} is a diffusion model ({architecture}), which edgespec cannot run; "
            "name a model that writes one token after the other"
        )
    pooling = _integer(meta, f"{architecture}.pooling_type")
    causal = meta.get(f"{architecture}.attention.causal", True)
    if architecture in _ENCODERS or not causal or pooling not in (None, PoolingType.NONE):
        raise ModelUnusable(
            f"{path} is an embedding model ({architecture}): it measures text and cannot write any; "
            "name a chat or text model"
        )
    return None if pooling is None else PoolingType(pooling).name.lower()


def _other_parts(path: Path, meta: Mapping[str, Value]) -> dict[Path, Header]:
    """Headers of the second and later parts of a split model; {} for a file of one part."""
    count, number = _integer(meta, "split.count") or 1, _integer(meta, "split.no") or 0
    if count <= 1:
        return {}
    if count > _MAX_PARTS:
        raise ModelUnusable(f"{path} is damaged (it claims to be one of {count:,} parts); download it again")
    named = _PART.search(path.name)
    stem = path.name[: named.start()] if named else None

    def part(index: int) -> Path:
        return path.with_name(f"{stem}-{index + 1:05d}-of-{count:05d}.gguf")

    if number != 0:
        first = part(0).name if stem is not None else f"the one that ends in -00001-of-{count:05d}.gguf"
        raise ModelUnusable(f"{path} is part {number + 1} of {count} of a split model; name the first part, {first}")
    if stem is None or part(0) != path:
        raise ModelUnusable(
            f"{path} is the first of {count} parts but was renamed, so that the others cannot be found; "
            f"give it back its name, which ends in -00001-of-{count:05d}.gguf"
        )
    others = [part(index) for index in range(1, count)]
    missing = [other.name for other in others if not os.path.exists(other)]
    if missing:
        names = ", ".join(missing[:3]) + (" and others" if len(missing) > 3 else "")
        raise ModelNotFound(
            f"{path} needs {count} parts and {count - len(missing)} are there; download {names} into the same folder"
        )
    return {other: read_header(other) for other in others}


def _check_complete(path: Path, header: Header) -> None:
    if header.needed_bytes > header.file_bytes:
        raise ModelUnusable(
            f"{path} is cut short: its tensor table needs {header.needed_bytes:,} bytes and "
            f"{header.file_bytes:,} are there; download it again"
        )


def _check_whole(
    path: Path,
    meta: Mapping[str, Value],
    lengths: Mapping[str, int],
    parts: Mapping[Path, Header],
    trim: Trim | None,
) -> str:
    """The tokenizer's name; raises ModelUnusable where weights or vocabulary are not in the file."""
    names = {tensor.name for header in parts.values() for tensor in header.tensors}
    if not names:
        raise ModelUnusable(f"{path} holds only a vocabulary and no weights; name the model's own .gguf file")
    if "token_embd.weight" not in names:
        raise ModelUnusable(
            f"{path} has no token embeddings: it is no whole text model; name the model's own .gguf file"
        )
    tokenizer = _text(meta, "tokenizer.ggml.model")
    if trim is None and (tokenizer in (None, "none", "no_vocab") or not lengths.get("tokenizer.ggml.tokens")):
        raise ModelUnusable(
            f"{path} has no tokenizer, so text cannot be turned into tokens; get a complete .gguf file of the model"
        )
    return str(tokenizer)


def _quantisation(meta: Mapping[str, Value], parts: Mapping[Path, Header]) -> str:
    """The name the file gives itself, else the type that holds most of its bytes."""
    number = _integer(meta, "general.file_type")
    for known in LlamaFileType:
        if known == number and known != LlamaFileType.GUESSED:
            return known.name.removeprefix("MOSTLY_").removeprefix("ALL_")
    weights: Counter[str] = Counter()
    for header in parts.values():
        for tensor in header.tensors:
            weights[tensor.type.name] += tensor.n_bytes
    return weights.most_common(1)[0][0]


def _printable(text: str) -> str:
    """At most 80 characters that cannot drive a terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:80])


def _text(meta: Mapping[str, Value], key: str) -> str | None:
    value = meta.get(key)
    return value if isinstance(value, str) else None


def _integer(meta: Mapping[str, Value], key: str) -> int | None:
    value = meta.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
