"""The original of a trimmed drafter: found again, and checked to be the file that it was cut from.

Input rows of tokens that were not kept, and the tokenizer, are read from it. Not covered: reading them (backends).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgespec.errors import EdgespecError, ModelUnusable
from edgespec.gguf.header import Header, Tensor
from edgespec.gguf.inspect import headers
from edgespec.gguf.trimmed import EMBEDDING, Trim, kept_ids, mark
from edgespec.types import Ids


@dataclass(frozen=True)
class Original:
    """Where the rows of a trimmed drafter's vocabulary lie; path: the original's first part, part: the file with the
    embedding, offset: of its first byte there; ids int32 [k], ascending: the tokens that were kept."""

    path: Path
    part: Path
    embedding: Tensor
    offset: int
    n_vocab: int
    architecture: str
    ids: Ids


def find_original(path: Path, header: Header, trim: Trim) -> Original:
    """The original at its stored place, or beside the trimmed file. Raises ModelUnusable where it is gone or another
    file by now, and what reading its header raises."""
    places = _places(path, trim)
    for place in places[:-1]:
        with contextlib.suppress(EdgespecError):
            return _original(path, header, trim, place)
    return _original(path, header, trim, places[-1])


def _places(path: Path, trim: Trim) -> list[Path]:
    """Where a file lies that may be the original; raises ModelUnusable where there is none."""
    stored = Path(os.path.normpath(path.resolve().parent / trim.source))  # a link may name the trimmed file
    beside = path.parent / stored.name
    found = [place for place in dict.fromkeys((beside, stored)) if os.path.isfile(place)]
    if not found:
        where = f"{stored}" if stored == beside else f"{stored} or {beside}"
        raise ModelUnusable(
            f"{path} is a trimmed drafter that goes on reading its original, {stored.name}, and there is no {where}; "
            "put it there, or name another drafter"
        )
    return found


def _original(path: Path, header: Header, trim: Trim, first: Path) -> Original:
    parts = headers(first)
    _check_same(path, trim, first, parts)
    part, embedding = next((p, t) for p, h in parts.items() for t in h.tensors if t.name == EMBEDDING)
    ids = kept_ids(path, header, trim.n_vocab)
    architecture = str(header.metadata["general.architecture"])
    return Original(first, part, embedding, parts[part].data_start + embedding.offset, trim.n_vocab, architecture, ids)


def _check_same(path: Path, trim: Trim, first: Path, parts: Mapping[Path, Header]) -> None:
    """Raises ModelUnusable."""
    n_bytes = sum(header.file_bytes for header in parts.values())
    again = f"trim it again: edgespec trim {first} -o {path}"
    if n_bytes != trim.source_bytes:
        raise ModelUnusable(
            f"{path} was cut from {first} when that had {trim.source_bytes:,} bytes; now it has {n_bytes:,}; {again}"
        )
    try:
        found = mark(parts)
    except OSError as error:
        raise ModelUnusable(f"{first}, the original of {path}, could not be read ({error}); check the disk") from None
    if found != trim.mark:
        raise ModelUnusable(
            f"{path} was cut from {first}, which holds something else now (its mark is {found[:8]} and was "
            f"{trim.mark[:8]}); {again}"
        )
