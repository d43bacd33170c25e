"""GGUF files by hand, and what every refusal must look like."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType

import edgespec
from edgespec.errors import EdgespecError, ModelUnusable
from edgespec.gguf.inspect import inspect

DEMO = Path(edgespec.__file__).parent / "demo"

F32, Q8_0 = GGMLQuantizationType.F32, GGMLQuantizationType.Q8_0
Value = str | int | bool | list[str] | list[int]
META: dict[str, Value] = {
    "general.architecture": "llama",
    "general.name": "tiny",
    "llama.context_length": 128,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["a", "b", "c"],
}
WEIGHTS = (("token_embd.weight", (32, 3), Q8_0, 3 * 34), ("output_norm.weight", (32,), F32, 128))


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, value: Value) -> bytes:
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, bool):
        return text(key) + struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return text(key) + struct.pack("<II", 4, value)
    if value and isinstance(value[0], int):
        return text(key) + struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(str(v)) for v in value)


def gguf(
    meta: Mapping[str, Value] | None = None,
    weights: Sequence[tuple[str, tuple[int, ...], int, int]] = WEIGHTS,
    *,
    version: int = 3,
    more: bytes = b"",
    n_more: int = 0,
) -> bytes:
    """A file by hand: metadata, table, zeros for data; `more` are raw bytes of n_more further entries."""
    meta = META if meta is None else meta
    body = struct.pack("<4sIQQ", b"GGUF", version, len(weights), len(meta) + n_more)
    body += b"".join(entry(key, value) for key, value in meta.items()) + more
    offset = 0
    for name, shape, kind, n_bytes in weights:
        body += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        offset += -(-n_bytes // 32) * 32
    return body + bytes(-len(body) % 32 + offset)


def without(*keys: str, **more: Value) -> dict[str, Value]:
    return {key: value for key, value in {**META, **more}.items() if key not in keys}


def refusal(path: Path, kind: type[EdgespecError] = ModelUnusable) -> str:
    """The sentence, after checking that it is one and names the file."""
    with pytest.raises(kind) as caught:
        inspect(path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert re.search(r"[;:] ", message), "what to do follows what is wrong"
    return message
