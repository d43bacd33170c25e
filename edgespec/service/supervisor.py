"""Starts the model's process, talks to it, notices its death. Not covered yet: restart and replay."""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from edgespec.errors import Cancelled, WorkerDied
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

GRACE_S = 5


class Supervisor:
    """One model in one child process; one request at a time. Ctrl-C reaches only the face: the child is a session of
    its own and ends when this object's pipe does, however this process ends."""

    def __init__(self, command: Sequence[str] = (sys.executable, "-m", "edgespec.service.worker")) -> None:
        self._stderr = tempfile.TemporaryFile()
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
        )
        assert self._child.stdin and self._child.stdout
        self._pipe = Pipe(self._child.stdout, self._child.stdin)  # type: ignore[arg-type]
        self._events: queue.Queue[Event | None] = queue.Queue()
        self._requests = count(1)
        self._current: int | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError, EOFError):
            while (event := self._pipe.receive()) is not None:
                self._events.put(event)  # type: ignore[arg-type]
        self._events.put(None)

    @property
    def pid(self) -> int:
        return self._child.pid

    def load(self, settings: Settings, progress: Callable[[Progress], None] = lambda _: None) -> Loaded:
        """Raises what assemble.open_assistant raises, or WorkerDied."""
        request = self._send(Load(next(self._requests), settings), "loading the model")
        while not isinstance(event := self._next(request, "loading the model"), Loaded):
            if isinstance(event, Progress):
                progress(event)
        return event

    def generate(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[Progress | Said | Done]:
        """Events of one answer, Done last; raises what Chat.stream raises, or WorkerDied.

        An exception from outside, such as Ctrl-C, leaves the iterator usable.
        """
        order = Generate(next(self._requests), tuple(messages), sampling, max_tokens, tuple(stop))
        return _Events(self._next, self._send(order, "answering"))

    def cancel(self) -> None:
        """Stop the request under way; its events go on until it has ended. Harmless when there is none."""
        if self._current is not None:
            with contextlib.suppress(OSError):
                self._pipe.send(Cancel(self._current))

    def _send(self, order: Load | Generate, doing: str) -> int:
        try:
            self._pipe.send(order)
        except OSError:
            raise self._death(doing) from None
        self._current = order.request
        return order.request

    def _next(self, request: int, doing: str) -> Event:
        """The request's next event; events of an earlier one that nobody read to its end are passed over."""
        while True:
            event = self._events.get()
            if event is None:
                raise self._death(doing)
            if event.request != request:
                continue
            if isinstance(event, Failed | Done | Loaded):
                self._current = None
            if isinstance(event, Failed):
                raise event.error
            return event

    def _death(self, doing: str) -> WorkerDied:
        self._events.put(None)  # the next request must find the same
        code = self._child.wait()
        how = f"exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
        hint = "; it may have run out of memory: use a smaller --context" if how == "SIGKILL" else ""
        self._stderr.seek(0)
        last = (self._stderr.read().decode("utf-8", "replace").strip().splitlines() or [""])[-1].strip()
        why = f": {last}" if last else ""
        return WorkerDied(f"the model's process died while {doing} ({how}){why}{hint}; start edgespec again")

    def close(self) -> None:
        """End the child: gently, then for good."""
        with contextlib.suppress(OSError):
            if self._child.stdin:
                self._child.stdin.close()
        try:
            self._child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._stderr.close()

    def kill(self) -> None:
        """End the child now."""
        self._child.kill()
        self.close()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.kill() if kind in (KeyboardInterrupt, Cancelled) else self.close()


class _Events:
    """The events of one answer; a class, since an exception would end a generator for good."""

    def __init__(self, receive: Callable[[int, str], Event], request: int) -> None:
        self._receive, self._request, self._ended = receive, request, False

    def __iter__(self) -> _Events:
        return self

    def __next__(self) -> Progress | Said | Done:
        if self._ended:
            raise StopIteration
        event = self._receive(self._request, "answering")
        self._ended = isinstance(event, Done)
        assert isinstance(event, Progress | Said | Done)
        return event
