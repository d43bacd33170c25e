"""An exact tiny model: the row after a text is looked up by its last tokens, so nothing depends on width or order.

Ships with the package: tests and docs use it, and engine time is measured on it, because a look-up costs nothing.
The context enforces the protocol of base.py to the letter, so that a caller's mistake fails here first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgespec.backends.base import State
from edgespec.errors import Cancelled, InvalidBatch, NoKvSlot
from edgespec.types import Caps, ContextSpec, Floats, Ids, Rows, Span

N_TABLE = 509


@dataclass
class FakeModel:
    """Rows drawn once from a seeded normal distribution, sharpened by `scale`; `order` tokens choose the row.

    table  float32 [N_TABLE, n_vocab]; `perturbed` gives a drafter that partly agrees
    """

    n_vocab: int = 64
    seed: int = 0
    order: int = 2
    scale: float = 2.0
    end_ids: frozenset[int] = frozenset({0})
    n_ctx_train: int = 4096
    table: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    name: str = "fake"

    def __post_init__(self) -> None:
        if not len(self.table):
            rng = np.random.default_rng(self.seed)
            self.table = rng.standard_normal((N_TABLE, self.n_vocab)).astype(np.float32) * self.scale

    def perturbed(self, noise: float, seed: int = 1) -> FakeModel:
        """The same model seen through noise: a drafter whose rows differ by `noise` standard deviations of a logit."""
        rng = np.random.default_rng(seed)
        other = self.table + noise * rng.standard_normal(self.table.shape).astype(np.float32)
        return FakeModel(self.n_vocab, self.seed, self.order, self.scale, self.end_ids, table=other, name="fake-draft")

    def row_index(self, text: Sequence[int]) -> int:
        """Which row of the table follows a text."""
        index = 17
        for token in text[-self.order :]:
            index = (index * 1_000_003 + int(token) + 1) % (2**31 - 1)
        return index % len(self.table)

    @property
    def metadata(self) -> dict[str, str]:
        return {"general.name": self.name}

    weight_bytes = 0
    bos_text = eos_text = ""
    adds_bos = False
    chat_template: str | None = None

    def pieces(self) -> list[bytes]:
        """Ids below 256 are bytes, the end ids say nothing, the rest spell their number."""
        return [b"" if i in self.end_ids else bytes([i]) if i < 256 else f"<{i}>".encode() for i in range(self.n_vocab)]

    def tokenize(self, text: bytes, *, special: bool, add_bos: bool = False) -> list[int]:
        return [b % self.n_vocab for b in text]

    def open(self, spec: ContextSpec) -> FakeContext:
        return FakeContext(self, spec)

    def close(self) -> None:
        self.table = self.table[:0]


@dataclass
class _Slot:
    tokens: list[int] = field(default_factory=list)
    nodes: dict[int, list[int]] = field(default_factory=dict)


class FakeContext:
    """Texts instead of caches; n_passes, n_rows, n_silent and n_prefilled count what a runtime would have done."""

    def __init__(self, model: FakeModel, spec: ContextSpec) -> None:
        self._model = model
        self.spec = spec
        n_silent = 0 if spec.exact else spec.n_ubatch
        self.caps = Caps(
            spec.max_nodes, n_silent, spec.max_leaves, True, max_rollback=None, state_copy=True, exact=True
        )
        self._slots = [_Slot() for _ in range(spec.n_slots)]
        self.n_passes = self.n_rows = self.n_prefilled = self.n_silent = 0

    def length(self, slot: int) -> int:
        return len(self._slots[slot].tokens)

    def prefill(
        self,
        slot: int,
        tokens: Sequence[int] | Ids,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        state = self._slots[slot]
        if state.nodes:
            raise InvalidBatch("prefill while a tree is being evaluated; keep a path first")
        if len(state.tokens) + len(tokens) > self.spec.n_ctx:
            raise NoKvSlot(f"{len(state.tokens) + len(tokens)} tokens do not fit into a context of {self.spec.n_ctx}")
        for start in range(0, len(tokens), self.spec.n_ubatch):
            if cancelled and cancelled():
                raise Cancelled("stopped while reading the prompt")
            chunk = [int(t) for t in tokens[start : start + self.spec.n_ubatch]]
            state.tokens += chunk
            self.n_prefilled += len(chunk)
            if progress:
                progress(start + len(chunk), len(tokens))

    def evaluate(self, spans: Sequence[Span], cancelled: Callable[[], bool] | None = None) -> Rows:
        picked: list[int] = []
        if cancelled and cancelled():
            raise Cancelled("stopped inside a pass")
        for span in spans:
            n_rows = len(span.nodes) - span.n_silent
            if not 0 < n_rows <= self.caps.max_nodes:
                raise InvalidBatch(f"{n_rows} rows in one pass, opened for 1 to {self.caps.max_nodes}")
            if span.n_silent > max(self.caps.max_silent, self.caps.max_nodes - n_rows):
                raise InvalidBatch(f"{span.n_silent} silent nodes in one pass, at most {self.caps.max_silent}")
            for i, node in enumerate(int(n) for n in span.nodes):
                text = self._enter(span, node)
                if i >= span.n_silent:
                    picked.append(self._model.row_index(text))
            known = self._slots[span.slot].nodes
            n_leaves = len(known.keys() - set(span.tree.parent[list(known)].tolist()))
            if n_leaves > self.caps.max_leaves:
                raise InvalidBatch(f"a tree of {n_leaves} leaves in a context opened for {self.caps.max_leaves}")
            self.n_silent += span.n_silent
        self.n_passes += 1
        self.n_rows += len(picked)
        rows = self._model.table[picked[0]][None] if len(picked) == 1 else self._model.table[picked]
        return Rows(rows)

    def _enter(self, span: Span, node: int) -> list[int]:
        state = self._slots[span.slot]
        if node in state.nodes:
            raise InvalidBatch(f"node {node} was evaluated twice")
        parent = int(span.tree.parent[node])
        if parent >= 0 and parent not in state.nodes:
            raise InvalidBatch(f"node {node} was sent before its parent {parent} was evaluated")
        before = state.nodes[parent] if parent >= 0 else state.tokens[-self._model.order :]
        text = [*before[-self._model.order :], int(span.tree.token[node])]
        state.nodes[node] = text
        return text

    def keep(self, slot: int, path: Sequence[int]) -> None:
        state = self._slots[slot]
        for node in path:
            if int(node) not in state.nodes:
                break
            state.tokens.append(state.nodes[int(node)][-1])
        state.nodes.clear()
        if len(state.tokens) > self.spec.n_ctx:
            raise NoKvSlot(f"{len(state.tokens)} tokens do not fit into a context of {self.spec.n_ctx}")

    def truncate(self, slot: int, length: int) -> None:
        state = self._slots[slot]
        if length > len(state.tokens):
            raise InvalidBatch(f"cannot roll {len(state.tokens)} tokens back to {length}")
        del state.tokens[length:]
        state.nodes.clear()

    def export_state(self, slot: int) -> State:
        return bytearray(np.array(self._slots[slot].tokens, np.int32).tobytes())

    def import_state(self, slot: int, blob: State) -> None:
        self._slots[slot] = _Slot(np.frombuffer(blob, np.int32).tolist())

    def close(self) -> None:
        self._slots.clear()
