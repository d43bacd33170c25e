"""Writes a drafter with fewer rows in its head: other tensors bytewise, the head's rows in their quantised form.

Rows are whole blocks in every type of GGUF, so cutting them out changes no value (VocabTrim, arXiv 2506.22694). The
vocabulary gives way to `no_vocab` and a number of rows; which tokens they are stands in the metadata (trimmed.py). One
file comes out, whatever parts the model came in. Never more than a piece of a file is in memory. Not covered: which
rows to keep (keep.py).
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import psutil
from gguf.constants import GGUF_DEFAULT_ALIGNMENT, GGUF_VERSION, GGUFValueType

from edgespec.errors import BadSetting, ModelUnusable
from edgespec.gguf.entries import count_entry, float_entry, ids_entry, raw, string_entry, text
from edgespec.gguf.header import Header, Tensor
from edgespec.gguf.inspect import headers
from edgespec.gguf.keep import Kept
from edgespec.gguf.magic import MAGIC
from edgespec.gguf.trimmed import EMBEDDING, PREFIX, VERSION, mark
from edgespec.gguf.vocabulary import TOKENS

CHUNK_BYTES = 4 << 20
_CUT = frozenset({EMBEDDING, "output.weight", "output.bias"})
# Other tables with a row for each token (src/models: deepseek4; nextn blocks of bailingmoe2, deepseek2 and others).
_BY_ID = ("tid2eid", "nextn.embed_tokens", "nextn.shared_head_head")
# Graphs that treat embeddings unlike ids, or refuse them (src/models/cogvlm.cpp, granite-switch.cpp).
_OTHER_GRAPHS = frozenset({"cogvlm", "graniteswitch"})
_MASK = "tokenizer.ggml.mask_token_id"

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Trimmed:
    """What came of it: k rows of n_vocab; bytes of the original and of the file that was written."""

    path: Path
    k: int
    n_vocab: int
    coverage: float | None
    before_bytes: int
    after_bytes: int


def trim(source: Path, out: Path, kept: Kept, counts: str, progress: Progress = lambda _: None) -> Trimmed:
    """Write `out` with the kept rows of source's head alone, whole or not at all.

    source: the first part of a split model; kept.ids ascending; counts: what the choice rests on, in words; progress:
    share done.
    Raises what reading a header raises, ModelUnusable for a model whose rows cannot be cut, BadSetting for an `out`
    that cannot be, OSError.
    """
    parts = headers(source)
    check_trimmable(source, parts)
    check_out(out, parts)
    n_vocab = parts[source].lengths[TOKENS]
    ids = np.asarray(kept.ids, np.int32)
    tensors = [_Piece(path, header, t, len(ids)) for path, header in parts.items() for t in header.tensors]
    n_bytes = sum(header.file_bytes for header in parts.values())
    digest = hashlib.sha256()
    for chunk in _chunks(parts):
        digest.update(chunk)
        progress(0.0)
    facts = [
        count_entry(f"{PREFIX}version", VERSION),
        count_entry(f"{PREFIX}n_vocab", n_vocab),
        ids_entry(f"{PREFIX}ids", ids),
        string_entry(f"{PREFIX}source", os.path.relpath(source.absolute(), out.absolute().parent)),
        count_entry(f"{PREFIX}source_bytes", n_bytes, GGUFValueType.UINT64),
        string_entry(f"{PREFIX}mark", mark(parts)),
        string_entry(f"{PREFIX}sha256", digest.hexdigest()),
        string_entry(f"{PREFIX}counts", counts),
        *([] if kept.coverage is None else [float_entry(f"{PREFIX}coverage", kept.coverage)]),
        *([count_entry(f"{PREFIX}follows", 1)] if kept.follows else []),
    ]
    head = _head(source, parts[source], len(ids), facts, tensors)
    with _whole_file(out) as file:
        file.write(head)
        done, total = 0, sum(piece.n_bytes for piece in tensors)
        for piece in tensors:
            for chunk in piece.chunks(ids):
                file.write(chunk)
                done += len(chunk)
                progress(done / total)
            file.write(bytes(-file.tell() % _alignment(parts[source])))
        after = file.tell()
    return Trimmed(out, len(ids), n_vocab, kept.coverage, n_bytes, after)


def check_trimmable(source: Path, parts: Mapping[Path, Header]) -> None:
    """Raises ModelUnusable for a model without vocabulary or embedding, for one trimmed already, and for those whose
    graph looks up more by a token's id than one embedding row (src/models: gemma3n, deepseek4), or asks for more with
    an embedding than its row (several positions a token, further states)."""
    header = parts[source]
    metadata, architecture = header.metadata, str(header.metadata["general.architecture"])
    tensors = {t.name: t for part in parts.values() for t in part.tensors}
    n_vocab = header.lengths.get(TOKENS, 0)
    if f"{PREFIX}version" in metadata:
        raise ModelUnusable(f"{source} is trimmed already; trim its original, {metadata.get(PREFIX + 'source')}")
    if EMBEDDING not in tensors:
        raise ModelUnusable(f"{source} has no head to trim: no {EMBEDDING} is in it; name a whole drafter's .gguf file")
    if not n_vocab or tensors[EMBEDDING].shape[-1] != n_vocab:
        raise ModelUnusable(
            f"{source} has {n_vocab} tokens and an embedding of {tensors[EMBEDDING].shape[-1]} rows, so rows cannot be "
            "told by token; get a complete .gguf file of the model"
        )
    if architecture in _OTHER_GRAPHS:
        raise ModelUnusable(
            f"{source} ({architecture}) treats embeddings unlike tokens, so its head cannot be trimmed; "
            "use another drafter"
        )
    for tensor in tensors.values():
        by_id = tensor.name.startswith("per_layer_token_embd") or any(part in tensor.name for part in _BY_ID)
        outside = not tensor.name.startswith("blk.") and tensor.shape[-1] == n_vocab and len(tensor.shape) > 1
        if by_id or (outside and tensor.name not in _CUT):
            raise ModelUnusable(
                f"{source} ({architecture}) looks up {tensor.name} by token besides its embedding, so its head cannot "
                "be trimmed; use another drafter"
            )
    odd = (f"{architecture}.rope.dimension_sections", f"{architecture}.n_deepstack_layers")
    if found := next((key for key in odd if key in header.entries), None):
        raise ModelUnusable(
            f"{source} ({architecture}) takes more with an input than one row ({found}), so its head cannot be "
            "trimmed; use another drafter"
        )


@dataclass(frozen=True)
class _Piece:
    """A tensor as it will be written: k of its rows, where it is part of the head."""

    path: Path
    header: Header
    tensor: Tensor
    k: int

    @property
    def is_cut(self) -> bool:
        return self.tensor.name in _CUT

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.tensor.shape[:-1], self.k) if self.is_cut else self.tensor.shape

    @property
    def n_bytes(self) -> int:
        return self.row_bytes * self.k if self.is_cut else self.tensor.n_bytes

    @property
    def row_bytes(self) -> int:
        return self.tensor.n_bytes // self.tensor.shape[-1]

    @property
    def start(self) -> int:
        return self.header.data_start + self.tensor.offset

    def chunks(self, ids: np.ndarray) -> Iterator[bytes]:
        if not self.is_cut:
            yield from _read(self.path, self.start, self.tensor.n_bytes)
            return
        shape = (self.tensor.shape[-1], self.row_bytes)
        rows = np.memmap(self.path, np.uint8, "r", self.start, shape)
        n = max(CHUNK_BYTES // self.row_bytes, 1)
        for at in range(0, len(ids), n):
            yield rows[ids[at : at + n]].tobytes()


def _alignment(header: Header) -> int:
    return int(header.metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT))


def _head(source: Path, header: Header, k: int, facts: Iterable[bytes], tensors: Iterable[_Piece]) -> bytes:
    """Everything before the data. Entries are copied as they stand but for those of the vocabulary and of the parts."""
    architecture = str(header.metadata["general.architecture"])
    left_out = ("tokenizer.", "split.", f"{architecture}.vocab_size")
    entries = [raw(source, header, key) for key in header.entries if key == _MASK or not key.startswith(left_out)]
    entries += [string_entry("tokenizer.ggml.model", "no_vocab"), count_entry(f"{architecture}.vocab_size", k), *facts]
    table, offset, align = [], 0, _alignment(header)
    for piece in tensors:
        shape = piece.shape
        table.append(
            text(piece.tensor.name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, piece.tensor.type, offset)
        )
        offset += -(-piece.n_bytes // align) * align
    head = MAGIC + struct.pack("<IQQ", GGUF_VERSION, len(table), len(entries)) + b"".join((*entries, *table))
    return head + bytes(-len(head) % align)


def check_out(out: Path, parts: Mapping[Path, Header]) -> None:
    """Raises BadSetting for a place that cannot be written, or where the drafter itself lies."""
    if not out.absolute().parent.is_dir():
        raise BadSetting(f"there is no folder {out.absolute().parent} to write {out.name} into; make it first")
    if out.is_dir():
        raise BadSetting(f"{out} is a directory; name the file to write with -o OUT.gguf")
    if out.exists() and any(os.path.samefile(out, part) for part in parts):
        raise BadSetting(f"-o {out} is the drafter itself, which a trimmed one goes on reading; name another file")


def _chunks(parts: Iterable[Path]) -> Iterator[bytes]:
    for path in parts:
        yield from _read(path, 0, path.stat().st_size)


def _read(path: Path, start: int, n_bytes: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(start)
        while n_bytes:
            chunk = file.read(min(n_bytes, CHUNK_BYTES))
            if not chunk:
                raise ModelUnusable(
                    f"{path} became shorter while it was read ({n_bytes:,} bytes are missing); try again"
                )
            n_bytes -= len(chunk)
            yield chunk


@contextlib.contextmanager
def _whole_file(out: Path) -> Iterator[BinaryIO]:
    """A file that gets its name once all of it is on the disk; what interrupts leaves nothing of it, and what a killed
    process left is removed."""
    for left in out.parent.glob(f".{glob.escape(out.name)}.*.part"):
        pid = left.name.split(".")[-2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            with contextlib.suppress(OSError):  # it may be another user's
                left.unlink(missing_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, out)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
