"""What a plan is made from: room, with and without a budget."""

from __future__ import annotations

import pytest

from edgespec.memory import survey
from edgespec.memory.pressure import Reading
from edgespec.memory.sizes import MIB

PROGRAMS = 80 * MIB


def room(monkeypatch: pytest.MonkeyPatch, free_bytes: int, budget: int | None) -> survey.Machine:
    monkeypatch.setattr(survey, "read_once", lambda: Reading(free_bytes, "in control group /small"))
    monkeypatch.setattr(survey.devices, "devices", list)
    return survey.look(False, 1, PROGRAMS, 0, budget)


def test_without_a_budget_a_margin_stays_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is free does not hold the programs any more, what is planned does: 100 - 64 + 80 + 8 for errors."""
    machine = room(monkeypatch, 100 * MIB, None)
    assert machine.free_bytes == 124 * MIB
    assert machine.limit == "in control group /small beside a margin of 64.0 MiB"


def test_less_free_than_the_margin_is_less_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off at the programs, 88 MiB were said to be free in a group of 60: 10 - 64 + 80 + 8."""
    assert room(monkeypatch, 10 * MIB, None).free_bytes == 34 * MIB
    assert room(monkeypatch, 0, None).free_bytes == 24 * MIB


def test_a_budget_is_its_own_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone gives a container 128 MiB and names them: with a margin on top half of that could not be used."""
    machine = room(monkeypatch, 40 * MIB, 128 * MIB)
    assert machine.free_bytes == 128 * MIB
    assert machine.limit == "in control group /small"
