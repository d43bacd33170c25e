"""Workers to talk to: a scripted one, and the real one with the demo."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edgespec.service.messages import Done, Progress, Said
from edgespec.service.supervisor import Nudged, Supervisor
from edgespec.types import Message, Sampling, Settings

Scripted = Callable[..., Supervisor]


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """Starts a fake worker with a stage and an ending; all of them are closed after the test."""
    with ExitStack() as started:

        def start(stage: str = "", ending: str | int = "") -> Supervisor:
            command = (sys.executable, str(Path(__file__).with_name("fake_worker.py")), stage, str(ending))
            return started.enter_context(Supervisor(command))

        yield start


def ask(worker: Supervisor, command: str) -> Iterator[Progress | Said | Nudged | Done]:
    return worker.generate([Message("user", command)], Sampling())


def loaded(worker: Supervisor) -> Supervisor:
    worker.load(Settings())
    return worker
