"""What every source of drafts does; no inheritance, sharing is done by passing."""

from __future__ import annotations

from typing import Protocol

from edgespec.speculation.sampling import Noise, Process
from edgespec.types import Choice, Ids, Rows, TokenTree, Verdict


class Drafter(Protocol):
    """Drafts for one slot's conversation."""

    def draft(self, history: Ids, choice: Choice, process: Process, noise: Noise) -> TokenTree:
        """A tree below the last id of history (the pending token), at most choice.rows nodes with it.

        history: every id so far, append-only within an answer; a drafter that was idle, or whose conversation was
        replaced, catches up here. Free of lasting effects on what is learnt.
        """
        ...

    def commit(self, history: Ids, verdict: Verdict) -> None:
        """Take over what was accepted and learn from it; history already ends with verdict.tokens.

        verdict.path: nodes of the tree as it was drafted, whatever part of it was verified.
        """
        ...

    def forget(self) -> None:
        """Drop the conversation, so that the next draft reads it anew; what was learnt from it stays."""
        ...

    def limit(self, window: int | None) -> None:
        """Keep no more than the first few and the last `window` tokens in a cache from the next draft on; None: all.

        A drafter without a cache has nothing to do.
        """
        ...

    def close(self) -> None: ...


class Learner(Protocol):
    """Whatever learns from the target's rows, accepted or not (Token Recycling, arXiv 2408.08696)."""

    def learn(self, history: Ids, tree: TokenTree, rows: Rows) -> None:
        """Look at a verified pass, whoever drafted its tree.

        history: up to and with the pending token that the tree hangs below; rows: one a node, in the tree's order.
        """
        ...
