"""What a probe tells of models on this machine, weighed in processes of their own."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from edgespec.errors import Cancelled, ModelNotFound
from edgespec.memory.sizes import MIB
from edgespec.probing import probe
from edgespec.service.supervisor import Supervisor
from edgespec.settings import Settings
from edgespec.store import registry
from edgespec.store.registry import resolve


def silent(_what: str, _done: float) -> None:
    pass


@pytest.fixture
def weightless(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process, which holds what earlier tests left, weighs nothing."""
    monkeypatch.setattr("edgespec.memory.measure.pss", lambda _=None: 0)


@pytest.fixture
def own(tmp_path: Path) -> tuple[str, str]:
    """Files that no other process has mapped: shared pages would count by their share."""
    names = ("demo", "demo-draft")
    for name in names:
        shutil.copy(resolve(name).path, tmp_path / f"{name}.gguf")
    return str(tmp_path / "demo.gguf"), str(tmp_path / "demo-draft.gguf")


@pytest.mark.parametrize(
    "asked",
    [
        Settings(method="plain", context=1024, threads=1),
        Settings(method="model", shape="tree", nodes=8, context=512, threads=1),
    ],
    ids=["plain", "tree"],
)
def test_what_was_predicted_is_what_it_takes(own: tuple[str, str], asked: Settings) -> None:
    """Within 2 % or 4 MiB of what the process grew by, after text and a pass of full width. Fails when a component is
    forgotten, or a budget means nothing."""
    target, draft = own
    with Supervisor() as fresh:
        drafter = None if asked.method == "plain" else draft
        (found,) = fresh.probe(replace(asked, model=target, draft=drafter), load=True).models
    measured = found.measured
    assert measured is not None
    assert abs(measured.total_bytes - measured.predicted_bytes) <= max(0.02 * measured.predicted_bytes, 4 * MIB)
    assert measured.total_bytes > found.weight_bytes
    assert 0 < measured.n_cells <= (asked.context or 0) + 16
    assert measured.predicted_bytes <= found.predicted.total_bytes


def test_the_runtimes_own_figures_stand_beside_the_prediction(weightless: None) -> None:
    """Of every component it tells of, the drafter's too. Fails when a component has another name there, or a formula
    has drifted."""
    asked = Settings(model="demo", method="model", shape="chain", nodes=4)
    (found,) = probe(asked, False, silent).models
    said = dict(found.runtime)
    parts = ("weights", "kv", "compute", "output")
    assert set(said) == {*parts, *(f"draft {part}" for part in parts)}
    for name in ("weights", "kv", "compute", "draft weights", "draft kv", "draft compute"):
        assert found.predicted.of(name) == pytest.approx(said[name], rel=0.02, abs=1 << 14), name
    assert found.measured is None


def test_a_plan_is_told_with_what_it_was_chosen_over(weightless: None) -> None:
    """Fails when a person cannot see what they would give up, or a way down the ladder takes more."""
    (found,) = probe(Settings(model="demo", method="model", nodes=8), False, silent).models
    assert [line.line for line in found.lines][:4] == ["weights", "memory", "context", "kv"]
    assert any(a.what.startswith("plain decoding") for a in found.alternatives)
    steps = [a for a in found.alternatives if a.tokens_per_s is None]
    totals = [found.predicted.total_bytes + found.program_bytes + found.margin_bytes, *(a.total_bytes for a in steps)]
    assert steps
    assert totals == sorted(totals, reverse=True)


def test_without_a_model_every_known_one_is_told_best_first(weightless: None) -> None:
    """The largest that fits is the best. Fails when a model is left out, or a name says nothing about this machine."""
    found = probe(Settings(), False, silent)
    assert sorted(m.model for m in found.models) == sorted(registry.names())
    sizes = [m.weight_bytes for m in found.models]
    assert sizes == sorted(sizes, reverse=True)
    assert not any(m.shortfall for m in found.models)
    assert all(m.tokens_per_s > 0 for m in found.models)
    assert found.devices[0].name == "cpu"
    assert 0 < found.devices[0].free_bytes <= found.devices[0].total_bytes


def test_one_that_does_not_fit_is_told_as_such_behind_the_others(weightless: None) -> None:
    """Fails when one model that is too large ends the listing, or looks like a choice."""
    found = probe(Settings(budget=24 * MIB), False, silent).models
    short = [m for m in found if m.shortfall]
    assert [m.model for m in short] == ["demo"]
    assert found[-1] == short[0]
    assert "24.0 MiB" in short[0].shortfall
    assert not short[0].lines


def test_a_cancel_ends_the_listing() -> None:
    """Fails when Ctrl-C waits for every model there is."""
    with pytest.raises(Cancelled):
        probe(Settings(), False, silent, cancelled=lambda: True)
    with pytest.raises(Cancelled):
        probe(Settings(model="demo"), True, silent, cancelled=lambda: True)


def test_a_model_that_is_named_and_missing_is_an_error() -> None:
    """A line in a table would hide it."""
    with pytest.raises(ModelNotFound):
        probe(Settings(model="demi"), False, silent)
