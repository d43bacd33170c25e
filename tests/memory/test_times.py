"""Milliseconds of a pass: bytes over bandwidth until measured, the curve then."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgespec.memory.configuration import Placement
from edgespec.memory.times import PASS_MS, UNMEASURED, Machine, Measured, Mixture, ModelTimes, Where, pass_ms
from edgespec.speculation.cost import Curve

GB = 10**9
HOST = Where(Placement(), (("cpu", 36 * GB // 10),))
WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)


def ms(model: ModelTimes, where: Where, *rows: int, machine: Machine = UNMEASURED) -> list[float]:
    return pass_ms(model, where, rows, machine).tolist()


def test_a_lone_row_takes_its_bytes_over_the_bandwidth() -> None:
    """By hand: 3.6 GB at 36 GB/s are 100 ms; on a device of 300 GB/s 12 ms; half on each the sum of the halves."""
    model = ModelTimes("F16", 10)
    half = 18 * GB // 10
    assert ms(model, HOST, 1) == pytest.approx([100 + PASS_MS])
    assert ms(model, Where(Placement(11), (("CUDA0", 2 * half),)), 1) == pytest.approx([12 + PASS_MS])
    assert ms(model, Where(Placement(5), (("cpu", half), ("CUDA0", half))), 1) == pytest.approx([56 + PASS_MS])
    fast = Machine((("CUDA0", 3600e9),))
    assert ms(model, Where(Placement(11), (("CUDA0", 2 * half),)), 1, machine=fast) == pytest.approx([1 + PASS_MS])


def test_further_rows_cost_what_they_cost_with_such_weights() -> None:
    """docs/design.md section 8: 8 rows of f16 cost 2.0 lone ones, of Q4_0 4.8; other types go with the nearest."""
    for name, ratio in (
        ("F16", 141 / 69),
        ("BF16", 141 / 69),
        ("Q8_0", 122 / 33),
        ("Q6_K", 122 / 33),
        ("Q4_K_M", 91 / 19),
    ):
        one, eight = (t - PASS_MS for t in ms(ModelTimes(name, 10), HOST, 1, 8))
        assert eight / one == pytest.approx(ratio)


@pytest.mark.parametrize("name", ["F16", "Q8_0", "Q4_K_M"])
@pytest.mark.parametrize("mixture", [None, Mixture(2 * GB, 32, 4)])
def test_moving_bytes_to_a_device_never_costs_time(name: str, mixture: Mixture | None) -> None:
    """At any width: fails when a plan leaves a device empty because a prior says so."""
    model = ModelTimes(name, 10, mixture=mixture)
    last = np.full(len(WIDTHS), np.inf)
    for n in range(12):
        moved = 36 * GB * n // 110
        now = pass_ms(
            model, Where(Placement(n), (("cpu", 36 * GB // 10 - moved), ("CUDA0", moved))), WIDTHS, UNMEASURED
        )
        assert np.all(now <= last)
        last = now


@pytest.mark.parametrize("mixture", [None, Mixture(3 * GB, 32, 4), Mixture(3 * GB, 128, 8)])
def test_a_wider_pass_is_never_cheaper_nor_dearer_than_lone_ones(mixture: Mixture | None) -> None:
    """Fails when experts that rows share, or do not share, are counted twice."""
    for name in ("F16", "Q8_0", "Q4_0"):
        times = pass_ms(ModelTimes(name, 10, mixture=mixture), HOST, WIDTHS, UNMEASURED) - PASS_MS
        assert np.all(np.diff(times) >= 0)
        assert np.all(times <= times[0] * np.array(WIDTHS) * (1 + 1e-9))


def test_a_lone_row_reads_only_the_experts_it_uses() -> None:
    """By hand: 1.6 of 3.6 GB are shared; of 2 GB of experts 4 of 32 are read: 1.85 GB in 51.4 ms."""
    model = ModelTimes("F16", 10, mixture=Mixture(2 * GB, 32, 4))
    assert ms(model, HOST, 1) == pytest.approx([1.85 / 0.036 + PASS_MS])


def test_a_token_table_is_not_read_unless_it_is_the_head() -> None:
    """With 128 thousand tokens it is a fifth of a small model; a tied one on a device leaves a copy behind."""
    table = 6 * GB // 10
    apart, tied = (ModelTimes("F16", 10, table, tied=tied) for tied in (False, True))
    assert ms(apart, HOST, 1) == pytest.approx([3.0 / 0.036 + PASS_MS])
    assert ms(tied, HOST, 1) == pytest.approx([100 + PASS_MS])
    moved = Where(Placement(11), (("cpu", table), ("CUDA0", 3 * GB)))
    assert ms(tied, moved, 1) == pytest.approx([10 + PASS_MS])


def test_a_measured_curve_speaks_for_its_placement_and_is_carried_to_others() -> None:
    """Fails when a prior contradicts the clock, or a curve of the processor is believed of a device."""
    curve = Curve(128, (1, 4), (50.0, 60.0))
    model = replace(ModelTimes("F16", 10), measured=Measured(curve, HOST))
    assert ms(model, HOST, 1, 4) == [50.0, 60.0]
    gpu = Where(Placement(11), (("CUDA0", 36 * GB // 10),))
    unmeasured = replace(model, measured=None)
    for rows, measured in ((1, 50.0), (4, 60.0)):
        (there,), (here,) = ms(unmeasured, gpu, rows), ms(unmeasured, HOST, rows)
        assert ms(model, gpu, rows) == pytest.approx([measured * there / here])
