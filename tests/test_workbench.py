"""One loaded model under several methods: what it opens for them, and the cost curve it remembers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgespec.assemble import open_workbench
from edgespec.bench.methods import parse_methods
from edgespec.engine import calibrate
from edgespec.settings import Settings
from edgespec.speculation.cost import Curve
from edgespec.store import calibration
from edgespec.store.registry import resolve
from edgespec.types import PLAIN, Choice, Sampling, Step
from edgespec.workbench import Workbench

BASE = Settings(model="demo", context=512, threads=1)


@pytest.fixture(scope="module")
def bench() -> Iterator[Workbench]:
    with open_workbench(parse_methods("plain,chain@4,tree@9,auto", BASE)) as opened:
        yield opened


def test_every_method_does_what_its_name_says(bench: Workbench) -> None:
    """Fails when a method runs with another one's rows or shape. How deep a tree pays, and whether auto drafts, is for
    the planner, which has measured this machine."""
    assert list(bench.choices) == ["plain", "chain@4", "tree@9", "auto"]
    assert bench.choices["plain"] == PLAIN
    assert bench.choices["chain@4"] == Choice("model", 4, 3, 1)
    tree = bench.choices["tree@9"]
    assert (tree.drafter, tree.rows) == ("model", 9)
    assert tree.width > 1
    assert 1 <= tree.depth <= 8


@pytest.mark.parametrize(("name", "n_rows"), [("plain", 1), ("chain@4", 4), ("tree@9", 9)])
def test_answers_are_by_the_method_in_use(bench: Workbench, name: str, n_rows: int) -> None:
    """Fails when use() changes nothing, or the contexts have no room for the widest method."""
    bench.use(name)
    events = bench.assistant.engine.generate([5, 6, 7], Sampling(temperature=0), 16, end_ids=())
    steps = [e for e in events if isinstance(e, Step)]
    assert max(s.n_drafted + 1 for s in steps) == n_rows
    assert bench.assistant.engine.method == ("plain" if name == "plain" else "model")


def test_a_method_goes_on_by_what_its_own_rounds_came_to(bench: Workbench) -> None:
    """As a session would. Fails when auto meets every prompt of a benchmark as if it had never seen a round, or one
    method decides by another one's."""
    assert bench.controller("auto") is bench.controller("auto")
    assert bench.controller("auto") is not bench.controller("plain")


def test_methods_of_one_drafter_take_turns_on_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a chain and by masks, from the same weights. Fails when one believes in a past that the other moved on, when
    the context has no room for the wider of them, or when the text depends on who drafts."""
    masked = replace(resolve("demo-draft"), mask_token_id=8191)
    monkeypatch.setattr("edgespec.candidates.resolve", lambda name: masked if name == "demo-draft" else resolve(name))
    names = ("plain", "chain@4", "parallel:chain@7", "parallel:tree@9")
    with open_workbench(parse_methods(",".join(names), replace(BASE, exact=True))) as opened:
        assert opened.choices["parallel:chain@7"] == Choice("parallel", 7, 6, 1)
        texts, most = [], []
        for name in (*names, *names):
            opened.use(name)
            events = opened.assistant.engine.generate([5, 6, 7], Sampling(seed=3), 24, end_ids=())
            steps = [e for e in events if isinstance(e, Step)]
            texts.append([t for s in steps for t in s.tokens])
            most.append(max(s.n_drafted + 1 for s in steps))
        assert most == [1, 4, 7, 9] * 2
        assert all(text == texts[0] for text in texts)


def test_a_drafter_the_user_named_serves_every_method() -> None:
    """Fails when plain, the first method, decides what is loaded: it names no drafter."""
    settings = Settings(model="demo", draft="demo-draft", context=512, threads=1)
    with open_workbench(parse_methods("plain,auto", settings)) as opened:
        assert opened.draft is not None
        assert not opened.choices["auto"].plain


def test_a_plain_method_in_front_does_not_keep_auto_from_drafting() -> None:
    """Fails when plain, which comes first in every benchmark, decides for the others that nothing drafts."""
    with open_workbench(parse_methods("plain,auto", BASE)) as opened:
        assert opened.whys["plain"] == "plain decoding was asked for"
        assert "asked for" not in opened.whys["auto"]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """Budgets of the measurements made; each says that one row more costs a millisecond more."""
    monkeypatch.setenv("EDGESPEC_CACHE_DIR", str(tmp_path))
    budgets: list[float] = []

    def measure(context: object, n_vocab: int, budget_s: float, **_: object) -> Curve:
        budgets.append(budget_s)
        return Curve(64, (1, 2, 4), (1.0 + len(budgets), 3.0, 5.0))

    monkeypatch.setattr(calibrate, "measure", measure)
    return budgets


def test_a_curve_is_measured_once_in_under_five_seconds_and_remembered(bench: Workbench, measured: list[float]) -> None:
    """Fails when every start measures anew, or the first one takes longer than a person waits."""
    first = bench.curve()
    assert bench.curve() == first
    assert len(measured) == 1
    assert measured[0] < 5


def test_a_fresh_measurement_replaces_what_was_remembered(bench: Workbench, measured: list[float]) -> None:
    """Fails when a curve taken beside a busy process stays for ever."""
    bench.curve()
    fresh = bench.measure_curve(1.0)
    assert bench.curve() == fresh
    assert len(measured) == 2


def test_a_damaged_memory_is_measured_again(bench: Workbench, measured: list[float], tmp_path: Path) -> None:
    """Fails when a broken or foreign file ends the program, or is believed."""
    bench.curve()
    calibration.save(bench.curve_key, {"depth": "many"})
    bench.curve()
    assert len(measured) == 2
    for file in tmp_path.iterdir():
        file.write_bytes(b"{broken")
    bench.curve()
    assert len(measured) == 3
