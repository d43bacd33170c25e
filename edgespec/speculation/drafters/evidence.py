"""What sources say about a drafter's candidates: evidence beside its own scores (a logarithmic opinion pool).

score(x) = drafter's score(x) + weight * log(chance(x) / floor) for what a source named, and no change for what it did
not: with weight 0 the drafter is left as it is, so that a source that does not help does not harm. The weight depends on
how sure the sources are, and follows the gradient of the likelihood of what was drawn.
Not covered: the sources' chances (sources.py).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespec.types import Ids

# Sources' surest chance, and the weight that evidence of so much begins with.
SURETY = (0.1, 0.3, 0.6, 0.85)
START = (0.05, 0.1, 0.2, 0.3, 0.4)
RATE, MOST = 0.02, 1.5
FLOOR = 0.02
# A token that only a source named has the drafter's worst listed score, less this.
UNLISTED = 0.5


class Evidence:
    """Weights by surety."""

    def __init__(self) -> None:
        self.weights = list(START)

    def add(
        self, ids: Ids, score: NDArray[np.floating], said: Mapping[int, float]
    ) -> tuple[Ids, NDArray[np.floating], NDArray[np.floating]]:
        """Ids and scores with evidence, and the evidence itself (natural logarithms), tokens of the sources behind.

        ids int32 [k], score [k] of the drafter's row, -inf where a cut took the token away.
        """
        if not said:
            return ids, score, np.zeros(len(score))
        row = ids.tolist()
        more = [token for token in said if token not in row]
        if more:
            ids = np.concatenate([ids, np.array(more, np.int32)])
            score = np.concatenate([score, np.full(len(more), score[score > -np.inf].min() - UNLISTED)])
        named = [math.log(max(said[token] / FLOOR, 1.0)) if token in said else 0.0 for token in (*row, *more)]
        evidence = np.array(named)
        return ids, score + self.weights[self._at(said)] * evidence, evidence

    def observe(self, said: Mapping[int, float], evidence: NDArray[np.floating], chances: Any, drawn: int) -> None:
        """One step up the likelihood; chances: of each candidate as they were, summing to 1; drawn: its place."""
        if said:
            at = self._at(said)
            slope = float(evidence[drawn] - (chances * evidence).sum())
            self.weights[at] = min(max(self.weights[at] + RATE * slope, 0.0), MOST)

    def take(self, weights: object) -> None:
        """Go on from weights that were kept; what makes no sense counts as nothing learnt."""
        if isinstance(weights, Sequence) and len(weights) == len(START):
            if all(type(w) in (int, float) and 0 <= w <= MOST for w in weights):
                self.weights = [float(w) for w in weights]

    @staticmethod
    def _at(said: Mapping[int, float]) -> int:
        return bisect_right(SURETY, max(said.values()))
