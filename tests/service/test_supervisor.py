"""The process that watches: whose events are whose, and that nothing is left behind. No model here."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from edgespec.errors import ContextOverflow, ModelNotFound
from edgespec.service import child as module
from edgespec.service.messages import Done, Progress, Said
from edgespec.service.supervisor import Nudged, Supervisor
from edgespec.settings import Settings
from tests.service.conftest import Scripted, ask, loaded

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups are POSIX")
needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux tells when a stranger's child ends")


def test_stray_prints_of_the_child_break_no_frame(scripted: Scripted) -> None:
    """The frames travel over its standard output, where libraries print."""
    pieces = [e.piece.text for e in ask(loaded(scripted()), "count") if isinstance(e, Said)]
    assert pieces == ["one ", "two ", "three"]


def test_progress_reaches_the_caller_of_load(scripted: Scripted) -> None:
    """Load returns its last event only."""
    seen: list[Progress] = []
    scripted().load(Settings(), seen.append)
    assert [(p.what, p.done) for p in seen] == [("loading fake", 0.5)]


def test_an_error_of_the_worker_is_raised_with_its_kind_and_the_worker_goes_on(scripted: Scripted) -> None:
    """A refusal is an ending of the request, not of the process."""
    worker = loaded(scripted())
    with pytest.raises(ContextOverflow) as caught:
        list(ask(worker, "overflow"))
    assert (caught.value.n_needed, caught.value.n_ctx) == (200, 128)
    assert isinstance(list(ask(worker, "count"))[-1], Done)


def test_cancel_stops_the_answer_and_its_rest_still_comes(scripted: Scripted) -> None:
    """A cancel that closed the pipe or dropped events would lose what was said."""
    worker = loaded(scripted())
    events = ask(worker, "wait")
    next(events)
    worker.cancel()
    *rest, done = events
    assert [e.piece.text for e in rest if isinstance(e, Said)] == ["two ", "three"]
    assert isinstance(done, Done)
    assert done.answer.finish == "cancelled"


def test_cancel_with_nothing_under_way_does_nothing(scripted: Scripted) -> None:
    """A stop that comes late must not stop the next answer."""
    worker = loaded(scripted())
    list(ask(worker, "count"))
    worker.cancel()
    done = list(ask(worker, "count"))[-1]
    assert isinstance(done, Done)
    assert done.answer.finish == "stop"


@pytest.mark.parametrize("leave", [True, False], ids=["left", "kept"])
def test_a_new_answer_has_nothing_of_one_that_was_not_read_to_its_end(scripted: Scripted, leave: bool) -> None:
    """Its pieces are in the pipe already, and without a cancel the worker would never come to the new one."""
    worker = loaded(scripted())
    abandoned = ask(worker, "wait")
    next(abandoned)
    if leave:
        abandoned.close()  # type: ignore[attr-defined]
    pieces = [e.piece.text for e in ask(worker, "count") if isinstance(e, Said)]
    assert pieces == ["one ", "two ", "three"]


def test_leaving_the_iterator_stops_the_answer_at_once(scripted: Scripted) -> None:
    """Nobody may ask anything else for an hour, and the machine would compute for nobody."""
    worker = loaded(scripted())
    events = ask(worker, "wait")
    next(events)
    events.close()  # type: ignore[attr-defined]
    while not isinstance(event := worker._events.get(timeout=60), Done):
        assert event is not None
    assert event.answer.finish == "cancelled"


def test_a_nudge_shows_up_among_the_events_of_the_answer_under_way(scripted: Scripted) -> None:
    """It is how Ctrl-C wakes whoever waits for the next piece."""
    worker = loaded(scripted())
    events = ask(worker, "wait")
    next(events)
    worker.nudge()
    assert isinstance(next(events), Nudged)
    worker.cancel()
    assert isinstance(list(events)[-1], Done)


def test_a_nudge_that_came_too_late_is_not_seen_by_the_next_answer(scripted: Scripted) -> None:
    """Ctrl-C at the very end of one answer would stop the next."""
    worker = loaded(scripted())
    list(ask(worker, "count"))
    worker.nudge()
    assert not [e for e in ask(worker, "count") if isinstance(e, Nudged)]


def test_a_nudge_from_a_signal_handler_wakes_a_wait(scripted: Scripted) -> None:
    """The handler runs inside the wait; a lock it shared with the wait would stop both for ever."""
    worker = loaded(scripted())
    events = ask(worker, "wait")
    next(events)
    before = signal.signal(signal.SIGALRM, lambda *_: worker.nudge())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        assert isinstance(next(events), Nudged)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_close_ends_a_worker_that_hears_nothing(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker stuck in the runtime does not see that its input ended."""
    monkeypatch.setattr(module, "GRACE_S", 0.1)
    worker = loaded(scripted())
    next(ask(worker, "deaf"))
    worker.close()
    assert not psutil.pid_exists(worker.pid)
    worker.close()


@needs_pidfd
def test_kill_ends_what_the_worker_started_too(scripted: Scripted) -> None:
    """The self-test runs in a grandchild, which would go on for half a minute."""
    worker = loaded(scripted())
    said = next(ask(worker, "child"))
    assert isinstance(said, Said)
    ended = os.pidfd_open(int(said.piece.text))
    try:
        worker.kill()
        assert select.select([ended], [], [], 10)[0]
    finally:
        os.close(ended)


def test_an_exception_in_the_face_leaves_no_child(scripted: Scripted) -> None:
    """Leaving by Ctrl-C or by a bug must not wait for the answer under way."""
    worker = loaded(scripted())
    with pytest.raises(KeyboardInterrupt), worker:
        next(ask(worker, "deaf"))
        raise KeyboardInterrupt
    assert not psutil.pid_exists(worker.pid)


def test_ctrl_c_does_not_reach_the_child(scripted: Scripted) -> None:
    """A terminal sends it to its whole foreground group."""
    assert os.getpgid(scripted().pid) != os.getpgid(0)
    assert os.getsid(scripted().pid) != os.getsid(0)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always looks into the current folder first")
def test_files_in_the_current_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m` puts it in front of the standard library: a queue.py lying there would end the worker."""
    (tmp_path / "queue.py").write_text("raise SystemExit('wrong queue')")
    monkeypatch.chdir(tmp_path)
    with Supervisor() as worker, pytest.raises(ModelNotFound):
        worker.load(Settings(model="no-such-model"))


@needs_pidfd
def test_the_worker_is_gone_when_its_face_was_killed() -> None:
    """Nobody is left to close the pipe politely; a model that stays in memory would be found days later."""
    code = (
        "from edgespec.service.supervisor import Supervisor; import signal; "
        "worker = Supervisor(); print(worker.pid, flush=True); signal.pause()"
    )
    face = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert face.stdout is not None
    with face.stdout:
        ended = os.pidfd_open(int(face.stdout.readline()))
    try:
        face.kill()
        face.wait()
        assert select.select([ended], [], [], 10)[0]
    finally:
        os.close(ended)
