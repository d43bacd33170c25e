"""Where an answer falls into a loop, which would flatter every drafter that copies.

A small model's greedy text repeats itself sooner or later; what it says from there on measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

SPAN, N_TIMES = 8, 3


def loop_start(tokens: Sequence[int]) -> int | None:
    """How many tokens stand before the first loop: the place where a span of SPAN tokens that is seen N_TIMES begins
    for the second time; None where there is no loop. Occurrences may overlap: "a b a b a b ..." is a loop too."""
    seen: dict[tuple[int, ...], list[int]] = {}
    for start in range(len(tokens) - SPAN + 1):
        places = seen.setdefault(tuple(tokens[start : start + SPAN]), [])
        places.append(start)
        if len(places) == N_TIMES:
            return places[1]
    return None
