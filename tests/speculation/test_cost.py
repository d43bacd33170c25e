"""The cost curve: what a width costs, which widths are worth asking for."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edgespec.errors import BadSetting
from edgespec.speculation.cost import Curve, from_dict

# Measured on two cores, 1B shape (benchmarks/LOG.md): a staircase of four rows, and one with hardly any steps.
Q4_0 = Curve(0, (1, 2, 4, 6, 8, 16, 32), (41, 71, 67, 113, 120, 179, 349))
F16 = Curve(0, (1, 2, 4, 6, 8, 16, 32), (118, 109, 125, 134, 171, 264, 481))
DEEP = Curve(100, (1, 4, 16), (10.0, 20.0, 50.0), deep_rows=(1, 16), ms_per_cell=(0.01, 0.16))


def test_two_rows_land_on_four_where_four_cost_no_more() -> None:
    """Fails when a leftover row of a repacked kernel is asked for although a full tile is cheaper."""
    assert Q4_0.landings() == (1, 4, 6, 8, 16, 32)
    assert [Q4_0.padded(n) for n in (1, 2, 3, 4, 5, 6)] == [1, 4, 4, 4, 5, 6]


def test_a_lone_row_is_padded_where_two_are_cheaper() -> None:
    """f16 on two cores: 1 row 118 ms, 2 rows 109."""
    assert F16.landings() == (2, 4, 6, 8, 16, 32)
    assert F16.padded(1) == 2
    assert F16.padded(2) == 2


def test_a_flat_step_has_one_landing_at_its_end() -> None:
    """Fails when widths that cost the same but for noise count as several steps."""
    curve = Curve(0, (1, 2, 3, 4, 8, 12), (10.1, 10.0, 10.2, 9.9, 10.15, 20.0))
    assert curve.landings() == (8, 12)
    assert [curve.padded(n) for n in (1, 3, 8)] == [1, 3, 8]


def test_a_smooth_rise_is_not_taken_for_one_long_step() -> None:
    """Every width is within noise of the next, but not of the one after it: comparing neighbours would chain them."""
    curve = Curve(0, tuple(range(1, 9)), tuple(10 * 1.02**i for i in range(8)))
    assert curve.landings() == (2, 4, 6, 8)


def test_a_width_that_noise_made_dear_makes_no_landing() -> None:
    """A pass that lost a core costs ten times as much: it must neither land nor hide what is above."""
    for at, width in list(enumerate(Q4_0.rows))[1:-1]:
        disturbed = replace(Q4_0, pass_ms=tuple(ms * (10 if i == at else 1) for i, ms in enumerate(Q4_0.pass_ms)))
        assert width not in disturbed.landings()
        assert set(disturbed.landings()) >= set(Q4_0.landings()) - {width}
        assert disturbed.padded(width) > width


def test_between_widths_the_cost_is_straight_and_beyond_them_in_proportion() -> None:
    """Fails when a wider pass than ever measured looks cheap."""
    assert Q4_0.ms(12) == pytest.approx(149.5)
    assert Q4_0.ms(64) == pytest.approx(698)
    with pytest.raises(BadSetting, match=r"1 row or more, not 0"):
        Q4_0.ms(0)


def test_an_unmeasured_width_gives_way_to_the_next_measured_one_where_that_costs_little_more() -> None:
    """In a staircase 15 rows may cost more than 16; nobody measured them, so the line between is not believed."""
    assert Q4_0.padded(15) == 16
    assert Q4_0.padded(9) == 9
    assert Q4_0.padded(40) == 40


def test_cost_grows_with_depth_by_each_rows_own_share() -> None:
    """Worked by hand: 4 rows add 0.01 + 3/15 * 0.15 = 0.04 ms a cached token."""
    assert DEEP.ms(4) == DEEP.ms(4, 100) == DEEP.ms(4, 0) == 20
    assert DEEP.ms(4, 1100) == pytest.approx(60)
    assert DEEP.ms(16, 1100) == pytest.approx(210)
    assert replace(DEEP, deep_rows=(), ms_per_cell=()).ms(4, 1100) == 20


def test_depth_moves_landings() -> None:
    """What costs as little behind a short past need not behind a long one."""
    curve = Curve(0, (1, 4), (10.0, 10.0), deep_rows=(1, 4), ms_per_cell=(0.001, 0.004))
    assert curve.landings() == (4,)
    assert curve.landings(depth=1000) == (1, 4)


def test_a_curve_survives_json() -> None:
    """Fails when a field is forgotten on the way to the disk or back."""
    for curve in (Q4_0, DEEP):
        assert from_dict(json.loads(json.dumps(curve.to_dict()))) == curve


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"rows": [1, 2]}, "2 rows but 3 times"),
        ({"rows": [1, 4, 4]}, "rise from 1"),
        ({"rows": [2, 4, 16]}, "starts at 1 row"),
        ({"rows": [1, 4.0, 16]}, "whole numbers"),
        ({"rows": "1"}, "whole numbers"),
        ({"rows": [], "pass_ms": []}, "starts at 1 row"),
        ({"pass_ms": [1.0, float("nan"), 2.0]}, "above 0 ms"),
        ({"pass_ms": [1.0, 0.0, 2.0]}, "above 0 ms"),
        ({"pass_ms": [1.0, "2", 2.0]}, "holds numbers"),
        ({"ms_per_cell": [0.0, -1.0]}, "adds 0 ms or more"),
        ({"depth": True}, "whole numbers"),
        ({"depth": -1}, "depth of 0 or more"),
        ({"noise": 1.0}, "noise from 0 to 1"),
        ({"more": 1}, "'more' missing or unknown"),
    ],
)
def test_what_is_no_curve_is_refused(change: dict, why: str) -> None:
    """A damaged file must be measured again, not believed."""
    with pytest.raises(BadSetting, match=why):
        from_dict({**DEEP.to_dict(), **change})


def test_a_missing_field_is_named() -> None:
    """Fails when an older file is read as if it were whole."""
    data = DEEP.to_dict()
    del data["noise"]
    with pytest.raises(BadSetting, match="'noise' missing"):
        from_dict(data)
