"""Measuring where a pass takes seconds whatever its width: few widths, each once, up to the knee."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgespec.engine.calibrate import NOISE_LEAST, measure_wide
from edgespec.errors import Cancelled
from tests.engine.test_calibrate import FakeMachine

# Issue 7: a disk of 150 MB/s, arithmetic of 20 ms a row.


def throttled(rows: int) -> float:
    return max(3000.0, 21.0 * rows)


def unthrottled(rows: int) -> float:
    return 900.0 + 17.0 * rows


def endless(rows: int) -> float:
    return 3000.0


def machine(cost: Callable[[int], float], max_nodes: int = 512, **more) -> FakeMachine:
    return FakeMachine(cost, max_nodes=max_nodes, **more)


def measured(m: FakeMachine, budget_s: float = 60.0):
    return measure_wide(m, 64, budget_s, m.clock)


@pytest.mark.parametrize(
    ("cost", "widths"),
    [(throttled, (1, 64, 128, 256)), (unthrottled, (1, 16, 32, 64)), (endless, (1, 64, 256, 512))],
    ids=["throttled", "unthrottled", "endless"],
)
def test_the_knee_is_measured_and_what_is_flat_is_not_measured_twice(cost, widths: tuple[int, ...]) -> None:
    """Fails when the widths beside the knee are left to a straight line, when seconds go into widths between two that
    cost the same, or into ones far beyond what could pay."""
    m = machine(cost)
    curve = measured(m)
    assert curve.rows == widths
    assert curve.pass_ms == pytest.approx([cost(w) for w in widths])
    assert len(m.widths) == len(widths) + 2
    assert curve.noise == NOISE_LEAST


def test_the_first_pass_warms_up() -> None:
    """Fails when what reading a cold file took counts as a pass."""
    cold = machine(throttled, disturbed=lambda n, _: 4.0 if n == 0 else 1.0)
    assert measured(cold).ms(1) == pytest.approx(3000)


def test_what_two_lone_passes_differ_by_is_the_noise() -> None:
    """Fails when a disk that is shared is believed to the last millisecond."""
    shared = machine(throttled, disturbed=lambda n, rows: 1.08 if rows == 1 and n > 1 else 1.0)
    assert measured(shared).noise == pytest.approx(0.08)


def test_widths_end_where_the_context_does() -> None:
    """Fails when more rows are asked for than there is memory for."""
    assert measured(machine(endless, max_nodes=64)).rows == (1, 64)


@pytest.mark.parametrize("budget_s", [4.0, 10.0, 20.0])
def test_the_budget_ends_the_measurement_beyond_the_first_ones(budget_s: float) -> None:
    """Fails when a model whose pass takes seconds keeps its user waiting for minutes."""
    m = machine(throttled)
    curve = measured(m, budget_s)
    assert m.now - 100.0 <= max(budget_s, 6.0)
    assert curve.rows[:2] == (1, 64)


@pytest.mark.parametrize("seconds", [14.0, 40.0])
def test_a_wide_pass_is_timed_however_slow_the_disk(seconds: float) -> None:
    """40 GB from a disk of 1 GB/s. Fails when the budget ends behind lone rows: 64 rows would be taken for 64 passes,
    and big trees be off for good where they pay most."""
    m = machine(lambda _: 1e3 * seconds)
    curve = measured(m)
    assert curve.rows[:2] == (1, 64)
    assert curve.ms(64) == curve.ms(1)
    assert len(m.widths) <= 4


def test_a_first_pass_that_found_the_file_on_the_disk_alone_is_timed_again() -> None:
    """30 s for the first pass, 11 for others. Fails when 64 rows are believed to cost less than one, for good."""
    m = machine(lambda _: 11_000.0, disturbed=lambda n, _: 30 / 11 if n == 0 else 1.0)
    curve = measured(m)
    assert curve.ms(1) == pytest.approx(11_000)
    assert curve.ms(64) == pytest.approx(11_000)


@pytest.mark.parametrize("ending", ["done", "cancelled"])
def test_the_conversation_is_left_as_it_was(ending: str) -> None:
    """Fails when a timed pass stays in the cache."""
    m = machine(throttled)
    m.prefill(0, [5, 6, 7])
    if ending == "done":
        assert measured(m).depth == 3
    else:
        with pytest.raises(Cancelled):
            measure_wide(m, 64, 60.0, m.clock, cancelled=lambda: len(m.widths) > 2)
    assert m.length(0) == 3
