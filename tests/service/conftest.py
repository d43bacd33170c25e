"""Workers to talk to: a scripted one, and the real one with the demo."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edgespec.service.supervisor import Supervisor

Scripted = Callable[..., Supervisor]


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """Starts a fake worker with a stage and an ending; all of them are closed after the test."""
    with ExitStack() as started:

        def start(stage: str = "", ending: str | int = "") -> Supervisor:
            command = (sys.executable, str(Path(__file__).with_name("fake_worker.py")), stage, str(ending))
            return started.enter_context(Supervisor(command))

        yield start
