"""How far a drafter's ranking can be trusted, fitted online: the temperature tau that turns scores into chances.

A child's chance to be the target's draw is modelled as hit_rate * softmax((log draft_probs + g) / tau). tau stands for
the disagreement of the pair; the fit is maximum likelihood over a grid, with forgetting. Not covered: persistence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgespec.speculation.sampling import log_softmax

GRID = np.array([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.25, 1.6, 2.0, 3.0])
START = 4  # 0.6
FORGET = 0.995
# As many imagined observations of the starting values as keep the first rounds from jumping.
PRIOR_WEIGHT = 4.0


class Agreement:
    """One per drafter and kind of sampling (greedy or not: their scores differ by the noise)."""

    def __init__(self) -> None:
        self._log_likelihood = -PRIOR_WEIGHT * np.abs(np.log(GRID / GRID[START]))
        self._hits, self._seen = PRIOR_WEIGHT * 0.95, PRIOR_WEIGHT
        self.tau, self.log_hit_rate = float(GRID[START]), float(np.log(0.95))

    def logprob(self, score: NDArray[np.floating]) -> NDArray[np.floating]:
        """Log-chance of each candidate to be the draw; score holds all candidates of one row."""
        return log_softmax(score / self.tau) + self.log_hit_rate

    def observe(self, score: NDArray[np.floating], drawn: int | None) -> None:
        """The draw was candidate number `drawn`, or none of them."""
        self._seen = self._seen * FORGET + 1
        self._hits *= FORGET
        if drawn is not None:
            self._hits += 1
            self._log_likelihood *= FORGET
            self._log_likelihood += log_softmax(score[None, :] / GRID[:, None])[:, drawn]
            self.tau = float(GRID[np.argmax(self._log_likelihood)])
        self.log_hit_rate = float(np.log(min(self._hits / self._seen, 0.999)))


def logprobs(agreements: Sequence[Agreement], score: NDArray[np.floating]) -> NDArray[np.floating]:
    """`logprob` of rows that each have an agreement of their own, [m, k], in one go."""
    tau, log_hit_rate = np.array([(a.tau, a.log_hit_rate) for a in agreements]).T[:, :, None]
    return np.asarray(log_softmax(score / tau) + log_hit_rate)
