"""One model behind a process that may die: requests, and what is done about a death (restart and replay).

A process that died is started again one rung down the ladder of its plan; the conversation is replayed and the answer
goes on behind what it had said. Not covered: what the rungs are (assemble), the process itself (child).
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from edgespec.errors import Cancelled, DoesNotFit, EdgespecError, WorkerDied
from edgespec.memory.pressure import read_once
from edgespec.memory.report import ProbeReport
from edgespec.memory.sizes import MIB, shown
from edgespec.service.child import ANSWERING, IDLE, LOADING, Child, Ended
from edgespec.service.messages import (
    Began,
    Cancel,
    Done,
    Event,
    Failed,
    Generate,
    Load,
    Loaded,
    Noted,
    Probe,
    Probed,
    Progress,
    Said,
)
from edgespec.service.replay import Record
from edgespec.settings import Settings
from edgespec.types import Message, Notice, Sampling

COMMAND = (sys.executable, "-m", "edgespec.service.worker")
MOST_DEATHS = 3
# What the process takes before it has a plan that counts what it takes (32 MiB of Python and the runtime's library, and
# the search); killed for its memory while it starts, it could not say so.
START_BYTES = 40 * MIB
# Python runs signal handlers between waits only, and Windows wakes no wait for them.
WAIT_S = 0.2


@dataclass(frozen=True)
class Nudged:
    """Nobody sent this: `Supervisor.nudge` was called, and whoever reads the events may look around."""

    request: int


class Supervisor:
    """One model in one child process at a time; one request at a time. `most_deaths` in a row end a request; the next
    one begins with a new process. A row ends with an answer, a refusal or a load that was asked for."""

    def __init__(self, command: Sequence[str] = COMMAND, most_deaths: int = MOST_DEATHS) -> None:
        """Raises WorkerDied where the process cannot be started, DoesNotFit where there is no memory for it."""
        _check_room()
        self._command, self._most_deaths = command, most_deaths
        self._events: queue.SimpleQueue[Event | Nudged | Ended] = queue.SimpleQueue()
        self._requests = count(1)
        self._order: Load | None = None  # what a new process loads
        self._loaded: Loaded | None = None  # what the process at work has loaded
        self._n_rungs: int | None = None
        self._current: int | None = None  # the caller's request
        self._pending: int | None = None  # what the process is at: that one, or a load on its behalf
        self._cancelled = False
        self._closed = self._dead = False
        self._method, self._n_deaths = "plain", 0
        self._child: Child | None = None
        self._child = self._started()

    @property
    def pid(self) -> int:
        """Of the process at work, or of the last one."""
        return self._pid

    @property
    def loaded(self) -> Loaded | None:
        """What is at work now: after a restart another plan than `load` returned; None where nothing is."""
        return self._loaded

    def load(self, settings: Settings, progress: Callable[[Progress], None] = lambda _: None) -> Loaded:
        """Raises what assemble.open_assistant raises, or WorkerDied. Deaths on the way are among the warnings."""
        self._begin(next(self._requests))
        self._order, self._loaded, self._n_rungs = Load(0, settings), None, None
        notices = []
        try:
            for event in self._bring_up():
                if isinstance(event, Progress):
                    progress(event)
                elif isinstance(event, Noted):
                    notices.append(event.notice.text)
        finally:
            self._current = None
        assert self._loaded is not None
        self._n_deaths = 0
        return replace(self._loaded, warnings=(*self._loaded.warnings, *notices))

    def probe(
        self, settings: Settings, load: bool = False, progress: Callable[[Progress], None] = lambda _: None
    ) -> ProbeReport:
        """Raises what probing.probe raises, or WorkerDied: a probe is not tried again."""
        self._begin(next(self._requests))
        order = Probe(self._current or 0, settings, load)
        self._send(order)
        while (event := self._next(order.request)) is not None:
            if isinstance(event, Progress):
                progress(event)
            elif isinstance(event, Probed):
                self._current = None
                return event.report
        self._bury("being probed")
        raise WorkerDied("the model's process died while it was probed; try again, or give a smaller --context")

    def generate(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[Progress | Said | Noted | Nudged | Done]:
        """Events of one answer, Done last; raises what Chat.stream raises or WorkerDied, once tokens came AnswerCut.

        The order is sent at once. Leaving the iterator, or asking anew, cancels what is still under way. A death is a
        Noted, and the answer goes on as if there had been none; Progress of the new process's loading comes in between.
        """
        order = Generate(next(self._requests), tuple(messages), sampling, max_tokens, tuple(stop))
        self._begin(order.request)
        doing = IDLE if self._child and self._child.has_ended() else ANSWERING
        if self._order is None or self._loaded is not None:
            self._send(order)
        return self._answer(Record(order), doing)

    def cancel(self) -> None:
        """Stop the request under way; its events go on until it has ended. Harmless when there is none."""
        if self._current is None:
            return
        self._cancelled = True
        if self._child is not None and self._pending is not None:
            self._child.send(Cancel(self._pending))

    def nudge(self) -> None:
        """Make the answer under way yield a Nudged; may be called from a signal handler, which `cancel` may not."""
        self._events.put(Nudged(self._current or 0))

    def close(self) -> None:
        """End the process: gently, then for good. Idempotent."""
        self._closed = True
        if self._child is not None:
            self._child.close()

    def kill(self) -> None:
        """End the process now, and whatever it started."""
        self._closed = True
        if self._child is not None:
            self._child.kill()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close() if kind is None else self.kill()

    def _begin(self, request: int) -> None:
        if self._closed:
            raise WorkerDied("the model's process was ended on purpose; start edgespec again")
        self.cancel()
        self._current, self._pending, self._cancelled = request, None, False

    def _answer(self, record: Record, doing: str) -> Iterator[Progress | Said | Noted | Nudged | Done]:
        request = record.order.request
        try:
            for event in self._persist(record, doing):
                if isinstance(event, Progress | Nudged):
                    yield event
                elif (news := record.heard(event)) is not None:
                    yield news
        except Cancelled:  # only while there is no process to finish a cancelled answer by itself
            yield record.stopped(self._method)
        except EdgespecError as error:
            raise record.failed(error) from None
        finally:
            if self._current == request:
                if self._pending is not None:
                    self.cancel()
                self._current = None

    def _persist(self, record: Record, doing: str) -> Iterator[Progress | Began | Said | Noted | Nudged | Done]:
        """Events of the process at work and of those that come after it."""
        request = record.order.request
        while True:
            while self._pending == request and (event := self._next(request)) is not None:
                assert isinstance(event, Progress | Began | Said | Noted | Nudged | Done)
                yield event
                if isinstance(event, Done):
                    return
            if self._dead:
                yield Noted(request, self._bury(doing, len(record.tokens)))
            yield from self._bring_up()
            doing = ANSWERING
            self._send(record.rest())

    def _bring_up(self) -> Iterator[Progress | Noted | Nudged]:
        """Until the process at work has its model; raises what loading raises, Cancelled, WorkerDied."""
        while self._order is not None and self._loaded is None:
            if self._dead:
                yield Noted(self._current or 0, self._bury(LOADING))
            if self._cancelled:
                raise Cancelled("stopped while loading the model")
            self._order = replace(self._order, request=next(self._requests))
            self._send(self._order)
            while self._pending is not None and (event := self._next(self._order.request)) is not None:
                if isinstance(event, Loaded):
                    self._loaded, self._n_rungs, self._method = event, event.n_rungs, event.method
                    break
                assert isinstance(event, Progress | Nudged)
                yield event
                if self._cancelled:
                    raise Cancelled("stopped while loading the model")

    def _send(self, order: Load | Probe | Generate) -> None:
        """Give an order to the process at work, or to a new one where there is none."""
        if self._child is None:
            self._child = self._started()
        if not self._child.send(order):
            self._dead = True
            return
        self._pending = order.request
        if self._cancelled:
            self.cancel()

    def _next(self, request: int) -> Event | Nudged | None:
        """The request's next event, None where the process has died; events of an earlier request that nobody read to
        its end are passed over. Raises the error of a request that failed."""
        while True:
            try:
                event = self._events.get(timeout=WAIT_S)
            except queue.Empty:
                continue
            if isinstance(event, Ended):
                if event.child is self._child:
                    self._pending, self._dead = None, True
                    return None
            elif isinstance(event, Nudged):
                if event.request == self._current:
                    return event
            elif event.request == request:
                if isinstance(event, Failed | Done | Loaded | Probed):
                    self._pending = None
                if isinstance(event, Failed | Done):
                    self._n_deaths = 0
                if isinstance(event, Failed):
                    raise event.error
                return event

    def _started(self) -> Child:
        """Raises WorkerDied where it cannot be started."""
        child = Child(self._command, self._events.put)
        self._pid = child.pid
        return child

    def _bury(self, doing: str, n_tokens: int = 0) -> Notice:
        """What to say of the death that was found; the next process begins a rung lower. Raises WorkerDied where it is
        one too many."""
        assert self._child is not None
        obituary = self._child.obituary(doing)
        self._child, self._loaded, self._dead = None, None, False
        smaller = self._step_down()
        self._n_deaths += 1
        if self._n_deaths >= self._most_deaths:
            n_restarts, self._n_deaths = self._n_deaths - 1, 0
            after = f", after {n_restarts} restarts" if n_restarts else ""
            raise WorkerDied(f"the model's process {obituary.how}{after}{obituary.words}; {obituary.todo}")
        how = " with your next message" if self._cancelled else " with a smaller plan" if smaller else ""
        return Notice("restart", f"the model's process {obituary.how}{obituary.words}; it starts again{how}", n_tokens)

    def _step_down(self) -> bool:
        """Whether the next process will have a smaller plan, as far as is known: only one that has loaded tells how
        many rungs promise the same context. The worker stops at the last of them by itself."""
        if self._order is None:
            return False
        rung = self._order.rung + 1
        rung = rung if self._n_rungs is None else min(rung, self._n_rungs - 1)
        smaller = self._n_rungs is not None and rung > self._order.rung
        self._order = replace(self._order, rung=rung)
        return smaller


def _check_room() -> None:
    reading = read_once()
    if reading.free_bytes < START_BYTES:
        raise DoesNotFit(
            f"the model's process takes {shown(START_BYTES)} before it has loaded anything, and "
            f"{shown(reading.free_bytes)} are free {reading.limit}; close other programs or raise that limit"
        )
