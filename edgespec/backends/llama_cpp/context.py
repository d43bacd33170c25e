"""A llama.cpp context that evaluates token trees: one unified KV cache, one sequence id a leaf, rows read in place.

Not covered: which load options this host survives (selftest.py), loading weights (model.py), recurrent rollback by
snapshots (such models are opened without trees and decode plainly).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import ArrayLike

from edgespec.backends.base import Cancelled as CancelledCheck
from edgespec.backends.base import Progress, State
from edgespec.backends.llama_cpp import figures, pages
from edgespec.backends.llama_cpp.batch import Batch
from edgespec.backends.llama_cpp.dimensions import EXACT_F16_ROWS, dimensions
from edgespec.backends.llama_cpp.parameters import open_context
from edgespec.backends.llama_cpp.runtime import log
from edgespec.backends.llama_cpp.sequences import Sequences
from edgespec.backends.llama_cpp.trimmed import Inputs
from edgespec.errors import (
    BackendError,
    Cancelled,
    DecodeFailed,
    InvalidBatch,
    NoKvSlot,
)
from edgespec.types import Caps, ContextSpec, Floats, Ids, Rows, Span


class LlamaContext:
    """Owns the llama_context pointer; the model must outlive it. figures: what the runtime says its buffers take."""

    def __init__(
        self,
        model: ctypes.c_void_p,
        spec: ContextSpec,
        *,
        n_vocab: int,
        trees: bool,
        exact_holds: bool,
        inputs: Inputs | None = None,
    ) -> None:
        """n_vocab: columns of a row; exact_holds: the self-test found the recipe of `spec.exact` to hold on this host;
        inputs: of a trimmed head, whose columns are not ids."""
        self._dims = dims = dimensions(spec, trees)
        self._pads, self._helper = dims.pads, dims.helper
        self.spec = spec
        self.caps = Caps(
            max_nodes=dims.max_nodes,
            max_silent=0 if spec.exact else spec.n_ubatch,
            max_leaves=dims.max_leaves,
            trees=trees,
            max_rollback=None if trees else 0,
            state_copy=True,
            exact=spec.exact and exact_holds,
        )
        self._n_vocab = n_vocab
        self._closed = False
        self._ptr = open_context(model, spec, dims)
        self.figures = figures.read(log.lines())
        self._memory = lib.llama_get_memory(self._ptr)
        self._seqs = Sequences(self._memory, spec.n_slots, dims.n_spare, dims.first_spare)
        self._inputs = inputs
        self._batch = Batch(dims.n_batch, inputs.n_embd if inputs else 0)
        self._view_at = 0
        self._view: Floats = np.zeros((0, n_vocab), np.float32)

    def length(self, slot: int) -> int:
        return self._seqs.slots[slot].length

    def prefill(
        self,
        slot: int,
        tokens: Sequence[int] | Ids,
        progress: Progress | None = None,
        cancelled: CancelledCheck | None = None,
    ) -> None:
        self._check_open()
        state = self._seqs.slots[slot]
        ids = np.asarray(tokens, np.int32)
        if state.seq_of:
            raise InvalidBatch("prefill while a tree is being evaluated; keep a path first")
        if state.length + len(ids) > self.spec.n_ctx:
            raise NoKvSlot(
                f"{state.length + len(ids)} tokens do not fit into a context of {self.spec.n_ctx}; raise --context"
            )
        done = 0
        with _aborting(self._ptr, cancelled):
            for size in self._chunks(len(ids)):
                pos = np.arange(state.length, state.length + size)
                self._fill(ids[done : done + size], pos, state.seq, n_silent=size)
                try:
                    self._decode()
                except (BackendError, Cancelled):
                    lib.llama_memory_seq_rm(self._memory, state.seq, state.length, -1)
                    raise
                state.length += size
                done += size
                if progress:
                    progress(done, len(ids))
                if done < len(ids) and cancelled and cancelled():
                    raise Cancelled("stopped while reading the prompt")

    def _chunks(self, n: int) -> list[int]:
        """Sizes of prefill passes: as wide as allowed, and under --exact with f16 KV never a lone last row."""
        width = EXACT_F16_ROWS[1] if self._pads else self.spec.n_ubatch
        sizes = [width] * (n // width) + ([n % width] if n % width else [])
        if self._pads and len(sizes) > 1 and sizes[-1] == 1:
            sizes[-2:] = [width - 1, 2]
        return sizes

    def evaluate(self, spans: Sequence[Span], cancelled: CancelledCheck | None = None) -> Rows:
        self._check_open()
        tokens: list[int] = []
        pos: list[int] = []
        seqs: list[list[int]] = []
        silent = 0
        try:
            for span in spans:
                self._check(span, first=span is spans[0])
                silent += span.n_silent
                tokens.extend(span.tree.token[span.nodes].tolist())
                depths = span.tree.depth[span.nodes]
                pos.extend((depths.astype(np.int32) + self.length(span.slot)).tolist())
                seqs.extend(self._seqs.place(span))
            self._fill(np.array(tokens, np.int32), pos, seqs, n_silent=silent)
            with _aborting(self._ptr, cancelled):
                self._decode()
        except (BackendError, Cancelled):
            for span in spans:
                self._drop(span.slot)
            raise
        return Rows(self._logits(len(tokens) - silent), self._inputs.ids if self._inputs else None)

    def _fill(self, tokens: Ids, pos: ArrayLike, seqs: int | Sequence[Sequence[int]], n_silent: int) -> None:
        rows = None
        if self._inputs is not None:
            tokens, rows = self._inputs.of(tokens)
        self._batch.fill(tokens, pos, seqs, n_silent, rows)

    def _check_open(self) -> None:
        """The runtime would read freed memory."""
        if self._closed:
            raise BackendError("this model was closed; open it again before asking it for more")

    def _check(self, span: Span, first: bool) -> None:
        if len(span.nodes) == 0:
            raise InvalidBatch("a pass without nodes")
        n_rows = len(span.nodes) - span.n_silent
        if n_rows > self.caps.max_nodes:
            raise InvalidBatch(f"{n_rows} rows in one pass but the context was opened for {self.caps.max_nodes}")
        if span.n_silent > max(self.caps.max_silent, self.caps.max_nodes - n_rows):
            raise InvalidBatch(f"{span.n_silent} silent nodes in one pass; at most {self.caps.max_silent} may be")
        if span.n_silent and not first:
            raise InvalidBatch("only the first span of a pass may have silent nodes")
        known = self._seqs.slots[span.slot].seq_of
        if known and any(int(n) in known for n in span.nodes):
            raise InvalidBatch("a node was evaluated twice")

    def _decode(self) -> None:
        batch = self._batch.struct
        padded = self._pads and batch.n_tokens == 1
        if padded and self._helper is not None:
            self._batch.append_twin(self._helper)
        log.clear()
        code = lib.llama_decode(self._ptr, batch)
        if padded:
            lib.llama_memory_seq_rm(self._memory, self._helper, -1, -1)
        if code == 0:
            return
        n, why = batch.n_tokens, log.reason()
        if code == 1:
            raise NoKvSlot(f"no room for {n} rows in a context of {self.spec.n_ctx}; raise --context or lower --nodes")
        if code == 2:
            raise Cancelled("stopped inside a pass")
        if code == -1:
            raise InvalidBatch(f"the runtime refused a pass of {n} rows: {why}")
        raise DecodeFailed(f"the runtime failed on a pass of {n} rows (code {code}): {why}")

    def _logits(self, n: int) -> Floats:
        """Rows of the last pass; the view is rebuilt only when the runtime moved its buffer."""
        address = ctypes.cast(lib.llama_get_logits(self._ptr), ctypes.c_void_p).value or 0
        if address != self._view_at or n > len(self._view):
            kind = ctypes.c_float * (n * self._n_vocab)
            self._view = np.ctypeslib.as_array(kind.from_address(address)).reshape(n, self._n_vocab)
            self._view_at = address
        return self._view[:n]

    def keep(self, slot: int, path: Sequence[int]) -> None:
        self._check_open()
        state = self._seqs.slots[slot]
        kept = [int(n) for n in path]
        n_known = next((i for i, n in enumerate(kept) if n not in state.seq_of), len(kept))
        del kept[n_known:]
        in_order = kept == state.order[: len(kept)]
        if self._helper is None or in_order or not kept:
            self._seqs.commit(slot, kept)
        else:
            self._commit_in_order(slot, kept)

    def _commit_in_order(self, slot: int, kept: list[int]) -> None:
        """Commit with the rows moved next to each other: attention adds cells up in cache order, and a rejected
        sibling's cell, filled later, would put the past out of order (docs/design.md section 8)."""
        state, helper = self._seqs.slots[slot], self._helper
        start, end = state.length, state.length + len(kept)
        lib.llama_memory_seq_cp(self._memory, state.seq_of[kept[-1]], helper, start, end)
        blob = self._blob(int(helper or 0))
        self._drop(slot)
        lib.llama_memory_seq_rm(self._memory, helper, -1, -1)
        self._set_blob(int(helper or 0), blob)
        lib.llama_memory_seq_cp(self._memory, helper, state.seq, start, end)
        lib.llama_memory_seq_rm(self._memory, helper, -1, -1)
        state.length = end

    def _drop(self, slot: int) -> None:
        state = self._seqs.slots[slot]
        lib.llama_memory_seq_rm(self._memory, state.seq, state.length, -1)
        self._seqs.forget_tree(slot)

    def truncate(self, slot: int, length: int) -> None:
        self._check_open()
        state = self._seqs.slots[slot]
        if length > state.length:
            raise InvalidBatch(f"cannot roll {state.length} tokens back to {length}")
        if length == state.length and not state.seq_of:
            return
        if not self._seqs.truncate(slot, length) and length > 0:
            raise InvalidBatch(f"this model's state cannot be rolled back from {state.length} to {length} tokens")

    def export_state(self, slot: int) -> State:
        self._check_open()
        return self._blob(self._seqs.slots[slot].seq)

    def import_state(self, slot: int, blob: State) -> None:
        self.truncate(slot, 0)
        state = self._seqs.slots[slot]
        self._set_blob(state.seq, blob)
        state.length = int(lib.llama_memory_seq_pos_max(self._memory, state.seq)) + 1

    def _blob(self, seq: int) -> bytearray:
        buffer = bytearray(lib.llama_state_seq_get_size(self._ptr, seq))
        if lib.llama_state_seq_get_data(self._ptr, _bytes(buffer), len(buffer), seq) != len(buffer):
            raise DecodeFailed(f"the runtime could not copy {len(buffer)} bytes of state: {log.reason()}")
        return buffer

    def _set_blob(self, seq: int, blob: State) -> None:
        if lib.llama_state_seq_set_data(self._ptr, _bytes(blob), len(blob), seq) == 0:
            lib.llama_memory_seq_rm(self._memory, seq, -1, -1)
            raise DecodeFailed(f"the runtime refused {len(blob)} bytes of saved state: {log.reason()}")

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            lib.llama_free(self._ptr)
            self._view = np.zeros((0, self._n_vocab), np.float32)
            pages.trim()


def _bytes(blob: State) -> ctypes.Array[ctypes.c_uint8]:
    return (ctypes.c_uint8 * len(blob)).from_buffer(blob)  # in place: it may be as large as what is free


class _aborting:
    """Lets `cancelled` stop a pass from inside while prompts are read; the runtime asks it once a graph node."""

    def __init__(self, ptr: ctypes.c_void_p, cancelled: CancelledCheck | None) -> None:
        self._ptr, self._cancelled = ptr, cancelled

    def __enter__(self) -> None:
        if self._cancelled:
            check = self._cancelled
            self._callback = lib.ggml_abort_callback(lambda _: check())
            lib.llama_set_abort_callback(self._ptr, self._callback, None)

    def __exit__(self, *_: object) -> None:
        if self._cancelled:
            lib.llama_set_abort_callback(self._ptr, lib.ggml_abort_callback(), None)
