"""How likely a drawn child is to be accepted, fitted online: what grow_drawn spends rows by.

Draft probabilities alone, as DySpec takes them, are far off: a first child is a draw from nearly the target's
distribution and is mostly accepted however unlikely it was, while later ones are tried against a residual that the
draft does not know. So each of the two has its own curve over the child's probability at its turn. Not covered:
persistence; the fit only shapes trees, never what is said.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EDGES = np.array([0.05, 0.2, 0.5, 0.9])
# Demo pair at temperature 0.8: first children, later ones, by probability.
PRIORS = np.array([[0.5, 0.72, 0.78, 0.8, 0.94], [0.12, 0.15, 0.35, 0.55, 0.8]])
# As many imagined children of each kind, so that the first rounds do not jump.
PRIOR_WEIGHT = 20.0
FORGET = 0.998
# A child that is never rejected would leave its later siblings no chance at all.
MOST = 0.99


class Chances:
    """Counts of one pair of models, by (first or later child, probability at its turn)."""

    def __init__(self) -> None:
        self._hits, self._seen = PRIOR_WEIGHT * PRIORS, np.full(PRIORS.shape, PRIOR_WEIGHT)

    def of(self, prob: NDArray[np.float64]) -> NDArray[np.float64]:
        """The chance of each child to be accepted at its turn; prob [m, w] as without_replacement gives it, 0 where
        there is no child, and so its chance."""
        later = (np.arange(prob.shape[1]) > 0).astype(int)
        table = np.minimum(self._hits / self._seen, MOST)
        return np.asarray(np.where(prob > 0, table[later, np.digitize(prob, EDGES)], 0.0))

    def observe(self, prob: list[float], accepted: int | None) -> None:
        """Children with these probabilities were tried in turn; all were rejected, but for number `accepted`."""
        for rank, value in enumerate(prob if accepted is None else prob[: accepted + 1]):
            at = min(rank, 1), int(np.digitize(value, EDGES))
            self._hits[at] = self._hits[at] * FORGET + (rank == accepted)
            self._seen[at] = self._seen[at] * FORGET + 1
