"""Control groups of the benchmarks: what cannot be had is said, what fails in them is not hidden."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def cgroups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """With folders of ours for the system's."""
    module = importlib.import_module("cgroups")
    monkeypatch.setattr(module, "_made", lambda name: module.Group(tmp_path / name, 2))
    monkeypatch.setattr(module.Group, "remove", lambda self: None)
    monkeypatch.setattr(module, "_disk_of", lambda _: "8:0")
    return module


def test_a_failure_inside_a_group_stays_what_it_is(cgroups: ModuleType, tmp_path: Path) -> None:
    """A server that does not start. Fails when it is taken for a machine without control groups, and a benchmark that
    broke says that it was skipped."""
    made = cgroups._made

    def there(name: str) -> object:
        (tmp_path / name).mkdir()
        return made(name)

    cgroups._made = there
    with (
        pytest.raises(FileNotFoundError),
        cgroups.new_group(1 << 20) as group,
        cgroups.throttled(group, tmp_path, 1000),
    ):
        raise FileNotFoundError("llama-server")
    assert (group.folder / "memory.max").read_text() == str(1 << 20)
    assert (group.folder / "io.max").read_text() == "8:0 rbps=1000"


def test_a_limit_that_cannot_be_set_is_said(cgroups: ModuleType) -> None:
    """Fails when nothing was limited and figures are recorded all the same: the group's folder is not there."""
    gone = cgroups.Group(Path("/nowhere/at/all"), 1)
    cgroups._made = lambda name: cgroups.replace(gone, folder=Path(__file__))
    with pytest.raises(cgroups.Unavailable), cgroups.new_group(1 << 20):
        pass
