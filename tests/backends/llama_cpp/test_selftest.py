"""The self-test of the runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgespec.backends.llama_cpp import runtime, selftest
from edgespec.backends.llama_cpp.selftest import HostFacts, host_facts
from edgespec.errors import BackendError, DoesNotFit

DEMO = Path(__file__).parents[3] / "edgespec" / "demo" / "demo.gguf"
GOOD = HostFacts(extra_buffers=True, exact=True, row_depends_on_width=True)


def child(monkeypatch: pytest.MonkeyPatch, script: str) -> list[list[str]]:
    """Replace the child's program; returns the commands it was started with."""
    started: list[list[str]] = []
    honest = subprocess.run

    def run(command, **settings):
        started.append(command)
        return honest([sys.executable, "-c", script, *command[3:]], **settings)

    monkeypatch.setattr(selftest.subprocess, "run", run)
    return started


def test_facts_are_found_once_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when every start pays for the test again, or another build believes this one's answers."""
    started = child(monkeypatch, f"print({json.dumps(vars(GOOD))!r})")
    assert host_facts(DEMO, tmp_path) == host_facts(DEMO, tmp_path) == GOOD
    assert len(started) == 1
    monkeypatch.setattr(runtime, "build_id", lambda: "another")
    host_facts(DEMO, tmp_path)
    assert len(started) == 2


def test_a_host_that_dies_with_repacked_weights_runs_without_them(tmp_path: Path, monkeypatch) -> None:
    """Fails when a signal in the child is not survived (GCC 12 and AMX: docs/design.md section 8)."""
    without = json.dumps({**vars(GOOD), "extra_buffers": False})
    child(monkeypatch, f"import os, sys\nif sys.argv[2] == '1': os.kill(os.getpid(), 11)\nprint({without!r})")
    assert host_facts(DEMO, tmp_path).extra_buffers is False


def test_a_host_that_always_dies_is_told_what_to_build(tmp_path: Path, monkeypatch) -> None:
    """Fails when the user learns a signal number and nothing to do; nothing may be remembered."""
    child(monkeypatch, "import os; os.kill(os.getpid(), 4)")
    with pytest.raises(BackendError, match=r"signal 4.*make setup"):
        host_facts(DEMO, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_memory_is_found_out_again(tmp_path: Path, monkeypatch) -> None:
    """Fails when half a file stops every start."""
    child(monkeypatch, f"print({json.dumps(vars(GOOD))!r})")
    (tmp_path / f"selftest-{runtime.build_id()}.json").write_text('{"exact": tr')
    assert host_facts(DEMO, tmp_path) == GOOD


def test_without_memory_for_a_child_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child killed for its memory looks like a runtime that dies: the host would be told to build it again."""
    started = child(monkeypatch, f"print({json.dumps(vars(GOOD))!r})")
    with pytest.raises(DoesNotFit, match=r"56 MiB.*55 MiB are free; free 1 MiB"):
        host_facts(DEMO, tmp_path, free_bytes=lambda: 55 << 20)
    assert not started
    assert host_facts(DEMO, tmp_path, free_bytes=lambda: selftest.TRY_BYTES) == GOOD
    assert host_facts(DEMO, tmp_path, free_bytes=lambda: 0) == GOOD, "what is remembered takes nothing"


def test_this_host_keeps_the_exact_recipe_in_truth() -> None:
    """Fails when the real measurement does not run; on CPU the recipe has always held."""
    facts = selftest.measure(DEMO, extra_buffers=True)
    assert facts.exact or runtime.supports_gpu()


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only home folder is no reason to refuse an answer."""
    found = HostFacts(extra_buffers=True, exact=True, row_depends_on_width=True)
    monkeypatch.setattr(selftest, "_try", lambda *_: (found, ""))
    (tmp_path / "file").write_text("no folder")
    assert host_facts(Path("unused"), tmp_path / "file" / "cache") == found
