"""What a pass of the target costs by its width and by how much it looks back on; the clock is engine/calibrate.py's.

The curve is a staircase, another one on every machine and weight type (docs/design.md section 8), so only measured
widths are ever chosen for their price, and differences within the measurement's own noise count as none.
Not covered: what drafting costs, which width pays (controllers).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np

from edgespec.errors import BadSetting

# In a staircase a width nobody measured may cost more than the line between its neighbours: it gives way to the next
# measured one that costs at most so much more.
UNSURE = 0.10
DEFAULT_NOISE = 0.03


@dataclass(frozen=True)
class Curve:
    """Milliseconds of one pass, measured behind `depth` cached tokens. Raises BadSetting where it makes no sense.

    rows, pass_ms          widths, rising from 1, and what a pass of each took
    deep_rows, ms_per_cell widths, rising, and what a cached token more adds to a pass of each; both empty where the
                           growth with depth was not measured (then it counts as 0)
    noise                  relative differences up to this one mean nothing
    """

    depth: int
    rows: tuple[int, ...]
    pass_ms: tuple[float, ...]
    deep_rows: tuple[int, ...] = ()
    ms_per_cell: tuple[float, ...] = ()
    noise: float = DEFAULT_NOISE

    def __post_init__(self) -> None:
        _check_widths("rows", self.rows, self.pass_ms)
        _check_widths("deep_rows", self.deep_rows, self.ms_per_cell)
        if not self.rows or self.rows[0] != 1:
            raise BadSetting(f"a cost curve starts at 1 row, not at {self.rows[:1]}; measure it again")
        if not all(math.isfinite(ms) and ms > 0 for ms in self.pass_ms):
            raise BadSetting(f"a cost curve holds times above 0 ms, not {self.pass_ms}; measure it again")
        if not all(math.isfinite(ms) and ms >= 0 for ms in self.ms_per_cell):
            raise BadSetting(f"a cached token adds 0 ms or more to a pass, not {self.ms_per_cell}; measure it again")
        if self.depth < 0 or not 0 <= self.noise < 1:
            raise BadSetting(
                f"a cost curve has a depth of 0 or more and a noise from 0 to 1, not {self.depth} and {self.noise}; "
                "measure it again"
            )

    def ms(self, rows: int, depth: int | None = None) -> float:
        """A pass of `rows` behind `depth` cached tokens (None: as measured).

        Straight between measured widths; beyond the widest one a row costs what it costs there. Less depth than
        measured counts as the measured one.
        """
        if rows < 1:
            raise BadSetting(f"a pass has 1 row or more, not {rows}")
        cost = _at(self.rows, self.pass_ms, rows)
        if depth is None or depth <= self.depth or not self.deep_rows:
            return cost
        return cost + (depth - self.depth) * _at(self.deep_rows, self.ms_per_cell, rows)

    def with_wider(self, other: Curve) -> Curve:
        """This curve with the other one's widths beyond its own."""
        wider = [(w, ms) for w, ms in zip(other.rows, other.pass_ms, strict=True) if w > self.rows[-1]]
        rows, pass_ms = (*self.rows, *(w for w, _ in wider)), (*self.pass_ms, *(ms for _, ms in wider))
        return replace(self, rows=rows, pass_ms=pass_ms)

    def landings(self, depth: int | None = None) -> tuple[int, ...]:
        """The measured widths worth asking for, rising: no wider pass costs as little, noise allowed for.

        Each is the widest pass at the price of the cheapest one that is no narrower than the landing before allows;
        comparing with that price, not with the neighbour's, keeps a smooth rise from adding up to one long step.
        """
        costs = [self.ms(rows, depth) for rows in self.rows]
        found, at = [], 0
        while at < len(costs):
            roof = min(costs[at:]) * (1 + self.noise)
            at = max(i for i in range(at, len(costs)) if costs[i] <= roof)
            found.append(self.rows[at])
            at += 1
        return tuple(found)

    def padded(self, rows: int, depth: int | None = None) -> int:
        """The width with at least so many rows that costs least: `rows` itself unless a measured wider one is cheaper.

        Cheaper means by more than noise; for a width that was not measured, at most UNSURE dearer will do.
        """
        own = self.ms(rows, depth)
        wider = [width for width in self.rows if width > rows]
        if not wider:
            return rows
        best = min(wider, key=lambda width: self.ms(width, depth))
        limit = own * (1 - self.noise) if rows in self.rows else own * (1 + UNSURE)
        return best if self.ms(best, depth) < limit else rows

    def to_dict(self) -> dict[str, Any]:
        """Lists and numbers, for a JSON file; `from_dict` reads them back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def from_dict(data: Mapping[str, Any]) -> Curve:
    """The curve `to_dict` wrote; raises BadSetting where anything is missing, too many or of another kind."""
    names = {field.name for field in fields(Curve)}
    wrong = sorted(names ^ set(data))
    if wrong:
        raise BadSetting(f"this is no cost curve: {', '.join(map(repr, wrong))} missing or unknown; measure it again")
    return Curve(
        depth=_integers("depth", [data["depth"]])[0],
        rows=_integers("rows", data["rows"]),
        pass_ms=_numbers("pass_ms", data["pass_ms"]),
        deep_rows=_integers("deep_rows", data["deep_rows"]),
        ms_per_cell=_numbers("ms_per_cell", data["ms_per_cell"]),
        noise=_numbers("noise", [data["noise"]])[0],
    )


def _at(widths: Sequence[int], values: Sequence[float], rows: int) -> float:
    """Straight between the widths, level below the first, in proportion beyond the last."""
    if rows > widths[-1]:
        return values[-1] * rows / widths[-1]
    return float(np.interp(rows, widths, values))


def _check_widths(name: str, widths: Sequence[int], values: Sequence[float]) -> None:
    if len(widths) != len(values):
        raise BadSetting(f"a cost curve has {len(widths)} {name} but {len(values)} times for them; measure it again")
    if any(width < 1 for width in widths) or any(b <= a for a, b in pairwise(widths)):
        raise BadSetting(f"the {name} of a cost curve rise from 1 or more, not {tuple(widths)}; measure it again")


def _integers(name: str, values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise BadSetting(f"{name} of a cost curve holds whole numbers, not {values!r:.80}; measure it again")
    return tuple(values)


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise BadSetting(f"{name} of a cost curve holds numbers, not {values!r:.80}; measure it again")
    return tuple(float(value) for value in values)
