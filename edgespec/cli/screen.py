"""What the verbs share while they work: a line of progress on a terminal, pieces as they come, and what Ctrl-C does."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from edgespec.errors import Cancelled
from edgespec.service.messages import Done, Loaded, Noted, Progress
from edgespec.service.supervisor import Nudged, Supervisor
from edgespec.settings import Settings
from edgespec.types import Message, Notice, Sampling

# Control characters could drive the terminal: only line breaks and tabs pass.
_CONTROLS = {c: "\ufffd" for c in (*range(32), *range(127, 160)) if chr(c) not in "\n\t"}


class ProgressLine:
    """A line on stderr that overwrites itself and is wiped before the answer; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, event: Progress) -> None:
        if sys.stderr.isatty():
            share = f" {event.done:4.0%}" if event.done else " ..."
            room = shutil.get_terminal_size().columns - len(share) - 1
            print(f"\r\x1b[K{event.what[:room]}{share}", end="", file=sys.stderr, flush=True)
            self._shown = True

    def wipe(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False


class Bar:
    """A bar on stderr, drawn only when it is told something: a thread that redraws would disturb what is measured."""

    _WIDTH = 24

    def __init__(self) -> None:
        self._line = ProgressLine()

    def show(self, what: str, done: float) -> None:
        filled = round(done * self._WIDTH)
        self._line.show(Progress(0, f"[{'#' * filled}{'.' * (self._WIDTH - filled)}] {what}", done))

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.wipe()


class Interrupts:
    """While entered, the first Ctrl-C calls `first`, inside the signal handler, and every later one raises
    KeyboardInterrupt. An exception at the first could strike between two steps and lose a piece of the answer."""

    def __init__(self, first: Callable[[], None]) -> None:
        self._first, self.seen = first, False

    def __enter__(self) -> Interrupts:
        self._before = signal.getsignal(signal.SIGINT)
        if self._before != signal.SIG_IGN:  # ignored by whoever started this, as nohup does
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True
        self._first()


class Echo:
    """Prints an answer's pieces; end() breaks the line where the answer did not."""

    def __init__(self) -> None:
        self._tail = "\n"
        self._terminal = sys.stdout.isatty()

    def print(self, text: str) -> None:
        if text:
            print(text.translate(_CONTROLS) if self._terminal else text, end="", flush=True)
            self._tail = text[-1]

    def note(self, text: str) -> None:
        """A line of ours on stderr; on a terminal below what was printed, and the answer goes on below it."""
        if self._terminal and sys.stderr.isatty() and self._tail != "\n":
            print(file=sys.stderr)
            self._tail = "\n"
        print(f"edgespec: {text}", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._tail != "\n":
            print(flush=True)
            self._tail = "\n"


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


def worth_a_line(notice: Notice) -> bool:
    """Whether a person should see it: that a context grew is in --json alone."""
    return notice.kind != "context"


def answer(
    worker: Supervisor,
    messages: Sequence[Message],
    sampling: Sampling,
    max_tokens: int | None,
    show: bool,
    shows: Callable[[Notice], bool] = worth_a_line,
) -> Done:
    """Print notices that `shows`, and pieces as they come where `show`; Ctrl-C stops the answer and keeps what was
    said, a second one leaves.

    Whatever happens, the line of the answer ends. Raises what Supervisor.generate raises, Cancelled at the second
    Ctrl-C.
    """
    line, echo = ProgressLine(), Echo()
    with contextlib.ExitStack() as at_end:
        at_end.callback(echo.end)
        at_end.callback(line.wipe)
        try:
            with Interrupts(worker.nudge) as interrupts:
                events = worker.generate(messages, sampling, max_tokens)
                if interrupts.seen:  # before there was anything to nudge
                    worker.cancel()
                for event in events:
                    if isinstance(event, Nudged):
                        worker.cancel()
                    elif isinstance(event, Progress):
                        line.show(event)
                    elif isinstance(event, Noted):
                        if shows(event.notice):
                            line.wipe()
                            echo.note(event.notice.text)
                    elif isinstance(event, Done):
                        return event
                    elif show:
                        line.wipe()
                        echo.print(event.piece.text)
        except KeyboardInterrupt:
            raise Cancelled("stopped") from None
    raise AssertionError("an answer ended without Done")
