"""Bytes as they are: remembered figures, processes, devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgespec.backends.llama_cpp.devices import Device
from edgespec.backends.llama_cpp.figures import Figures
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.memory import measure
from edgespec.types import ContextSpec

DEMO = Path(__file__).parents[2] / "edgespec" / "demo" / "demo.gguf"
SPECS = [ContextSpec(n_ctx, max_nodes=4, max_leaves=2) for n_ctx in (256, 512)]
FIGURES = Figures({}, {"CPU": 5}, 6, 7, 8)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[ContextSpec]:
    """Specs that the runtime was asked about."""
    found: list[ContextSpec] = []

    def answer(order: measure.Asked) -> list[Figures]:
        found.extend(order.specs)
        return [FIGURES] * len(order.specs)

    monkeypatch.setenv("EDGESPEC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(measure, "dry_run", answer)
    return found


def test_the_runtime_is_asked_once_for_each_spec(asked: list[ContextSpec]) -> None:
    """Fails when every start costs a child process, or a spec's figure is taken for another's."""
    assert measure.runtime_figures(DEMO, LoadOptions(), SPECS[:1], trees=True) == [FIGURES]
    assert measure.runtime_figures(DEMO, LoadOptions(), SPECS, trees=True) == [FIGURES, FIGURES]
    assert asked == SPECS


def test_other_options_are_other_figures(asked: list[ContextSpec]) -> None:
    """Fails when layers on a device are told the processor's bytes."""
    for n_gpu_layers in (0, 5):
        measure.runtime_figures(DEMO, LoadOptions(n_gpu_layers=n_gpu_layers), SPECS[:1], trees=True)
    assert len(asked) == 2


def test_buffers_are_told_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when pinned memory of the host counts as a card's."""
    monkeypatch.setattr(measure.devices, "devices", lambda: (Device("CUDA0", "a card", 1, 2, False),))
    found = measure.by_device({"CUDA0": 10, "CUDA_Host": 3, "CPU_Mapped": 4, "CPU_REPACK": 5})
    assert found == {"CUDA0": 10, "cpu": 12}


def test_growth_is_what_came_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a weighing tells totals; a device that disappears in between is left out."""
    cards = [Device("CUDA0", "", 100, 200, False), Device("CUDA1", "", 100, 200, False), Device("MTL0", "", 9, 9, True)]
    sizes = iter([1000, 1500])
    monkeypatch.setattr(measure, "pss", lambda: next(sizes))
    monkeypatch.setattr(measure.devices, "devices", lambda: tuple(cards))
    weighing = measure.Weighing.begin()
    cards[:] = [Device("CUDA0", "", 40, 200, False)]
    assert weighing.growth() == {"cpu": 500, "CUDA0": 60}


def test_a_process_weighs_something() -> None:
    """Fails when the system's own figure is not found."""
    assert measure.pss() > 10 << 20
