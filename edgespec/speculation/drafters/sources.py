"""What knows how a text may go on without a model: read positions, guesses, and what they are worth together.

A mixture of what several sources say, with weights by how much each has to go on, fitted online by maximum likelihood
(expectation maximisation, one step a token): a source that knows nothing, or that is often wrong in such a place, fades
there. So its chances are calibrated, and chances are what a tree is grown and sized by.
Not covered: the sources themselves (suffix.py, recycle.py), growth (mix.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgespec.types import Ids


@dataclass(frozen=True)
class Guess:
    """What may come next: chances by token, together at most 1.

    grade  how much there was to go on, 0 for nothing: an index into the source's `trust`
    """

    grade: int
    chances: Mapping[int, float]


NOTHING = Guess(0, {})


class Source(Protocol):
    """Places are the source's own affair; reading has no lasting effect."""

    @property
    def trust(self) -> Sequence[float]:
        """By grade: how much a guess counts against others before anything was seen, 0 for grade 0."""
        ...

    def follow(self, history: Ids) -> Any:
        """The place behind history, which is append-only within an answer; learns what it has not seen of it."""
        ...

    def step(self, place: Any, token: int) -> Any:
        """The place one token further, on a text that may never be said."""
        ...

    def guess(self, place: Any) -> Guess: ...


# What no source foresees is left to an expert that gives every token this chance.
ELSEWHERE = 1e-3
REST = 0.02
# Weight of a new token against what was learnt before, at least; the prior counts as so many tokens.
LEAST_RATE, N_PRIOR = 0.004, 24.0


class Blend:
    """Weights of experts by the grades of the guesses they come from; one row of weights sums to 1.

    weights  float64 [n_cells, n_experts + 1], the last one for what nobody foresees
    """

    def __init__(self, trusts: Sequence[Sequence[float]]) -> None:
        """trusts: for each expert a prior weight by grade, against REST for what nobody foresees."""
        n_grades = [len(trust) for trust in trusts]
        self._strides: list[int] = np.cumprod([1, *n_grades[:-1]]).tolist()
        n_cells, n_experts = int(np.prod(n_grades)), len(n_grades)
        weights = np.array(
            [[*(t[self._grade(cell, i, len(t))] for i, t in enumerate(trusts)), REST] for cell in range(n_cells)]
        )
        self._weights = (weights / weights.sum(axis=1, keepdims=True)).tolist()
        self._seen = [N_PRIOR] * n_cells
        self._n_experts = n_experts

    def _grade(self, cell: int, expert: int, n: int) -> int:
        return cell // self._strides[expert] % n

    def cell(self, guesses: Sequence[Guess]) -> int:
        cell: int = 0
        for guess, stride in zip(guesses, self._strides, strict=True):
            cell += guess.grade * stride
        return cell

    def mix(self, guesses: Sequence[Guess]) -> dict[int, float]:
        """Chances by token, together below 1."""
        mixed: dict[int, float] = {}
        for weight, guess in zip(self._weights[self.cell(guesses)], guesses, strict=False):
            for token, chance in guess.chances.items():
                mixed[token] = mixed.get(token, 0.0) + weight * chance
        return mixed

    def observe(self, guesses: Sequence[Guess], token: int) -> None:
        """The draw where these guesses were made."""
        cell = self.cell(guesses)
        weights = self._weights[cell]
        shares = [w * g.chances.get(token, 0.0) for w, g in zip(weights, guesses, strict=False)]
        shares.append(weights[-1] * ELSEWHERE)
        total = sum(shares)
        self._seen[cell] = seen = self._seen[cell] + 1
        rate = max(1 / seen, LEAST_RATE)
        self._weights[cell] = [w + rate * (s / total - w) for w, s in zip(weights, shares, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Lists of numbers, for a JSON file; `take` reads them back."""
        return {"weights": self._weights, "seen": self._seen}

    def take(self, data: object) -> None:
        """Go on from what `to_dict` wrote; what makes no sense counts as nothing learnt."""
        if not isinstance(data, Mapping):
            return
        try:
            weights, seen = (np.array(data.get(name), np.float64) for name in ("weights", "seen"))
        except (TypeError, ValueError, OverflowError):
            return
        right = (
            weights.shape == np.shape(self._weights)
            and seen.shape == np.shape(self._seen)
            and np.all(np.isfinite(seen))
        )
        if right and np.all(weights >= 0) and np.allclose(weights.sum(axis=1), 1) and np.all(seen >= 1):
            self._weights, self._seen = weights.tolist(), seen.tolist()
