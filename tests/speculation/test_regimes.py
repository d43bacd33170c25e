"""Which kind of machine a cost curve speaks of."""

from __future__ import annotations

import pytest

from edgespec.speculation.cost import Curve
from edgespec.speculation.regimes import FLAT, Regime, regime

# Issue 7, tried on two cores: a file larger than memory, its disk throttled to 150 MB/s, and not.
THROTTLED = Curve(0, (1, 16, 64, 256), (3000.0, 3000.0, 3000.0, 5400.0))
UNTHROTTLED = Curve(0, (1, 16, 64, 256), (900.0, 1100.0, 2000.0, 5200.0))
# docs/design.md section 8, 1B shape, two cores.
F16 = Curve(64, (1, 2, 4, 6, 8, 16, 32), (69.0, 88.0, 97.0, 109.0, 141.0, 222.0, 403.0))
Q4_0 = Curve(64, (1, 2, 4, 8, 16, 32, 64), (19.0, 35.0, 50.0, 91.0, 138.0, 270.0, 540.0))
# Made up: narrow passes on the processor, wide ones on a device that weights are copied to.
COPIED = Curve(0, (1, 2, 4, 8, 16, 32, 64, 128, 256), (100.0, 130.0, 190.0, 310.0, 550.0, 600.0, 610.0, 620.0, 700.0))


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (THROTTLED, Regime("streamed", 1, 64)),
        (COPIED, Regime("offloaded", 16, 256)),
        (F16, Regime("resident", 1, 2)),
        (Q4_0, Regime("resident", 1, 1)),
        (Curve(0, (1,), (7000.0,)), Regime("resident", 1, 1)),
    ],
    ids=["throttled", "copied", "f16", "q4_0", "one width"],
)
def test_the_curve_says_where_wide_passes_are_free(curve: Curve, expected: Regime) -> None:
    """Fails when a staircase of weights in memory is taken for a flat curve, or a flat one is not seen."""
    assert regime(curve) == expected
    assert regime(curve).wide == (expected.name != "resident")


def test_a_disk_as_fast_as_the_arithmetic_is_no_flat_curve() -> None:
    """Fails when rows that cost as much as reading are taken for free ones."""
    assert not regime(UNTHROTTLED).wide


def test_a_flat_stretch_ends_where_a_pass_costs_clearly_more() -> None:
    """Fails when a slow rise adds up unseen: the comparison is with the first width, not with the neighbour."""
    widths = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    rising = Curve(0, widths, tuple(100 * FLAT ** (0.7 * i) for i in range(len(widths))))
    assert regime(rising) == Regime("resident", 1, 2)
