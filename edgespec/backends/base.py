"""The seam to a runtime: load a model, open a context, evaluate trees, keep a path.

Everything above speaks to `Model` and `Context` only; `fake.py` ships as the exact double for tests and docs.
Not covered: text, sampling, which nodes to draft.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from edgespec.types import Caps, ContextSpec, Ids, Rows, Span

Cancelled = Callable[[], bool]
Progress = Callable[[int, int], None]
# A conversation outside its context; writable, so that runtimes fill and read it in place.
State: TypeAlias = bytearray


class Context(Protocol):
    """KV state of n_slots conversations.

    Between two `keep` calls a slot may evaluate nodes of one tree in several passes (draft growth) or in one
    (verification); node indices must stay the same meanwhile, though the tree may grow at its end.
    """

    @property
    def caps(self) -> Caps: ...

    @property
    def spec(self) -> ContextSpec: ...

    def length(self, slot: int) -> int:
        """Committed tokens of the slot."""
        ...

    def prefill(
        self,
        slot: int,
        tokens: Sequence[int] | Ids,
        progress: Progress | None = None,
        cancelled: Cancelled | None = None,
    ) -> None:
        """Commit tokens in chunks, asking for no logits; progress(done, total) after each chunk.

        Raises errors.Cancelled (what was committed so far stays), NoKvSlot, InvalidBatch, DecodeFailed.
        """
        ...

    def evaluate(self, spans: Sequence[Span], cancelled: Cancelled | None = None) -> Rows:
        """Rows of all spans' nodes but the silent ones, in order, from one pass.

        A node's parent was evaluated since the last `keep` or comes earlier in the same span. cancelled: asked while
        the pass runs, for one that reads much of a prompt.
        Raises NoKvSlot, InvalidBatch, DecodeFailed, Cancelled; InvalidBatch also beyond caps.max_nodes, max_silent or
        max_leaves.
        """
        ...

    def keep(self, slot: int, path: Sequence[int]) -> None:
        """Commit these nodes in order and drop every other evaluated node of the slot.

        A path that goes on past what was evaluated is kept as far as it was.
        """
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Roll back to so many committed tokens; raises InvalidBatch beyond caps.max_rollback."""
        ...

    def export_state(self, slot: int) -> State: ...

    def import_state(self, slot: int, blob: State) -> None:
        """Replace the slot's conversation by an exported one (same model and KV type; any other shape of context).

        Raises DecodeFailed where the runtime refuses it; the slot is empty then.
        """
        ...

    def close(self) -> None: ...


class Model(Protocol):
    """Loaded weights; several contexts may share one."""

    @property
    def name(self) -> str: ...

    @property
    def metadata(self) -> dict[str, str]:
        """Scalar metadata of the file, values as text."""
        ...

    @property
    def n_vocab(self) -> int: ...

    @property
    def n_ctx_train(self) -> int: ...

    @property
    def weight_bytes(self) -> int: ...

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids after which an answer is over."""
        ...

    @property
    def bos_text(self) -> str:
        """Text of the token that opens a sequence, or an empty string."""
        ...

    @property
    def eos_text(self) -> str: ...

    @property
    def adds_bos(self) -> bool:
        """Whether the tokenizer puts the opening token in front by itself."""
        ...

    @property
    def chat_template(self) -> str | None: ...

    def pieces(self) -> list[bytes]:
        """Bytes of each id; empty for control tokens."""
        ...

    def tokenize(self, text: bytes, *, special: bool, add_bos: bool = False) -> list[int]:
        """Ids of UTF-8 text; special: control tokens written out in the text become ids."""
        ...

    def open(self, spec: ContextSpec) -> Context:
        """Raises DoesNotFit where the runtime cannot allocate it."""
        ...

    def close(self) -> None: ...
