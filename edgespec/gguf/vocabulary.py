"""A model's vocabulary as its file has it: bytes and kind of each id, and the ids that its metadata names.

Not covered: tokenizing, which is the runtime's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf.constants import TokenType
from numpy.typing import NDArray

from edgespec.errors import ModelUnusable
from edgespec.gguf.entries import numbers, strings
from edgespec.gguf.header import Header

TOKENS, TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
# SentencePiece writes a space like this.
_SPACE = "\u2581"


@dataclass(frozen=True)
class Vocabulary:
    """pieces: bytes of each id (a control token's name); types int32 [n_vocab], as gguf's TokenType; named: ids that
    metadata names ("tokenizer.ggml.eos_token_id"), by key."""

    pieces: list[bytes]
    types: NDArray[np.int32]
    named: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def mark(self) -> str:
        """The same for the same tokens in the same order, and hardly ever for others: 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for piece in self.pieces:
            digest.update(len(piece).to_bytes(4, "little") + piece)
        return digest.hexdigest()[:16]


def read_vocabulary(path: Path, header: Header) -> Vocabulary:
    """header: of that very file. Raises ModelUnusable where types and tokens differ in number."""
    words = strings(path, header, TOKENS)
    if TYPES in header.entries:
        types = numbers(path, header, TYPES).astype(np.int32)
    else:
        types = np.full(len(words), TokenType.NORMAL, np.int32)
    if len(types) != len(words):
        raise ModelUnusable(
            f"{path} contradicts itself: it has {len(words)} tokens and types of {len(types)}; download it again"
        )
    model = header.metadata.get("tokenizer.ggml.model")
    plain = {TokenType.NORMAL, TokenType.UNUSED}
    pieces = [_bytes(word, str(model)) if kind in plain else word for word, kind in zip(words, types, strict=True)]
    return Vocabulary(pieces, types, _named(header, len(words)))


def _named(header: Header, n_vocab: int) -> dict[str, int]:
    ids = {k: v for k, v in header.metadata.items() if k.startswith("tokenizer.ggml.") and k.endswith("_token_id")}
    return {key: value for key, value in ids.items() if isinstance(value, int) and 0 <= value < n_vocab}


def _bytes(word: bytes, model: str) -> bytes:
    """What a piece stands for in a text."""
    if model == "gpt2":
        try:
            return bytes(_BYTE_OF[c] for c in word.decode())
        except (KeyError, UnicodeDecodeError):
            return word
    return word.replace(_SPACE.encode(), b" ")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others for 256, 257, ... in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in printable]
    return {**{chr(b): b for b in printable}, **{chr(256 + i): b for i, b in enumerate(others)}}


_BYTE_OF = _byte_alphabet()
