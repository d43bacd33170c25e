"""Stages of a model process's memory, from the reports of its loading."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgespec.bench import memory
from edgespec.service.messages import Progress


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> memory._Watch:
    """A process of 10 bytes that grows by 10 at every look."""
    sizes: Iterator[int] = iter(range(10, 10_000, 10))
    monkeypatch.setattr(memory, "pss", lambda _: next(sizes))
    return memory._Watch(pid=1)


def load(watch: memory._Watch, *names: str) -> None:
    watch.enter("program")
    for name in names:
        for done in (0.0, 0.5, 1.0):
            watch.enter(memory._stage(Progress(0, f"loading {name}", done), watch))
    watch.enter("answering")
    watch._look()


def test_stages_come_in_order_and_add_up_to_the_peak(watch: memory._Watch) -> None:
    """Fails when a part of the memory belongs to no stage, or the waterfall does not end at its total."""
    load(watch, "target", "small")
    stages = watch.stages()
    assert [s["what"] for s in stages] == ["program", "weights", "drafter", "caches and buffers", "answering"]
    assert sum(s["bytes"] for s in stages) == watch.peak() == 90
    assert all(s["bytes"] > 0 for s in stages)


def test_without_a_drafter_there_is_no_such_stage(watch: memory._Watch) -> None:
    """Fails when plain decoding is charged for a drafter."""
    load(watch, "target")
    assert [s["what"] for s in watch.stages()] == ["program", "weights", "caches and buffers", "answering"]


def test_a_trial_while_loading_is_no_stage_of_its_own(watch: memory._Watch) -> None:
    """Fails when --exact, which is tried out between two loads, sends the watch back to the program."""
    watch.enter("program")
    for what, done in (("loading a", 1.0), ("trying out --exact", 0.0), ("loading b", 0.5), ("loading b", 1.0)):
        watch.enter(memory._stage(Progress(0, what, done), watch))
    watch.enter("answering")
    watch._look()
    assert "drafter" in [s["what"] for s in watch.stages()]
    assert watch.stages()[0]["bytes"] < watch.peak() / 2


def test_a_process_that_is_gone_ends_nothing() -> None:
    """Fails when the watching thread dies of what it watches."""
    watch = memory._Watch(pid=2**22 + 1)
    with watch:
        watch.enter("answering")
    assert watch.peak() == 0
