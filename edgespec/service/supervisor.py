"""Starts the model's process, talks to it, notices its death. Not covered yet: restart and replay."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from edgespec.errors import WorkerDied
from edgespec.service.messages import (
    Cancel,
    Done,
    Event,
    Failed,
    Generate,
    Load,
    Loaded,
    Pipe,
    Progress,
    Said,
)
from edgespec.types import Message, Sampling, Settings

COMMAND = (sys.executable, "-m", "edgespec.service.worker")
LOADING, ANSWERING = "loading the model", "answering"
GRACE_S = 5
# Python runs signal handlers between waits only, and Windows wakes no wait for them.
WAIT_S = 0.2
_LAST_WORDS = 100
_FAILED_SIGNALS = ("SIGABRT", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGTRAP")


@dataclass(frozen=True)
class Nudged:
    """Nobody sent this: `Supervisor.nudge` was called, and whoever reads the events may look around."""

    request: int


class Supervisor:
    """One model in one child process; one request at a time. Ctrl-C reaches only the face: the child is a session of
    its own and ends when this object's pipe does, however this process ends."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        """Raises WorkerDied where the process cannot be started."""
        self._child = _start(command)
        self._pipe = Pipe(self._child.stdout, self._child.stdin)  # type: ignore[arg-type]
        self._events: queue.SimpleQueue[Event | Nudged | None] = queue.SimpleQueue()
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._requests = count(1)
        self._current: int | None = None
        self._threads = [threading.Thread(target=t, daemon=True) for t in (self._listen, self._note_last_words)]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def load(self, settings: Settings, progress: Callable[[Progress], None] = lambda _: None) -> Loaded:
        """Raises what assemble.open_assistant raises, or WorkerDied."""
        request = self._send(Load(next(self._requests), settings), LOADING)
        while not isinstance(event := self._next(request, LOADING), Loaded):
            if isinstance(event, Progress):
                progress(event)
        return event

    def generate(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[Progress | Said | Nudged | Done]:
        """Events of one answer, Done last; raises what Chat.stream raises, or WorkerDied.

        The order is sent at once. Leaving the iterator, or asking anew, cancels what is still under way.
        """
        order = Generate(next(self._requests), tuple(messages), sampling, max_tokens, tuple(stop))
        return self._answer(self._send(order, ANSWERING))

    def _answer(self, request: int) -> Iterator[Progress | Said | Nudged | Done]:
        try:
            while True:
                event = self._next(request, ANSWERING)
                assert isinstance(event, Progress | Said | Nudged | Done)
                yield event
                if isinstance(event, Done):
                    return
        finally:
            if self._current == request:
                self.cancel()

    def cancel(self) -> None:
        """Stop the request under way; its events go on until it has ended. Harmless when there is none."""
        if self._current is not None:
            with contextlib.suppress(OSError, ValueError):
                self._pipe.send(Cancel(self._current))

    def nudge(self) -> None:
        """Make the answer under way yield a Nudged; may be called from a signal handler, which `cancel` may not."""
        self._events.put(Nudged(self._current or 0))

    def _send(self, order: Load | Generate, doing: str) -> int:
        self.cancel()
        try:
            self._pipe.send(order)
        except (OSError, ValueError):  # the pipe broke, or was closed
            raise self._death(doing) from None
        self._current = order.request
        return order.request

    def _next(self, request: int, doing: str) -> Event | Nudged:
        """The request's next event; events of an earlier one that nobody read to its end are passed over."""
        while True:
            try:
                event = self._events.get(timeout=WAIT_S)
            except queue.Empty:
                continue
            if event is None:
                raise self._death(doing)
            if event.request != request:
                continue
            if isinstance(event, Failed | Done | Loaded):
                self._current = None
            if isinstance(event, Failed):
                raise event.error
            return event

    def _listen(self) -> None:
        with contextlib.suppress(Exception):  # a frame that a dying process left unfinished may fail in any way
            while (event := self._pipe.receive()) is not None:
                self._events.put(event)  # type: ignore[arg-type]
        self._events.put(None)

    def _note_last_words(self) -> None:
        assert self._child.stderr is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self._child.stderr:
                if line.strip():
                    self._last_words.append(line.decode("utf-8", "replace").strip())

    def _death(self, doing: str) -> WorkerDied:
        self._current = None
        self._events.put(None)  # the next request must find the same
        self._reap()
        return WorkerDied(_obituary(self._child.returncode, doing, list(self._last_words)))

    def _reap(self) -> None:
        """Wait for the child to end, but not for ever, and for what it said last."""
        try:
            self._child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            _kill(self._child)
        for thread in self._threads:
            thread.join(GRACE_S)

    def close(self) -> None:
        """End the child: gently, then for good. Idempotent."""
        with contextlib.suppress(OSError):
            self._child.stdin.close()  # type: ignore[union-attr]
        self._reap()
        for thread, stream in zip(self._threads, (self._child.stdout, self._child.stderr), strict=True):
            if stream and not thread.is_alive():  # else a grandchild holds it open, and closing would wait for that
                stream.close()

    def kill(self) -> None:
        """End the child now, and whatever it started."""
        _kill(self._child)
        self.close()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close() if kind is None else self.kill()


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """The child; files in the user's current folder are not what it imports, whatever their names."""
    environment = dict(os.environ)
    if not os.path.samefile(os.curdir, Path(__file__).resolve().parents[2]):
        environment["PYTHONSAFEPATH"] = "1"
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    except OSError as error:
        why = f"the model's process could not be started ({error}); free some memory and try again"
        raise WorkerDied(why) from None


def _kill(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except (AttributeError, ProcessLookupError, PermissionError):  # Windows has no groups
            child.kill()
    child.wait()


def _obituary(code: int, doing: str, last_words: Sequence[str]) -> str:
    """One sentence: how the process ended, in its own words where it chose to end, and what to do."""
    how, todo = f"ended (exit code {code})", "start edgespec again"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        how, todo = f"was killed by {name}", _next_step(name, doing)
        last_words = last_words if name == "SIGABRT" else ()
    telling = [line for line in last_words if "ASSERT" in line or "error" in line.lower()]
    said = next(iter((telling or list(last_words))[-1:]), "")
    said = re.sub(r"\S*/(?=\S+:\d+: )", "", said)  # the folder of the machine that built the runtime
    return f"the model's process {how} while {doing}{': ' + said if said else ''}; {todo}"


def _next_step(signal_name: str, doing: str) -> str:
    if signal_name == "SIGKILL":
        return "it may have run out of memory: use a smaller --context or a smaller model"
    if signal_name == "SIGILL":
        return "the runtime was built for another processor: build it again with `make setup`"
    if signal_name in _FAILED_SIGNALS:
        return "the file may be damaged: download it again, or use another" if doing == LOADING else "try again"
    return "start edgespec again"
