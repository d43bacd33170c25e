"""Which kind of machine a cost curve speaks of: whether wide passes cost more than narrow ones, and from where on.

SpecExec (arXiv 2406.02532) is for targets whose weights lie elsewhere: what a pass takes is the way of the weights, so
hundreds of rows cost as much as one. The curve alone tells; it is measured, not assumed (engine/calibrate.py).
Not covered: how many rows pay (memory/arms.py weighs tokens against passes and drafting).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgespec.speculation.cost import Curve

# A pass that costs at most so much more than a narrower one counts as costing the same.
FLAT = 1.35
# Fewer rows that cost the same are a step of the staircase or a bandwidth that is not full, not a regime. Runtimes that
# copy weights to a device for large batches do so from 32 rows on (ggml-backend.cpp, op_offload).
LEAST_FLAT, LEAST_GAIN, LATEST = 64, 4, 32

Name = Literal["resident", "offloaded", "streamed"]


@dataclass(frozen=True)
class Regime:
    """first, last: the measured widths between which a pass costs nearly the same.

    resident   every row costs: small trees
    offloaded  flat from some dozen rows on: weights are copied to a device for passes that are wide enough
    streamed   flat from a lone row on: weights come from a disk, or from far away, in every pass
    """

    name: Name
    first: int
    last: int

    @property
    def wide(self) -> bool:
        """Whether large trees are worth a look."""
        return self.name != "resident"


def regime(curve: Curve) -> Regime:
    """Of a curve; one that was not measured as far as LEAST_FLAT rows is taken for resident."""
    last = _flat_to(curve, 1)
    if last >= LEAST_FLAT:
        return Regime("streamed", 1, last)
    for first in (w for w in curve.rows if 1 < w <= LATEST):
        end = _flat_to(curve, first)
        if end >= max(LEAST_FLAT, LEAST_GAIN * first):
            return Regime("offloaded", first, end)
    return Regime("resident", 1, last)


def _flat_to(curve: Curve, first: int) -> int:
    """The widest measured pass up to which none costs more than FLAT times this one."""
    limit, last = FLAT * curve.ms(first), first
    for width in (w for w in curve.rows if w > first):
        if curve.ms(width) > limit:
            break
        last = width
    return last
