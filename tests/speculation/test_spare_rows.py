"""Whether spare rows pay."""

from __future__ import annotations

import pytest

from edgespec.errors import BadSetting
from edgespec.memory.times import GPU, Q4_0
from edgespec.speculation.cost import Curve
from edgespec.speculation.spare_rows import Yields, pays

YIELDS = Yields((1, 4, 8), (1.0, 1.4, 1.6))


def test_nearly_free_rows_pay() -> None:
    """By hand: 8 rows for 1.1 plain passes at 1.6 tokens are 1.45x, 4 rows for 1.05 at 1.4 are 1.33x."""
    verdict = pays(Curve(0, (1, 4, 8), (100.0, 105.0, 110.0), noise=0.03), YIELDS)
    assert verdict.pays
    assert (verdict.rows, verdict.tokens_per_pass) == (8, 1.6)
    assert verdict.speed == pytest.approx(1.6 / 1.1)
    assert verdict.cost == pytest.approx(1.1)
    assert verdict.reason == (
        "lookahead in spare rows: a pass of 8 rows costs 1.10 plain ones here and yields about 1.60 tokens, 1.45x"
    )


def test_rows_that_cost_do_not_pay_and_the_sentence_says_why() -> None:
    """Fails when the method is offered where a pass of 4 rows takes twice as long as it yields."""
    verdict = pays(Curve(0, (1, 4, 8), (19.0, 50.0, 91.0)), YIELDS)
    assert not verdict.pays
    assert verdict.rows == 4
    assert (
        verdict.reason
        == "no lookahead: a pass of 4 rows costs 2.63 plain ones here and yields about 1.40 tokens, 0.53x"
    )


def test_a_gain_within_the_noise_is_none() -> None:
    """4 rows for 1.37 plain passes would be 1.02x."""
    assert not pays(Curve(0, (1, 4), (100.0, 137.0), noise=0.03), YIELDS).pays
    assert pays(Curve(0, (1, 4), (100.0, 137.0), noise=0.01), YIELDS).pays


def test_host_time_and_depth_count() -> None:
    """Fails when what a pass costs behind a long text, or between passes, is left out."""
    curve = Curve(0, (1, 4), (100.0, 110.0), (1, 4), (0.0, 0.05))
    assert pays(curve, YIELDS).pays
    assert not pays(curve, YIELDS, depth=1000).pays
    dear = pays(curve, YIELDS, draft_ms=40.0)
    assert not dear.pays
    assert dear.cost == pytest.approx(1.5)


def test_more_rows_than_were_tried_promise_no_more_tokens() -> None:
    """Fails when a card that gives 128 rows for 4 passes is promised 128 rows' worth, or one whose curve has no width
    as narrow as the yields is refused."""
    assert pays(Curve(0, *GPU), YIELDS).rows == 8
    wide = pays(Curve(0, (1, 32), (100.0, 101.0)), YIELDS)
    assert (wide.pays, wide.rows, wide.tokens_per_pass) == (True, 32, 1.6)
    assert not pays(Curve(0, *Q4_0), YIELDS).pays


def test_a_curve_of_a_lone_row_says_plain() -> None:
    """Fails when a model too slow to be measured ends the program."""
    verdict = pays(Curve(0, (1,), (7000.0,)), YIELDS)
    assert (verdict.pays, verdict.rows, verdict.speed) == (False, 1, 1.0)


@pytest.mark.parametrize(("rows", "tokens"), [((2, 4), (1.0, 1.4)), ((1, 4, 3), (1.0, 1.4, 1.3)), ((1, 4), (1.0,))])
def test_yields_that_make_no_sense_are_refused(rows: tuple[int, ...], tokens: tuple[float, ...]) -> None:
    """Fails when a mistyped table promises speed."""
    with pytest.raises(BadSetting, match="measure them again"):
        Yields(rows, tokens)
