"""The arrays of a llama_batch, owned by numpy: a pass is filled with a few vector writes, never per element.

What goes in are ids, or embedding rows in their place where a trimmed head has no ids for them (trimmed.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import ArrayLike

from edgespec.types import Floats, Ids


def _pointer(array: np.ndarray, kind: type) -> object:
    return array.ctypes.data_as(ctypes.POINTER(kind))


class Batch:
    """Room for `capacity` tokens, each in any number of sequences; `struct` is what llama_decode takes."""

    def __init__(self, capacity: int, n_embd: int = 0) -> None:
        """n_embd: width of the rows that may go in, 0 for a model that takes ids only."""
        self.token: Ids = np.zeros(capacity, np.int32)
        self.pos: Ids = np.zeros(capacity, np.int32)
        self.n_seq: Ids = np.ones(capacity, np.int32)
        self.wants_row = np.zeros(capacity, np.int8)
        self._seq_address = np.zeros(capacity + 1, np.uintp)
        self._seq: Ids = np.zeros(capacity, np.int32)
        self._rows: Floats = np.zeros((capacity if n_embd else 0, n_embd), np.float32)
        self.struct = lib.llama_batch(
            n_tokens=0,
            token=_pointer(self.token, ctypes.c_int32),
            embd=None,
            pos=_pointer(self.pos, ctypes.c_int32),
            n_seq_id=_pointer(self.n_seq, ctypes.c_int32),
            seq_id=ctypes.cast(self._seq_address.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=_pointer(self.wants_row, ctypes.c_int8),
        )

    def fill(
        self,
        tokens: ArrayLike,
        pos: ArrayLike,
        seqs: int | Sequence[Sequence[int]],
        n_silent: int,
        rows: Floats | None = None,
    ) -> None:
        """Tokens at positions; the first n_silent get no row.

        seqs: one sequence for all of them, or the sequences of each token; rows: go in instead of the tokens.
        """
        n = self.struct.n_tokens = len(tokens)  # type: ignore[arg-type]
        if len(self._rows):
            self._take(rows)
        self.token[:n] = tokens
        self.pos[:n] = pos
        self.wants_row[:n_silent] = 0
        self.wants_row[n_silent:n] = 1
        if isinstance(seqs, int):
            self.n_seq[:n] = 1
            self._seq[0] = seqs
            self._seq_address[:n] = self._seq.ctypes.data
            return
        self.n_seq[:n] = [len(s) for s in seqs]
        flat = [s for node in seqs for s in node]
        if len(flat) > len(self._seq):
            self._seq = np.zeros(2 * len(flat), np.int32)
        self._seq[: len(flat)] = flat
        self._seq_address[0] = self._seq.ctypes.data
        np.cumsum(self.n_seq[: n - 1] * 4, out=self._seq_address[1:n], dtype=np.uintp)
        self._seq_address[1:n] += self._seq_address[0]

    def _take(self, rows: Floats | None) -> None:
        """One of the two pointers must be null: it says what the batch holds."""
        if rows is not None:
            self._rows[: len(rows)] = rows
        self.struct.token = None if rows is not None else _pointer(self.token, ctypes.c_int32)  # type: ignore[assignment]
        self.struct.embd = None if rows is None else _pointer(self._rows, ctypes.c_float)  # type: ignore[assignment]

    def append_twin(self, seq: int) -> None:
        """A second row like the first, in a sequence of its own: it makes a lone row a pass of two, up to the head."""
        n = self.struct.n_tokens
        self._one = np.array([seq], np.int32)
        self.token[n], self.pos[n], self.n_seq[n], self.wants_row[n] = self.token[0], 0, 1, self.wants_row[0]
        self._seq_address[n] = self._one.ctypes.data
        self.struct.n_tokens = n + 1
