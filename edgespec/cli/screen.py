"""What the verbs share while they work: a line of progress on a terminal, pieces as they come, and what Ctrl-C does."""

from __future__ import annotations

import sys

from edgespec.errors import Cancelled
from edgespec.service.messages import Done, Loaded, Progress
from edgespec.service.supervisor import Supervisor
from edgespec.types import Message, Sampling, Settings


class ProgressLine:
    """A line on stderr that overwrites itself and is wiped before the answer."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, event: Progress) -> None:
        if sys.stderr.isatty():
            share = f" {event.done:4.0%}" if event.done else " ..."
            print(f"\r\x1b[K{event.what}{share}", end="", file=sys.stderr, flush=True)
            self._shown = True

    def wipe(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False


def load(worker: Supervisor, settings: Settings) -> Loaded:
    """Load with progress, then say what the user should know before believing the model."""
    line = ProgressLine()
    try:
        loaded = worker.load(settings, line.show)
    except KeyboardInterrupt:
        raise Cancelled("stopped while loading the model") from None
    finally:
        line.wipe()
    for warning in loaded.warnings:
        print(f"edgespec: warning: {warning}", file=sys.stderr)
    return loaded


def answer(worker: Supervisor, messages: list[Message], sampling: Sampling, max_tokens: int | None, echo: bool) -> Done:
    """Print pieces as they come; Ctrl-C stops the answer and keeps what was said, a second one leaves."""
    events = worker.generate(messages, sampling, max_tokens)
    line, interrupted = ProgressLine(), False
    while True:
        try:
            event = next(events)
            if isinstance(event, Progress):
                line.show(event)
                continue
            line.wipe()
            if isinstance(event, Done):
                return event
            if echo:
                print(event.piece.text, end="", flush=True)
        except KeyboardInterrupt:
            line.wipe()
            if interrupted:
                raise
            interrupted = True
            worker.cancel()
