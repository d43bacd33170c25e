"""How often the b-th child of a walked node was the draw: what the best tree and its worth are computed from.

A narrow tree says nothing about later children, so each rank has its own count of nodes where it could have been seen,
and the chances are products of hazards (Kaplan and Meier, 1958): they sum to at most 1 whatever widths were seen.
Not covered: who drafted (one of these a pair of models), keeping it on disk (store/learnt.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespec.types import Step

N_RANKS = 8

# Demo pair (docs/design.md section 3). Sampled, temperature 0.8 with shared noise: the draw is among the first 1/2/4/8
# children in .73/.87/.95/.98 of positions; best trees of 3/7/15 drafts come to 2.7/3.4/4.1 tokens a pass (seen:
# 2.6/3.3/4.2). Greedy: agreement is .75, a chain's figure; trees spend their rows where the drafter is sure, so that
# more of the nodes a walk comes to agree: chosen so that 3/7/15 drafts come to 3.0/4.3/5.2 (seen: 2.9/4.3/5.6).
PRIORS = {
    "greedy tree": (0.81, 0.085, 0.035, 0.02, 0.01, 0.006, 0.004, 0.003),
    "greedy chain": (0.75,),
    "sampled tree": (0.73, 0.14, 0.05, 0.03, 0.012, 0.008, 0.006, 0.004),
    "sampled chain": (0.73,),
}
# As many imagined nodes: some 20 rounds of a real conversation outweigh them.
PRIOR_WEIGHT = 40.0
# Counts are halved beyond this, so that last month's topic does not outvote today's.
N_MOST = 4000.0


class Acceptance:
    """Counts for one pair of models.

    Greedy and sampled answers are apart, since their ranking differs by the noise, and chains and trees, since a tree
    leaves out the nodes where its drafter is unsure.
    """

    def __init__(self, fall: float = 1.0) -> None:
        """fall: what the priors are multiplied by, for a drafter that is expected to know less."""
        self._priors = {kind: fall * np.array(prior) for kind, prior in PRIORS.items()}
        self._counts = {kind: np.zeros((2, len(prior))) for kind, prior in PRIORS.items()}  # hits, seen

    def observe(self, step: Step) -> None:
        """Count the walk of one round; ranks beyond N_RANKS count as none."""
        hits, seen = counts = self._counts[_kind(step.greedy, step.choice.width)]
        could = min(step.choice.width, len(hits))
        for rank in step.ranks:
            if 0 <= rank < could:
                hits[rank] += 1
                seen[: rank + 1] += 1
            else:
                seen[:could] += 1
        if seen[0] > N_MOST:
            counts /= 2

    def n_seen(self, greedy: bool, width: int = N_RANKS) -> float:
        """Walked nodes behind the figures, older ones counting less."""
        return float(self._counts[_kind(greedy, width)][1, 0])

    def by_rank(self, greedy: bool, width: int = N_RANKS) -> NDArray[np.float64]:
        """float64 [min(width, N_RANKS)]: the share of walked nodes whose draw is the b-th child; together at most 1."""
        kind = _kind(greedy, width)
        prior, (hits, seen) = self._priors[kind], self._counts[kind]
        at_risk = PRIOR_WEIGHT * (1 - np.concatenate([[0.0], np.cumsum(prior)[:-1]]))
        hazard = (PRIOR_WEIGHT * prior + hits) / (at_risk + seen)
        left = np.concatenate([[1.0], np.cumprod(1 - hazard)[:-1]])
        chances: NDArray[np.float64] = hazard * left
        return chances[:width]

    def agreement(self, coverage: float = 1.0) -> float:
        """Chance that the first child of the drafter's whole head is the draw, by the kind of round that was seen most.

        coverage: share of draws that had a row in the head that was seen; others could not be drafted.
        """
        kind = max(self._counts, key=lambda kind: (self._counts[kind][1, 0], kind == "sampled chain"))
        hits, seen = self._counts[kind][:, 0]
        share = hits / seen if seen else 0.0
        whole = share / max(coverage, share) if share else 0.0
        return float((PRIOR_WEIGHT * self._priors[kind][0] + seen * whole) / (PRIOR_WEIGHT + seen))

    def to_dict(self) -> dict[str, Any]:
        """Lists of numbers, for a JSON file; `from_dict` reads them back."""
        return {kind: counts.tolist() for kind, counts in self._counts.items()}


def from_dict(data: Mapping[str, Any] | None, fall: float = 1.0) -> Acceptance:
    """What `to_dict` wrote; whatever part of it is missing or makes no sense counts as nothing seen."""
    found = Acceptance(fall)
    for kind, prior in PRIORS.items():
        counts = _read(data.get(kind) if isinstance(data, Mapping) else None, len(prior))
        if counts is not None:
            found._counts[kind] = counts
    return found


def _kind(greedy: bool, width: int) -> str:
    return f"{'greedy' if greedy else 'sampled'} {'chain' if width <= 1 else 'tree'}"


def _read(part: object, n: int) -> NDArray[np.float64] | None:
    """float64 [2, n] of hits and seen nodes, or None where that is impossible."""
    if not isinstance(part, list) or len(part) != 2 or not all(isinstance(row, list) and len(row) == n for row in part):
        return None
    values = [value for row in part for value in row]
    if not all(type(v) in (int, float) and 0 <= v <= 2 * N_MOST for v in values):
        return None
    hits, seen = counts = np.array(part, np.float64)
    return counts if np.all(hits <= seen) and np.all(np.diff(seen) <= 0) else None
