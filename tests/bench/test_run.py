"""The result object: what is told of everything that was collected."""

from __future__ import annotations

import pytest

from edgespec.bench import run
from edgespec.bench.measure import Cut, Failure, Sample
from edgespec.bench.methods import parse_methods
from edgespec.bench.questions import Question
from edgespec.settings import Settings
from edgespec.types import Sampling

ASKED = run.Asked(
    parse_methods("chain", Settings()), [Question("q", "a", ("x",))], "f.jsonl", Sampling(), 32, n_repeats=1
)


def collected(**more: object) -> run.Collected:
    """Plain at 10 tokens a second, a chain at 20."""
    plain = Sample("plain", "q", "a", 0, 0, 5, 11, 1, 0, (0,) * 10, 50.0, 1000.0, 990.0, 0.0)
    chain = Sample("chain", "q", "a", 0, 0, 5, 11, 1, 12, (2, 3, 2, 0, 0), 60.0, 500.0, 300.0, 80.0)
    return run.Collected([plain, chain], [Cut("q", 0, 20, 11)], **more)


def test_each_method_states_its_share_of_the_bound() -> None:
    """Fails when the share stands upside down, or is made up where nothing bounds."""
    bounded = run._result(ASKED, collected(card={"x": 1}, bound={"speedup": 4.0}))
    assert bounded["methods"]["chain"]["share_of_bound"] == pytest.approx(0.5)
    assert bounded["methods"]["plain"]["share_of_bound"] == pytest.approx(0.25)
    assert bounded["ceilings"]["speculation"] == {"speedup": 4.0}
    assert run._result(ASKED, collected())["methods"]["chain"]["share_of_bound"] is None


def test_every_figure_can_be_computed_again_from_the_samples() -> None:
    """Fails when the raw numbers are thinned out."""
    found = run._result(ASKED, collected())
    assert [s["accepted"] for s in found["samples"]] == [(0,) * 10, (2, 3, 2, 0, 0)]
    assert found["cut_as_loops"]["n_answers_cut"] == 1


def test_failures_and_a_stop_are_told() -> None:
    """Fails when a run that went wrong looks like one that did not."""
    found = run._result(ASKED, collected(failures=[Failure("chain", "r", 0, "why")], stopped=True))
    assert found["stopped"]
    assert found["failures"] == [{"method": "chain", "question": "r", "turn": 0, "error": "why"}]
