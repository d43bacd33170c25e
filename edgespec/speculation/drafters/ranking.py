"""How a drafter's rows become children: scored with the target's own noise and settings, best first.

log draft_probs + g ranks the draw itself first wherever the models agree (docs/shared-noise.md); at temperature 0 there
is no g. Not covered: how far scores are to be trusted (agreement.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgespec.speculation.policies import Children
from edgespec.speculation.sampling import Noise, Process
from edgespec.types import Ids, Rows

# Candidates a row is ranked and normalised over.
N_CANDIDATES = 20


@dataclass(frozen=True)
class Scored:
    """Candidates of each row, likeliest first; with noise that is not the order of their scores.

    ids    int32 [m, k]; score floating [m, k], log draft_probs up to a constant a row, plus noise unless greedy; -inf
           where the settings cut the id away
    """

    ids: Ids
    score: NDArray[np.floating]
    greedy: bool


def scored(
    history: Ids,
    paths: Sequence[Sequence[int]],
    rows: Rows,
    positions: Sequence[int],
    process: Process,
    noise: Noise,
    width: int,
) -> Scored:
    """Candidates that may follow history + each path, at least `width` of them where there are so many.

    positions: a row each, the index in the conversation of the token to draw.
    """
    dist = process.candidates(history, paths, rows.logits, rows.ids, max(N_CANDIDATES, width))
    if process.sampling.greedy:
        return Scored(dist.ids, dist.logprob, True)
    return Scored(dist.ids, dist.logprob + noise.gumbel(positions, dist.ids), False)


def children(found: Scored, logprob: NDArray[np.floating], width: int) -> Children:
    """The `width` best of each row by score; logprob [m, k]: their log-chances to be the draw."""
    if found.greedy:  # ranked already
        return Children(found.ids[:, :width].tolist(), logprob[:, :width].tolist())
    best = np.argsort(-found.score, axis=1, kind="stable")[:, :width]
    best += np.arange(0, found.score.size, found.score.shape[1])[:, None]
    return Children(found.ids.take(best).tolist(), logprob.take(best).tolist())


def place_of(token: int, ids: Ids, score: NDArray[np.floating]) -> int | None:
    """Which candidate of one row a token was, None where it was none or cut away."""
    hit = np.flatnonzero((ids == token) & (score > -np.inf))
    return int(hit[0]) if len(hit) else None
