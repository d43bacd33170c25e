"""Every way the model's process can end, and the one sentence each of them gives. No model here."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from edgespec.errors import DoesNotFit, WorkerDied
from edgespec.memory.pressure import Reading
from edgespec.service import child as module
from edgespec.service import supervisor
from edgespec.service.messages import Done, Said
from edgespec.service.supervisor import Supervisor
from edgespec.settings import Settings
from tests.service.conftest import Scripted, ask, loaded

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")


def death(worker: Supervisor) -> str:
    """The sentence of a worker that dies somewhere between its start and the end of an answer."""
    with pytest.raises(WorkerDied) as caught:
        worker.load(Settings())
        list(ask(worker, "count"))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert caught.value.exit_code == 1
    return sentence


@pytest.mark.parametrize(
    ("number", "next_step"),
    [
        (signal.SIGKILL, "use a smaller --context or a smaller model"),
        (signal.SIGILL, "build it again with `make setup`"),
        (signal.SIGTERM, "start edgespec again"),
    ],
)
@pytest.mark.parametrize(
    ("stage", "doing"), [("start", "loading the model"), ("load", "loading the model"), ("answer", "answering")]
)
def test_a_death_anywhere_is_one_sentence_with_the_signal_and_the_next_step(
    scripted: Scripted, stage: str, doing: str, number: signal.Signals, next_step: str
) -> None:
    """The pipe may break while sending or while waiting, and the child may not be reaped yet."""
    sentence = death(scripted(stage, number))
    assert sentence.startswith(f"the model's process was killed by {number.name} while {doing}")
    assert sentence.endswith(next_step)


@pytest.mark.parametrize(
    ("stage", "next_step"), [("load", "download it again, or use another"), ("answer", "try again")]
)
def test_a_crash_blames_the_file_only_while_it_is_read(scripted: Scripted, stage: str, next_step: str) -> None:
    """A crash in mid-answer says nothing about the file."""
    assert death(scripted(stage, signal.SIGSEGV)).endswith(next_step)


def test_an_assertion_of_the_runtime_is_quoted_without_its_folders(scripted: Scripted) -> None:
    """What it prints after the assertion (a back trace) says nothing, nor does where it was built."""
    sentence = death(scripted("load", "assert"))
    assert "SIGABRT while loading the model, after 2 restarts: llama-kv.cpp:77: GGML_ASSERT(n > 0) failed; " in sentence


def test_an_exit_without_a_signal_names_the_code(scripted: Scripted) -> None:
    """A negative code is a signal, any other is not."""
    assert "ended (exit code 3) while answering" in death(scripted("answer", "exit"))


def test_an_unfinished_frame_is_a_death(scripted: Scripted) -> None:
    """Half a message must neither be believed nor waited for."""
    assert "while answering" in death(scripted("answer", "half"))


def test_a_worker_that_closes_its_pipe_and_lives_on_is_ended(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting for its exit code would take for ever."""
    monkeypatch.setattr(module, "GRACE_S", 0.1)
    assert "SIGKILL" in death(scripted("load", "mute"))


def test_what_was_said_before_a_death_is_delivered(scripted: Scripted) -> None:
    """The end of the pipe must not overtake what is still in it."""
    worker = loaded(scripted("answer", signal.SIGKILL, most_deaths=1))
    events = ask(worker, "count")
    said = next(events)
    assert isinstance(said, Said)
    assert said.piece.text == "one "
    with pytest.raises(WorkerDied) as caught:
        next(events)
    assert (caught.value.text, caught.value.tokens) == ("one ", (4,))


def test_a_closed_supervisor_starts_nothing(scripted: Scripted) -> None:
    """A request that came late would leave a process behind that nobody closes."""
    worker = loaded(scripted())
    worker.close()
    with pytest.raises(WorkerDied, match="ended on purpose"):
        list(ask(worker, "count"))


def test_a_death_is_found_where_a_grandchild_keeps_the_pipe_open(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent then arrives nowhere, but sending does not fail."""
    monkeypatch.setattr(module, "GRACE_S", 0.1)
    worker = loaded(scripted(most_deaths=1))
    events = ask(worker, "child")
    said = next(events)
    assert isinstance(said, Said)
    try:
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="SIGKILL while answering"):
            list(events)
        assert isinstance(list(ask(worker, "count"))[-1], Done)
    finally:
        os.kill(int(said.piece.text), signal.SIGKILL)


def test_a_process_that_cannot_start_is_a_sentence(tmp_path: Path) -> None:
    """A missing interpreter, no memory, no process slots: all are OSErrors."""
    with pytest.raises(WorkerDied, match="could not be started"):
        Supervisor([str(tmp_path / "nothing")])


def test_without_memory_for_a_process_none_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it starts it could say nothing: the user read of a SIGKILL and two restarts, with exit code 1."""
    short = Reading(supervisor.START_BYTES - (10 << 20), "in control group /small")
    monkeypatch.setattr(supervisor, "read_once", lambda: short)
    with pytest.raises(DoesNotFit, match=r"takes 40\.0 MiB.*30\.0 MiB are free in control group /small"):
        Supervisor()


def test_a_death_while_probing_is_a_sentence(scripted: Scripted) -> None:
    """Weighing a model that is too large is when a process is likeliest to die. Fails when the face waits for ever, or
    probes again and again."""
    with pytest.raises(WorkerDied, match=r"^the model's process died while it was probed; try again, or give a small"):
        scripted("start", signal.SIGKILL).probe(Settings())
