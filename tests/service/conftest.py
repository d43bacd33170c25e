"""Workers to talk to: a scripted one, and the real one with the demo."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edgespec.service.messages import Done, Noted, Progress, Said
from edgespec.service.supervisor import MOST_DEATHS, Nudged, Supervisor
from edgespec.settings import Settings
from edgespec.types import Message, Sampling

Scripted = Callable[..., Supervisor]
Happening = Progress | Said | Noted | Nudged | Done


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """Starts a fake worker with a stage and an ending; all of them are closed after the test."""
    with ExitStack() as started:

        def start(stage: str = "", ending: str | int = "", most_deaths: int = MOST_DEATHS) -> Supervisor:
            command = (sys.executable, str(Path(__file__).with_name("fake_worker.py")), stage, str(ending))
            return started.enter_context(Supervisor(command, most_deaths))

        yield start


def ask(worker: Supervisor, command: str) -> Iterator[Happening]:
    return worker.generate([Message("user", command)], Sampling())


def loaded(worker: Supervisor) -> Supervisor:
    worker.load(Settings())
    return worker
