"""What passes cost in use: the measured curve, and what rounds have shown since."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgespec.speculation.cost import Curve
from edgespec.speculation.live import LiveCost

CURVE = Curve(100, (1, 2, 4, 8), (10.0, 14.0, 15.0, 26.0), deep_rows=(1, 8), ms_per_cell=(0.01, 0.08))
N_PAST = 100


def disturbed(costs: LiveCost, factor: float, widths: tuple[int, ...], n: int, n_past: int = N_PAST) -> None:
    """Passes of these widths in turn that take factor times what the curve says."""
    for _ in range(n):
        for rows in widths:
            costs.observe(rows, n_past, factor * CURVE.ms(rows, n_past))


def test_it_begins_with_the_curve() -> None:
    """Fails when a width, or the text behind it, is priced otherwise than measured."""
    costs = LiveCost(CURVE)
    for rows in (1, 2, 3, 4, 6, 8):
        for n_past in (0, 100, 101, 1000):
            assert costs.ms(rows, n_past) == pytest.approx(CURVE.ms(rows, n_past))


@pytest.mark.parametrize(("rows", "widest"), [(1, 1), (2, 4), (3, 4), (4, 4), (5, 5), (8, 8), (20, 20)])
def test_rows_that_cost_no_more_than_noise_come_along(rows: int, widest: int) -> None:
    """14 ms for 2 rows and 15 for 4 are the same within 10 %. Fails when a first draft wastes a pass that would have
    taken more rows, or takes ones that cost."""
    costs = LiveCost(replace(CURVE, noise=0.10))
    assert costs.widest_as(rows, N_PAST) == widest


@pytest.mark.parametrize("factor", [0.7, 1.4, 3.0])
def test_a_drift_of_all_widths_is_followed_by_those_not_seen_too(factor: float) -> None:
    """Another program, a warmer processor. Fails when a width that was not in use keeps its old price: then the
    controller flees to it."""
    costs = LiveCost(CURVE)
    disturbed(costs, factor, (1, 2, 4), 60)
    for rows in (1, 2, 4):
        assert costs.ms(rows, N_PAST) == pytest.approx(factor * CURVE.ms(rows), rel=0.05)
    assert abs(costs.ms(8, N_PAST) / CURVE.ms(8) - factor) < 0.6 * abs(factor - 1)


def test_an_error_of_one_width_is_followed_there() -> None:
    """Fails when the curve's mistake about a width is spread over all, or never believed."""
    costs = LiveCost(CURVE)
    for _ in range(150):
        for rows in (1, 2, 8):
            costs.observe(rows, N_PAST, CURVE.ms(rows))
        costs.observe(4, N_PAST, 1.5 * CURVE.ms(4))
    assert costs.ms(4, N_PAST) == pytest.approx(1.5 * CURVE.ms(4), rel=0.06)
    for rows in (1, 2, 8):
        assert costs.ms(rows, N_PAST) == pytest.approx(CURVE.ms(rows), rel=0.06)


@pytest.mark.parametrize("ms", [1e-3, 1e4, 1e300])
def test_one_disturbed_pass_moves_little(ms: float) -> None:
    """A process that was stopped for a second. Fails when it decides the rounds after it."""
    costs = LiveCost(CURVE)
    disturbed(costs, 1.0, (1, 2, 4), 5)
    costs.observe(4, N_PAST, ms)
    assert costs.ms(4, N_PAST) == pytest.approx(CURVE.ms(4), rel=0.15)
    assert costs.ms(2, N_PAST) == pytest.approx(CURVE.ms(2), rel=0.06)


@pytest.mark.parametrize("ms", [0.0, -3.0])
def test_a_time_that_cannot_be_is_passed_over(ms: float) -> None:
    """A clock that stood still or was set back. Fails when its logarithm ends the answer."""
    costs = LiveCost(CURVE)
    costs.observe(4, N_PAST, ms)
    assert costs.ms(4, N_PAST) == CURVE.ms(4)


def test_depth_is_no_error_of_the_curve() -> None:
    """Passes behind a long text take longer. Fails when that is taken for drift, or what was learnt there does not hold
    at another depth."""
    costs = LiveCost(CURVE)
    disturbed(costs, 1.0, (1, 4), 50, n_past=2000)
    assert costs.ms(4, N_PAST) == pytest.approx(CURVE.ms(4))
    disturbed(costs, 2.0, (1, 4), 80, n_past=2000)
    assert costs.ms(4, N_PAST) == pytest.approx(2 * CURVE.ms(4), rel=0.05)


def test_widths_are_those_that_were_measured() -> None:
    """Fails when a tree is sized to a width whose price is guessed."""
    costs = LiveCost(CURVE)
    assert costs.widths(8) == (1, 2, 4, 8)
    assert costs.widths(7) == (1, 2, 4)
    assert costs.padded(3) == CURVE.padded(3)


def test_a_row_costs_the_slope_of_the_lower_hull() -> None:
    """By hand: 1, 4 and 8 rows for 10, 13 and 19 ms, and 2 rows above the line between the first two. Fails when a
    dear width in between puts a price on rows that no pass would stop at; a price is never below nothing."""
    curve = Curve(0, (1, 2, 4, 8), (10.0, 12.5, 13.0, 19.0))
    assert LiveCost(curve).row_ms(8, 0) == pytest.approx([1.0] * 3 + [1.5] * 4)
    assert LiveCost(curve).row_ms(2, 0) == pytest.approx([2.5])
    assert LiveCost(curve).row_ms(6, 0) == pytest.approx([1.0] * 5)
    falls = Curve(0, (1, 2, 4), (10.0, 9.0, 12.0))
    assert LiveCost(falls).row_ms(4, 0) == pytest.approx([0.0, 1.5, 1.5])
    assert LiveCost(Curve(0, (1,), (10.0,))).row_ms(4, 0) == [10.0] * 3
    assert LiveCost(curve).row_ms(1, 0) == []
    streamed = Curve(0, (1, 64), (3000.0, 3315.0))
    assert LiveCost(streamed).row_ms(4, 0) == pytest.approx([5.0] * 3)  # not what a pass costs
