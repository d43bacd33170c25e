"""What a trimmed drafter's file says of itself: metadata under `edgespec.trim.*`, in place of a vocabulary.

Not covered: writing it (trim.py), finding its original (original.py), running it (backends).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgespec.errors import ModelUnusable
from edgespec.gguf.entries import numbers
from edgespec.gguf.header import Header, Value
from edgespec.types import Ids

VERSION = 1
PREFIX = "edgespec.trim."
EMBEDDING = "token_embd.weight"
# What a mark reads of each part of a file: so many pieces, evenly spaced, the first and the last bytes among them.
_N_PIECES, _PIECE_BYTES = 64, 64 << 10


@dataclass(frozen=True)
class Trim:
    """n_vocab: tokens of the original; source: its first part, relative to the trimmed file's folder; source_bytes of
    all parts; mark as `mark` gives it; sha256 of all parts, one after the other; counts: what the choice of rows rests
    on, in words; coverage: share of like text that is kept (keep.py), None where nothing was counted; follows: whether
    rows may be chosen anew by what is said."""

    n_vocab: int
    source: str
    source_bytes: int
    mark: str
    sha256: str
    counts: str
    coverage: float | None
    follows: bool = False


def read_trim(path: Path, metadata: Mapping[str, Value]) -> Trim | None:
    """None for a file that was not trimmed; raises ModelUnusable for one of a later version, or damaged."""
    version = metadata.get(f"{PREFIX}version")
    if version is None:
        return None
    if version != VERSION:
        raise ModelUnusable(
            f"{path} was trimmed as version {version} has it, and this one reads {VERSION}; "
            "update edgespec, or trim the original again"
        )
    words = {key: metadata.get(PREFIX + key) for key in ("source", "mark", "sha256", "counts")}
    sizes = {key: metadata.get(PREFIX + key) for key in ("n_vocab", "source_bytes")}
    coverage = metadata.get(f"{PREFIX}coverage")
    whole = all(isinstance(word, str) for word in words.values()) and all(isinstance(n, int) for n in sizes.values())
    if not whole or not isinstance(coverage, float | None):
        raise ModelUnusable(
            f"{path} is damaged: what it says of its original is not all there; trim the original again"
        )
    return Trim(coverage=coverage, follows=metadata.get(f"{PREFIX}follows") == 1, **words, **sizes)  # type: ignore[arg-type]


def kept_ids(path: Path, header: Header, n_vocab: int) -> Ids:
    """Ascending int32 [k], below n_vocab, one a row; raises ModelUnusable for anything else."""
    key = f"{PREFIX}ids"
    ids = numbers(path, header, key).astype(np.int32) if key in header.entries else np.zeros(0, np.int32)
    rows = next((t.shape[1] for t in header.tensors if t.name == EMBEDDING), 0)
    if len(ids) != rows or not len(ids) or ids[0] < 0 or ids[-1] >= n_vocab or (np.diff(ids) <= 0).any():
        raise ModelUnusable(
            f"{path} is damaged: its {rows} rows do not name {len(ids)} tokens; trim the original again"
        )
    return ids


def mark(parts: Iterable[Path]) -> str:
    """Changes when a file does, at a cost of 4 MiB read a part: 64 characters from sizes and evenly spaced pieces.

    Raises OSError.
    """
    digest = hashlib.sha256()
    for path in parts:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(size.to_bytes(8, "little"))
            last = max(size - _PIECE_BYTES, 0)
            for start in sorted({last * i // (_N_PIECES - 1) for i in range(_N_PIECES)}):
                file.seek(start)
                digest.update(file.read(_PIECE_BYTES))
    return digest.hexdigest()
