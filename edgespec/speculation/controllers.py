"""Who decides what a round drafts and how much of it is verified.

Here: a fixed choice; goodput.py measures and decides.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from edgespec.speculation.acceptance import Acceptance
from edgespec.speculation.places import ByPlace
from edgespec.speculation.sizing import Sized, whole
from edgespec.types import Choice, Ids, Step, TokenTree, Verdict


class Controller(Protocol):
    def choose(self, n_left: int, history: Ids) -> Choice:
        """What the next round drafts; n_left tokens may still be said, history ends with the pending id."""
        ...

    def size(self, choice: Choice, tree: TokenTree, history: Ids) -> Sized:
        """The part of a drafted tree that is worth a pass."""
        ...

    def observe(self, step: Step, tree: TokenTree, verdict: Verdict) -> None:
        """What the verified tree came to; history of this round is step.n_past tokens and the pending one."""
        ...


def fitting(choice: Choice, n_left: int) -> Choice:
    """A choice that drafts no deeper than n_left tokens, the bonus token among them. A chain has no row more than that;
    a tree keeps its rows, which need no room of the conversation's, so that a large one does not shrink with what is
    left of the answer."""
    rows = min(choice.rows, max(n_left, 1)) if choice.width <= 1 or n_left <= 1 else choice.rows
    depth = min(choice.depth, max(n_left - 1, 0))
    return choice if (rows, depth) == (choice.rows, choice.depth) else replace(choice, rows=rows, depth=depth)


class FixedController:
    """Always the same choice, cut to what still fits; what it sees goes into `acceptance`, for the next plan."""

    def __init__(self, choice: Choice, acceptance: Acceptance | ByPlace | None = None) -> None:
        self._choice, self._acceptance = choice, acceptance

    def choose(self, n_left: int, history: Ids) -> Choice:
        return fitting(self._choice, n_left)

    def size(self, choice: Choice, tree: TokenTree, history: Ids) -> Sized:
        return whole(tree)

    def observe(self, step: Step, tree: TokenTree, verdict: Verdict) -> None:
        if self._acceptance is not None:
            self._acceptance.observe(step)
