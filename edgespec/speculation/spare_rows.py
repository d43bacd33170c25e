"""Whether rows beside the pending one pay for a drafter that costs nothing but them.

Lookahead decoding spends rows of the target and no other model (arXiv 2402.02057): it pays where a wider pass is nearly
free. Not covered: drafters that cost time of their own (controllers), measuring a curve (engine/calibrate.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edgespec.errors import BadSetting
from edgespec.speculation.cost import Curve


@dataclass(frozen=True)
class Yields:
    """Tokens a pass by its rows, 1 row first with 1 token; measured, not assumed (benchmarks/lookahead.py)."""

    rows: tuple[int, ...]
    tokens_per_pass: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in pairwise(self.rows))
        if len(self.rows) != len(self.tokens_per_pass) or self.rows[:1] != (1,) or not rising:
            raise BadSetting(
                f"yields name rising rows from 1 and as many tokens per pass, not {self.rows} and "
                f"{self.tokens_per_pass}; measure them again"
            )

    def at(self, rows: int) -> float:
        """Straight between measured rows, level beyond the last."""
        return float(np.interp(rows, self.rows, self.tokens_per_pass))


# Lookahead on the demo target, 12 prompts by 48 tokens, before any loop (docs/lookahead.md): at temperature 0 and 0.8.
LOOKAHEAD_GREEDY = Yields((1, 4, 8, 16), (1.0, 1.70, 1.99, 2.13))
LOOKAHEAD_SAMPLED = Yields((1, 4, 8, 16), (1.0, 1.44, 1.62, 1.74))


@dataclass(frozen=True)
class SpareRows:
    """What the best width would give; speed is over plain decoding, cost in lone passes.

    reason: the sentence to show
    """

    pays: bool
    rows: int
    tokens_per_pass: float
    cost: float
    speed: float
    reason: str


def pays(curve: Curve, yields: Yields, depth: int | None = None, draft_ms: float = 0.0) -> SpareRows:
    """The best of the measured widths, and whether it beats plain decoding by more than noise.

    depth: cached tokens behind the pass (None: as the curve was measured). draft_ms: the host's milliseconds a pass.
    """
    alone = curve.ms(1, depth)
    found = [(yields.at(rows) * alone / (curve.ms(rows, depth) + draft_ms), -rows) for rows in curve.rows if rows > 1]
    if not found:
        return SpareRows(False, 1, 1.0, 1.0, 1.0, "decoding plainly: no pass of more than 1 row was measured here")
    speed, rows = max(found)[0], -max(found)[1]
    tokens, cost = yields.at(rows), (curve.ms(rows, depth) + draft_ms) / alone
    figures = f"a pass of {rows} rows costs {cost:.2f} plain ones here and yields about {tokens:.2f} tokens"
    if speed > 1 + curve.noise:
        return SpareRows(True, rows, tokens, cost, speed, f"lookahead in spare rows: {figures}, {speed:.2f}x")
    return SpareRows(False, rows, tokens, cost, speed, f"no lookahead: {figures}, {speed:.2f}x")
