"""A drafter with fewer rows in its head, spoken to in ids of the whole vocabulary (VocabTrim, arXiv 2506.22694).

What it kept goes in as an id of its own table, anything else as an embedding row read from the file that it was cut
from. A batch of the runtime is all ids or all rows, so a pass with one unkept token in it goes as rows wholly: both
give the same numbers, and a second pass would read the weights again. Rows go through ggml's own conversion, the one
that a lookup in the graph uses; conversions elsewhere may round a last bit differently. They are read, not mapped: each
one would bring its neighbourhood into the process (66 MB for 128 rows), and a file cut short would kill it.
Not covered: finding the original, and whether it is the right one (gguf/original.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from edgespec.backends.llama_cpp import runtime
from edgespec.errors import BackendError, ModelUnusable
from edgespec.types import Floats, Ids

# Rows kept converted, one place an id: what comes up again and again is read once.
N_CACHED = 512
# Architectures that scale the row of an id by sqrt(n_embd) and leave one that comes in as it is (src/models/gemma3.cpp,
# gemma4.cpp). Others scale both (gemma, gemma2, granite, minicpm, grok) or neither.
_SCALES_IDS_ONLY = frozenset({"gemma3", "gemma4"})


@dataclass(frozen=True)
class Table:
    """Embedding rows in a file: n_vocab rows of row_bytes each from `offset` on, of ggml's type number `kind`."""

    path: Path
    offset: int
    kind: int
    n_vocab: int
    n_embd: int
    row_bytes: int


@dataclass(frozen=True)
class TrimmedHead:
    """ids int32 [k], ascending: the token of each row; vocabulary: the file whose tokenizer and ids are the model's."""

    ids: Ids
    table: Table
    vocabulary: Path
    architecture: str


def input_scale(architecture: str, n_embd: int) -> np.float32:
    """What a row must be multiplied with to be what the graph makes of its id."""
    scale: np.float32 = np.sqrt(np.float32(n_embd)) if architecture in _SCALES_IDS_ONLY else np.float32(1)
    return scale


class Inputs:
    """Turns ids of the whole vocabulary into what the runtime takes; contexts of one model share it."""

    def __init__(self, head: TrimmedHead) -> None:
        """Raises BackendError where ggml cannot convert the rows, OSError where the file cannot be opened."""
        self.ids = head.ids
        self.n_embd = head.table.n_embd
        self._own: Ids = np.full(head.table.n_vocab, -1, np.int32)
        self._own[head.ids] = np.arange(len(head.ids), dtype=np.int32)
        self._rows = EmbeddingRows(head.table, input_scale(head.architecture, self.n_embd))

    def of(self, tokens: Ids) -> tuple[Ids, Floats | None]:
        """The model's own ids, and None; or, where some token has none, a row each, float32 [n, n_embd]."""
        own = self._own[tokens]
        return own, None if own.min(initial=0) >= 0 else self._rows(tokens)

    def close(self) -> None:
        self._rows.close()


def inputs_of(head: TrimmedHead) -> Inputs:
    """Raises BackendError, and ModelUnusable where the original's rows cannot be read."""
    try:
        return Inputs(head)
    except OSError as error:
        raise ModelUnusable(
            f"the rows of {head.table.path.name}, from which this drafter was cut, cannot be read ({error}); "
            "trim that file again, or use another drafter"
        ) from error


class EmbeddingRows:
    """Rows of a table, converted; the last ones asked for stay converted (N_CACHED at most)."""

    def __init__(self, table: Table, scale: np.float32) -> None:
        self._convert = _converter(table)
        self._table = table
        self._file = open(table.path, "rb", buffering=0)  # noqa: SIM115 (open as long as the model is)
        self._scale, self._n_embd = scale, table.n_embd
        self._held: Ids = np.full(N_CACHED, -1, np.int32)
        self._cached: Floats = np.empty((N_CACHED, table.n_embd), np.float32)

    def __call__(self, tokens: Ids) -> Floats:
        """float32 [n, n_embd], a copy."""
        places = tokens % N_CACHED
        rows = self._cached[places]
        missing = np.flatnonzero(self._held[places] != tokens)
        if len(missing):
            rows[missing] = found = self._read(tokens[missing])
            self._held[places[missing]] = tokens[missing]
            self._cached[places[missing]] = found  # of two that share a place the later one is held, in both arrays
        return rows

    def close(self) -> None:
        self._file.close()

    def _read(self, tokens: Ids) -> Floats:
        raw = np.empty((len(tokens), self._table.row_bytes), np.uint8)
        for row, token in zip(raw, tokens.tolist(), strict=True):
            self._file.seek(self._table.offset + token * self._table.row_bytes)
            if self._file.readinto(row.data) != self._table.row_bytes:
                raise BackendError(
                    f"{self._table.path} was cut short while its rows were used; put it back, or trim it again"
                )
        rows = np.empty((len(tokens), self._n_embd), np.float32)
        self._convert(raw.ctypes.data, rows.ctypes.data, rows.size)
        return rows if self._scale == 1 else rows * self._scale


class _Traits(ctypes.Structure):
    """ggml_type_traits of ggml/include/ggml.h."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


@cache
def _traits(kind: int) -> _Traits:
    ggml = runtime.ggml("ggml-base")
    ggml.ggml_get_type_traits.restype, ggml.ggml_get_type_traits.argtypes = ctypes.POINTER(_Traits), [ctypes.c_int]
    found: _Traits = ggml.ggml_get_type_traits(kind).contents
    return found


def _copy(source: int, to: int, n: int) -> None:
    ctypes.memmove(to, source, 4 * n)


def _converter(table: Table) -> Callable[[int, int, int], None]:
    """What turns elements stored at one address into floats at another: (from, to, number)."""
    traits = _traits(table.kind)
    n_bytes = table.n_embd // max(traits.blck_size, 1) * traits.type_size
    if n_bytes != table.row_bytes:
        raise BackendError(
            f"rows of {table.path.name} have {table.row_bytes} bytes and this runtime's type {table.kind} has {n_bytes}"
            "; use another drafter, or install the version of the runtime that edgespec names"
        )
    if traits.to_float:
        return traits.to_float  # type: ignore[no-any-return]
    if (traits.blck_size, traits.type_size) == (1, 4):
        return _copy
    name = (traits.type_name or b"?").decode()
    raise BackendError(f"this runtime cannot read rows of type {name} in {table.path.name}; use another drafter")
