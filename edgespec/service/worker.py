"""The child process that owns the model: takes orders one at a time, cancels between rounds, dies with its parent.

The runtime can abort its process (docs/design.md section 5), which is why it has one of its own. Not covered: deciding
anything.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from edgespec.errors import BackendError, DoesNotFit, EdgespecError
from edgespec.service.messages import (
    Began,
    Cancel,
    Done,
    Failed,
    Generate,
    Load,
    Loaded,
    Noted,
    Pipe,
    Probe,
    Probed,
    Progress,
    Said,
)
from edgespec.types import Answer, Notice, Piece

if TYPE_CHECKING:
    from edgespec.assistant import Assistant

PROGRESS_EVERY_S = 0.1
# Silence behind an answer after which nobody seems to wait.
IDLE_S = 5.0
# Well within what the parent waits for this process to end (child.GRACE_S).
SAVING_S = 3.0


class Worker:
    """Serves one pipe until it ends."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._orders: queue.Queue[Load | Probe | Generate] = queue.Queue()
        self._cancelled: set[int] = set()
        self._assistant: Assistant | None = None
        self._said, self._said_at = "", 0.0
        self._saving = threading.Lock()
        self._closing = False
        self._unsaved: str | None = None
        self._untidy = False
        self._untold: list[Notice] = []

    def listen(self) -> None:
        """Queue orders, note cancels at once; leave the process when the parent is gone, even in mid-pass."""
        try:
            while (order := self._pipe.receive()) is not None:
                if isinstance(order, Cancel):
                    self._cancelled.add(order.request)
                elif isinstance(order, Load | Probe | Generate):
                    self._orders.put(order)
        finally:
            # What the last answer taught is being saved when a face closes right behind it, or a head is being cut.
            self._closing = True
            self._saving.acquire(timeout=SAVING_S)
            leave()

    def serve(self) -> None:
        while True:
            order = self._next()
            try:
                self._obey(order)
            except BrokenPipeError:
                raise
            except Exception as error:
                self._pipe.send(Failed(order.request, _said(error)))
            self._cancelled.discard(order.request)

    def _next(self) -> Load | Probe | Generate:
        """The next order; while none comes, what can wait is done, and given up when one does."""
        if self._untidy:
            try:
                return self._orders.get(timeout=IDLE_S)
            except queue.Empty:
                self._tidy()
        return self._orders.get()

    def _tidy(self) -> None:
        self._untidy = False
        if self._assistant is None:
            return
        try:
            with self._saving:
                said = self._assistant.tidy(lambda: self._closing or not self._orders.empty())
        except Exception:  # nobody asked for it
            traceback.print_exc()
            return
        if said:
            self._untold.append(Notice("drafter", said))

    def _obey(self, order: Load | Probe | Generate) -> None:
        if isinstance(order, Load):
            self._load(order)
        elif isinstance(order, Probe):
            self._probe(order)
        else:
            self._generate(order)

    def _report(self, request: int, what: str, done: float) -> None:
        """Pass progress on, not more often than a person can read; what is new or complete always."""
        now = time.monotonic()
        if what != self._said or now - self._said_at >= PROGRESS_EVERY_S or done >= 1:
            self._said, self._said_at = what, now
            self._pipe.send(Progress(request, what, done))

    def _probe(self, order: Probe) -> None:
        with _importing():
            from edgespec.probing import probe

        found = probe(
            order.settings,
            order.load,
            report=lambda what, done: self._report(order.request, what, done),
            cancelled=lambda: order.request in self._cancelled,
            beside_bytes=_parent_bytes(),
        )
        self._pipe.send(Probed(order.request, found))

    def _load(self, order: Load) -> None:
        with _importing():
            from edgespec.assemble import open_assistant

        if self._assistant is not None:
            self._assistant.close()
            self._assistant = None
        self._assistant = a = open_assistant(
            order.settings,
            report=lambda what, done: self._report(order.request, what, done),
            cancelled=lambda: order.request in self._cancelled,
            rung=order.rung,
            beside_bytes=_parent_bytes(),
        )
        self._pipe.send(
            Loaded(
                request=order.request,
                model=a.entry.name,
                note=a.entry.note,
                n_ctx=a.engine.n_ctx,
                method=a.engine.method,
                plan=a.plan,
                warnings=a.warnings,
                n_rungs=a.n_rungs,
                memory=a.memory,
            )
        )

    def _generate(self, order: Generate) -> None:
        if self._assistant is None:
            raise EdgespecError("no model is loaded; send Load first")
        while self._untold:
            self._pipe.send(Noted(order.request, self._untold.pop(0)))
        for event in self._assistant.chat.stream(
            order.messages,
            sampling=order.sampling,
            max_tokens=order.max_tokens,
            stop=order.stop,
            cancelled=lambda: order.request in self._cancelled,
            progress=lambda done, total: self._report(order.request, "reading the prompt", done / total),
            said=order.said,
            n_shown=order.n_shown,
            start=order.start,
            began=lambda start: self._pipe.send(Began(order.request, start)),
        ):
            if isinstance(event, Piece):
                self._pipe.send(Said(order.request, event))
            elif isinstance(event, Notice):
                self._pipe.send(Noted(order.request, event))
            else:
                with self._saving:
                    self._pipe.send(self._done(order.request, event))
                    self._note_unsaved(self._assistant.keep())
                self._untidy = True

    def _note_unsaved(self, said: str | None) -> None:
        """A failure to save what the last answer taught, found after it was sent, is told with the next one, once."""
        if said and said != self._unsaved:
            self._untold.append(Notice("saving", said))
        self._unsaved = said

    def _done(self, request: int, answer: Answer) -> Done:
        import psutil

        assert self._assistant is not None
        growth = tuple(self._assistant.weighing.growth().items())
        return Done(request, answer, psutil.Process().memory_info().rss, growth=growth)


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Raises BackendError where the runtime's library cannot be loaded."""
    try:
        yield
    except (ImportError, OSError, RuntimeError) as error:
        traceback.print_exc()
        raise BackendError(f"the runtime cannot be loaded ({_brief(error)}); run `make setup` again") from error


def _parent_bytes() -> int:
    """What the face takes of the memory that both share."""
    from edgespec.memory.measure import pss

    try:
        return pss(os.getppid())
    except Exception:  # it may be gone, or belong to somebody else: then it does not count
        return 0


def _said(error: Exception) -> EdgespecError:
    """The error as it crosses the pipe: a sentence, whatever it was; its traceback stays on stderr."""
    if isinstance(error, EdgespecError):
        return error
    traceback.print_exc()
    if isinstance(error, MemoryError):
        return DoesNotFit("the model's process ran out of memory; use a smaller --context or a smaller model")
    return EdgespecError(f"an error inside edgespec ({_brief(error)}); please report it")


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def leave() -> None:
    """End this process at once, and with it whatever it started (the self-test's children)."""
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(0)


def _own_stdout() -> BinaryIO:
    """The pipe to the parent, with file descriptor 1 pointed at stderr: a stray print must not break a frame."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return pipe


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the face decides
    worker = Worker(Pipe(sys.stdin.buffer, _own_stdout()))
    threading.Thread(target=worker.listen, daemon=True).start()
    try:
        worker.serve()
    except BrokenPipeError:
        leave()


if __name__ == "__main__":
    main()
