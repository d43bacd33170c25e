"""Who decides what a round drafts. Here: a fixed choice; measured ones come with control."""

from __future__ import annotations

from typing import Protocol

from edgespec.speculation.acceptance import Acceptance
from edgespec.types import Choice, Step


class Controller(Protocol):
    def choose(self, n_rows_left: int) -> Choice:
        """What the next round drafts; n_rows_left rows still fit into the context."""
        ...

    def observe(self, step: Step) -> None: ...


class FixedController:
    """Always the same choice, cut to what still fits; what it sees goes into `acceptance`, for the next plan."""

    def __init__(self, choice: Choice, acceptance: Acceptance | None = None) -> None:
        self._choice, self._acceptance = choice, acceptance

    def choose(self, n_rows_left: int) -> Choice:
        c = self._choice
        return c if n_rows_left >= c.rows else Choice(c.drafter, max(n_rows_left, 1), c.depth, c.width)

    def observe(self, step: Step) -> None:
        if self._acceptance is not None:
            self._acceptance.observe(step)
