"""Acceptance by place: what a parallel drafter's figures need, whose later rows know less of the text before them.

One Acceptance (acceptance.py) for each place in the block; the walk of a round says how far each place got.
Not covered: which depth pays (memory/arms.py weighs it with what passes cost).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespec.speculation.acceptance import Acceptance, from_dict
from edgespec.types import Step

# Places that are planned for: PARD (arXiv 2504.18583) and the demo family are taught blocks of 8.
N_PLACES = 8
# A place agrees so much less than the one before: of a drafter taught for a minute .68, .36, .17, .14 of walked nodes
# were the draw at the first places (docs/parallel.md). What is seen of better ones outweighs it.
FALL = 0.55


class ByPlace:
    """Counts for one pair of models; steps of other drafters are the caller's to leave out."""

    def __init__(self, places: tuple[Acceptance, ...] | None = None) -> None:
        self._places = places or tuple(Acceptance(FALL**place) for place in range(N_PLACES))

    def observe(self, step: Step) -> None:
        """Count the walk of one round: the rank at depth j + 1 belongs to place j."""
        for place, rank in zip(self._places, step.ranks, strict=False):
            place.observe(replace(step, ranks=(rank,)))

    def by_rank(self, greedy: bool, width: int) -> NDArray[np.float64]:
        """float64 [N_PLACES, ranks]: the share of nodes walked to at a place whose draw is the b-th child."""
        return np.stack([place.by_rank(greedy, width) for place in self._places])

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file; `by_place_from_dict` reads it back."""
        return {str(i): place.to_dict() for i, place in enumerate(self._places)}


def by_place_from_dict(data: Mapping[str, Any] | None) -> ByPlace:
    """What `to_dict` wrote; whatever part of it is missing or makes no sense counts as nothing seen."""
    read = data if isinstance(data, Mapping) else {}
    return ByPlace(tuple(from_dict(read.get(str(i)), FALL**i) for i in range(N_PLACES)))
