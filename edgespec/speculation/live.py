"""What a pass costs, kept true in use: a measured curve and what rounds have taken since.

All widths drift together (another program, a warmer processor) and each has its own error; both are followed in
logarithms, with outliers clipped, so that one disturbed pass moves little. Not covered: the curve (cost.py).
"""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise

from edgespec.speculation.cost import Curve

# A tenth of what a pass shows beyond the estimate is believed for all widths; an own error is believed with the count
# of passes behind it, as if N_PRIOR passes had agreed with the curve.
DRIFT, N_PRIOR, LEAST_RATE = 0.1, 6.0, 0.05
CLIP = 0.5
# Up to this share dearer is hardly dearer.
CHEAP = 0.2


class LiveCost:
    """Milliseconds of target passes."""

    def __init__(self, curve: Curve) -> None:
        self.curve = curve
        self._at: dict[int, tuple[float, float]] = {}  # a width's time as measured, and what a token behind it adds
        self._padded: dict[int, int] = {}
        self._drift = 0.0
        self._own: defaultdict[int, float] = defaultdict(float)
        self._seen: defaultdict[int, float] = defaultdict(float)

    def ms(self, rows: int, n_past: int) -> float:
        """Of a pass of so many rows behind n_past tokens."""
        if rows not in self._at:
            base = self.curve.ms(rows)
            self._at[rows] = base, self.curve.ms(rows, self.curve.depth + 1) - base
        base, per_token = self._at[rows]
        deeper = max(n_past - self.curve.depth, 0)
        return (base + deeper * per_token) * math.exp(self._drift + self._own.get(rows, 0.0))

    def observe(self, rows: int, n_past: int, ms: float) -> None:
        """What a pass took; times that cannot be are passed over."""
        if ms <= 0:
            return
        off = math.log(ms / self.ms(rows, n_past))
        off = min(max(off, -CLIP), CLIP)
        self._drift += DRIFT * off
        self._seen[rows] += 1
        self._own[rows] += max(1 / (N_PRIOR + self._seen[rows]), LEAST_RATE) * (1 - DRIFT) * off

    def padded(self, rows: int) -> int:
        """The width with at least so many rows that costs least (Curve.padded)."""
        if rows not in self._padded:
            self._padded[rows] = self.curve.padded(rows)
        return self._padded[rows]

    def widest_as(self, rows: int, n_past: int) -> int:
        """The widest measured width that costs hardly more than so many rows; at least `rows`."""
        limit = self.ms(rows, n_past) * (1 + CHEAP)
        return max([rows, *(w for w in self.curve.rows if self.ms(w, n_past) <= limit)])

    def widths(self, most: int) -> tuple[int, ...]:
        """Widths that were measured, rising, up to `most`."""
        return tuple(w for w in self.curve.rows if w <= most)

    def row_ms(self, most: int, n_past: int) -> list[float]:
        """What the second, third, ... row of a pass adds at least, `most` rows in all, where the best width follows.

        The slopes of the curve's lower convex hull up to there: they never fall, and no width in between is worth more
        than they say. Never below 0. Fewer rows than the second width that was measured lie on a line to it.
        """
        if most < 2:
            return []
        hull: list[tuple[int, float]] = []
        widths = self.widths(most)
        for point in ((w, self.ms(w, n_past)) for w in (widths if len(widths) > 1 else sorted({1, most}))):
            while len(hull) > 1 and _slope(hull[-2], point) <= _slope(hull[-2], hull[-1]):
                hull.pop()
            hull.append(point)
        found = [max(_slope(a, b), 0.0) for a, b in pairwise(hull) for _ in range(b[0] - a[0])]
        return found + [found[-1]] * (most - 1 - len(found))


def _slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])
