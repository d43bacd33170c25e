"""Who decides what a round drafts and how much of it is verified.

Here: a fixed choice; goodput.py measures and decides.
"""

from __future__ import annotations

from typing import Protocol

from edgespec.speculation.acceptance import Acceptance
from edgespec.speculation.places import ByPlace
from edgespec.speculation.sizing import Sized, whole
from edgespec.types import Choice, Ids, Step, TokenTree, Verdict


class Controller(Protocol):
    def choose(self, n_rows_left: int, history: Ids) -> Choice:
        """What the next round drafts; n_rows_left rows still fit into the context, history ends with the pending id."""
        ...

    def size(self, choice: Choice, tree: TokenTree, history: Ids) -> Sized:
        """The part of a drafted tree that is worth a pass."""
        ...

    def observe(self, step: Step, tree: TokenTree, verdict: Verdict) -> None:
        """What the verified tree came to; history of this round is step.n_past tokens and the pending one."""
        ...


class FixedController:
    """Always the same choice, cut to what still fits; what it sees goes into `acceptance`, for the next plan."""

    def __init__(self, choice: Choice, acceptance: Acceptance | ByPlace | None = None) -> None:
        self._choice, self._acceptance = choice, acceptance

    def choose(self, n_rows_left: int, history: Ids) -> Choice:
        c = self._choice
        return c if n_rows_left >= c.rows else Choice(c.drafter, max(n_rows_left, 1), c.depth, c.width)

    def size(self, choice: Choice, tree: TokenTree, history: Ids) -> Sized:
        return whole(tree)

    def observe(self, step: Step, tree: TokenTree, verdict: Verdict) -> None:
        if self._acceptance is not None:
            self._acceptance.observe(step)
