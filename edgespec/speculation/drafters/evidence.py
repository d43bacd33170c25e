"""What sources say about a drafter's candidates: evidence beside its own scores (a logarithmic opinion pool).

score(x) = drafter's score(x) + sum over sources of weight * log(chance(x) / FLOOR) for what a source named, and no
change for what it did not: with weight 0 the drafter is left as it is, so that a source that does not help does not
harm. Weights go by source and grade and follow the gradient of the likelihood of what was drawn. On dev prompts a short
match that contradicts the drafter is right once in ten times, one of eight tokens more often than the drafter
(benchmarks/LOG.md): that is where weights begin. Not covered: the sources' chances (sources.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespec.speculation.drafters.sources import Guess
from edgespec.types import Ids

RATE, MOST = 0.02, 1.5
FLOOR = 0.02
MOST_EVIDENCE = -math.log(FLOOR)
# A token that only a source named takes part where its evidence is this strong, with the drafter's worst listed score,
# less UNLISTED: weaker ones crowd out the drafter's own, the more so with noise (benchmarks/LOG.md).
STRONG, UNLISTED = 1.5, 1.0
# Evidence of this strength is a copy that needs no row of the drafter.
SURE = 2.9


class Evidence:
    """Weights by source and grade, beginning with what the sources say of themselves (Source.trust)."""

    def __init__(self, trusts: Sequence[Sequence[float]]) -> None:
        self.weights = [[min(trust, MOST) for trust in source] for source in trusts]

    def add(
        self, ids: Ids, score: NDArray[np.floating], guesses: Sequence[Guess]
    ) -> tuple[Ids, NDArray[np.floating], NDArray[np.float64]]:
        """Ids and scores with evidence, and the evidence of each source [n_sources, k]; tokens it adds come last.

        ids int32 [k], score [k] of the drafter's row, best first, -inf where a cut took the token away: those are left
        out.
        """
        row = ids[score > -np.inf].tolist()
        ids, score = ids[: len(row)], score[: len(row)]
        more = [t for s, g in enumerate(guesses) for t in self._named(s, g, STRONG) if t not in row]
        if more:
            more = list(dict.fromkeys(more))
            ids = np.concatenate([ids, np.array(more, np.int32)])
            score = np.concatenate([score, np.full(len(more), score.min() - UNLISTED)])
        evidence = np.zeros((len(guesses), len(ids)))
        place = {token: i for i, token in enumerate((*row, *more))}
        for source, guess in enumerate(guesses):
            for token, chance in guess.chances.items():
                if token in place and chance > FLOOR:
                    evidence[source, place[token]] = math.log(chance / FLOOR)
        weights = [self.weights[source][guess.grade] for source, guess in enumerate(guesses)]
        return ids, score + np.array(weights) @ evidence, evidence

    def sure(self, guesses: Sequence[Guess]) -> bool:
        """Whether a source is surer than a drafter's row could make it."""
        return any(self._named(source, guess, SURE) for source, guess in enumerate(guesses))

    def _named(self, source: int, guess: Guess, strength: float) -> list[int]:
        weight = self.weights[source][guess.grade]
        if weight * MOST_EVIDENCE < strength:
            return []
        return [t for t, chance in guess.chances.items() if chance > FLOOR * math.exp(strength / weight)]

    def observe(self, guesses: Sequence[Guess], evidence: NDArray[np.floating], chances: Any, drawn: int) -> None:
        """One step up the likelihood; chances: of each candidate as they were, summing to 1; drawn: its place."""
        slopes = evidence[:, drawn] - evidence @ chances
        for source, guess in enumerate(guesses):
            if guess.grade:
                weights = self.weights[source]
                weights[guess.grade] = min(max(weights[guess.grade] + RATE * float(slopes[source]), 0.0), MOST)

    def take(self, weights: object) -> None:
        """Go on from weights that were kept; what makes no sense counts as nothing learnt."""
        if not isinstance(weights, list) or not all(isinstance(source, list) for source in weights):
            return
        if [len(source) for source in weights] != [len(source) for source in self.weights]:
            return
        if all(type(w) in (int, float) and 0 <= w <= MOST for source in weights for w in source):
            self.weights = [[float(w) for w in source] for source in weights]
