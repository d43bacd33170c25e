"""A death is an event of the answer and not its end: restart, replay, and when to give up. No model here."""

from __future__ import annotations

import os
import signal

import pytest

from edgespec.errors import AnswerCut, ContextOverflow, WorkerDied
from edgespec.service.messages import Done, Noted, Progress, Said
from edgespec.service.supervisor import Nudged, Supervisor
from edgespec.settings import Settings
from tests.service.conftest import Happening, Scripted, ask, loaded

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
KILL = int(signal.SIGKILL)


def texts(events: list[Happening]) -> list[str]:
    return [e.piece.text for e in events if isinstance(e, Said)]


def rung(worker: Supervisor) -> str:
    assert worker.loaded is not None
    return next(p.value for p in worker.loaded.plan if p.line == "rung")


def end(events: list[Happening]) -> Done:
    assert isinstance(events[-1], Done)
    return events[-1]


def kill(worker: Supervisor) -> None:
    """Kill it, and wait until it is dead without taking its exit code from its owner."""
    os.kill(worker.pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize("n_deaths", [1, 2])
@pytest.mark.parametrize("place", ["answer", "end"])
@pytest.mark.parametrize("ending", [KILL, int(signal.SIGSEGV), "assert", "exit", "half"])
def test_an_answer_goes_on_behind_what_was_said(
    scripted: Scripted, place: str, ending: int | str, n_deaths: int
) -> None:
    """Asked from the beginning again it would say everything twice; from the wrong place it would leave a piece out."""
    events = list(ask(loaded(scripted(f"{place}:{n_deaths}", ending)), "count"))
    assert texts(events) == ["one ", "two ", "three"]
    answer = end(events).answer
    assert (answer.text, answer.tokens, answer.finish) == ("one two three", (4, 4, 5), "stop")
    assert answer.n_said == (1 if place == "answer" else 3)
    assert len(end(events).notices) == n_deaths


def test_a_death_is_told_before_the_new_process_loads_with_what_was_said_until_then(scripted: Scripted) -> None:
    """Loading takes a minute: a pause without a word would look like a hang."""
    events = list(ask(loaded(scripted("answer:1", KILL)), "count"))
    said, noted, progress, *_ = events
    assert isinstance(said, Said)
    assert isinstance(noted, Noted)
    assert isinstance(progress, Progress)
    assert noted.request == said.request
    assert (noted.notice.kind, noted.notice.n_tokens) == ("restart", 1)
    says = "the model's process was killed by SIGKILL while answering; it starts again with a smaller plan"
    assert noted.notice.text == says
    assert end(events).notices == (noted.notice,)


def test_what_the_process_noted_is_passed_on_once(scripted: Scripted) -> None:
    """The new process makes the same room for the same conversation, and would say so again."""
    events = list(ask(loaded(scripted("answer:2", KILL)), "note"))
    kinds = [event.notice.kind for event in events if isinstance(event, Noted)]
    assert kinds == [notice.kind for notice in end(events).notices] == ["turns", "restart", "restart"]


def test_the_new_process_has_the_next_plan_and_keeps_it(scripted: Scripted) -> None:
    """The plan that ran out of memory would run out of it again."""
    worker = loaded(scripted("answer:2", KILL))
    assert rung(worker) == "0"
    list(ask(worker, "count"))
    assert rung(worker) == "2"
    list(ask(worker, "count"))
    assert rung(worker) == "2"


def test_at_the_end_of_the_ladder_the_last_plan_is_tried_again(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rung that does not exist would fail, or promise a smaller plan."""
    worker = loaded(scripted("answer:1", KILL))
    monkeypatch.setattr(worker, "_n_rungs", 1)
    events = ask(worker, "count")
    next(events)
    noted = next(events)
    assert isinstance(noted, Noted)
    assert noted.notice.text.endswith("; it starts again")


@pytest.mark.parametrize("n_deaths", [1, 2])
def test_a_death_while_loading_is_a_warning_of_the_load(scripted: Scripted, n_deaths: int) -> None:
    """Nobody reads events of a load; a plan that was lowered in silence would be taken for the one asked for."""
    worker = scripted(f"load:{n_deaths}", KILL)
    result = worker.load(Settings())
    assert rung(worker) == str(n_deaths)
    ours = [w for w in result.warnings if "killed by SIGKILL while loading the model; it starts again" in w]
    assert len(ours) == n_deaths
    assert end(list(ask(worker, "count"))).notices == ()


def test_a_death_between_two_answers_is_told_by_the_next_one(scripted: Scripted) -> None:
    """A model sits idle for hours, and the system takes the largest process; the next message must not fail."""
    worker = loaded(scripted())
    list(ask(worker, "count"))
    kill(worker)
    events = list(ask(worker, "count"))
    assert texts(events) == ["one ", "two ", "three"]
    assert [n.text for n in end(events).notices] == [
        "the model's process was killed by SIGKILL while idle; it starts again with a smaller plan"
    ]


def test_three_deaths_in_a_row_are_an_error_with_what_was_said_and_the_next_message_has_a_new_process(
    scripted: Scripted,
) -> None:
    """Without an end it would try for ever; a supervisor that stayed dead would cost the conversation."""
    worker = loaded(scripted("answer:3", KILL))
    with pytest.raises(WorkerDied) as caught:
        list(ask(worker, "count"))
    assert str(caught.value).startswith("the model's process was killed by SIGKILL while answering, after 2 restarts; ")
    assert (caught.value.text, caught.value.tokens) == ("one ", (4,))
    after = list(ask(worker, "count"))
    assert texts(after) == ["one ", "two ", "three"]
    assert end(after).notices == ()


def test_deaths_with_a_finished_answer_between_them_are_not_in_a_row(scripted: Scripted) -> None:
    """On a crowded machine a process may die every hour; only one that cannot work at all is given up."""
    worker = loaded(scripted("answer:1", KILL))
    for _ in range(4):
        assert texts(list(ask(worker, "count"))) == ["one ", "two ", "three"]
        kill(worker)


@pytest.mark.parametrize("asked_for", [False, True])
def test_only_a_load_that_was_asked_for_ends_a_row(scripted: Scripted, asked_for: bool) -> None:
    """If the load of a restart did, a process that dies in every answer would be started for ever; if none did, a model
    loaded anew would be given up for what the one before it died of."""
    worker = loaded(scripted("answer:3", KILL))
    events = ask(worker, "count")
    for _ in range(2):
        while not isinstance(next(events), Noted):
            pass
    worker.cancel()
    assert end(list(events)).answer.finish == "cancelled"
    if asked_for:
        worker.load(Settings())
    told = []
    with pytest.raises(WorkerDied, match="after 2 restarts"):
        for event in ask(worker, "count"):
            told += [event] if isinstance(event, Noted) else []
    assert len(told) == (2 if asked_for else 0)


def test_a_replay_begins_the_conversation_where_the_first_process_did(scripted: Scripted) -> None:
    """The next process may have another context, and would leave other turns out in mid-answer; the last one knows only
    what the one before it was told."""
    events = list(ask(loaded(scripted("answer:2", KILL)), "begin"))
    assert texts(events) == ["one ", "from 2"]


def test_an_error_behind_the_first_token_has_what_was_said(scripted: Scripted) -> None:
    """The face would call a message not sent whose answer is on the screen, and forget both."""
    with pytest.raises(AnswerCut, match=r"^7 MiB are wanted and 5 are free; close other programs$") as caught:
        list(ask(loaded(scripted()), "burst"))
    assert (caught.value.text, caught.value.tokens, caught.value.exit_code) == ("one ", (4,), 3)
    assert not isinstance(caught.value, WorkerDied)


def test_a_refusal_is_no_death(scripted: Scripted) -> None:
    """Another process would refuse it as well."""
    worker = loaded(scripted("answer:1", KILL))
    before = worker.pid
    with pytest.raises(ContextOverflow):
        list(ask(worker, "overflow"))
    assert worker.pid == before


@pytest.mark.parametrize("at", [Noted, Progress], ids=["the notice", "the loading"])
def test_a_cancel_during_a_restart_ends_the_answer_with_what_was_said(scripted: Scripted, at: type) -> None:
    """Loading again may take a minute: Ctrl-C must not wait for it, nor lose what had come."""
    worker = loaded(scripted("answer:1", KILL))
    events = ask(worker, "count")
    seen = [next(events)]
    while not isinstance(seen[-1], at):
        seen.append(next(events))
    worker.cancel()
    done = end(list(events))
    assert (done.answer.text, done.answer.tokens, done.answer.finish) == ("one ", (4,), "cancelled")
    assert [n.kind for n in done.notices] == ["restart"]
    assert texts(list(ask(worker, "count"))) == ["one ", "two ", "three"]


def test_a_death_after_a_cancel_starts_nothing(scripted: Scripted) -> None:
    """Nobody waits for the rest of that answer."""
    worker = loaded(scripted())
    events = ask(worker, "stubborn")
    assert texts([next(events)]) == ["one "]
    worker.cancel()
    assert texts([next(events)]) == ["no "]
    kill(worker)
    noted, done = events
    assert isinstance(noted, Noted)
    assert noted.notice.text.endswith("while answering; it starts again with your next message")
    assert isinstance(done, Done)
    assert (done.answer.text, done.answer.finish) == ("one no ", "cancelled")
    assert worker.loaded is None


def test_a_nudge_reaches_who_waits_for_a_restart(scripted: Scripted) -> None:
    """The wait is for another request then, the load, and Ctrl-C would go unseen until it ends."""
    worker = loaded(scripted("answer:1", KILL))
    events = ask(worker, "count")
    while not isinstance(next(events), Noted):
        pass
    worker.nudge()
    assert isinstance(next(events), Nudged)
    worker.cancel()
    assert end(list(events)).answer.finish == "cancelled"


def test_leaving_an_answer_during_a_restart_leaves_nothing_to_the_next(scripted: Scripted) -> None:
    """Events of a load that nobody waits for must not pass for those of the next one."""
    worker = loaded(scripted("answer:1", KILL))
    events = ask(worker, "count")
    while not isinstance(next(events), Progress):
        pass
    events.close()  # type: ignore[attr-defined]
    assert texts(list(ask(worker, "count"))) == ["one ", "two ", "three"]


def test_a_restart_that_is_refused_raises_the_refusal_and_the_next_message_loads_again(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file may be gone by now; an answer asked of a process without a model would hide why."""
    worker = loaded(scripted("answer:1", KILL))
    good, gone = worker._order, Settings(model="gone")
    assert good is not None
    monkeypatch.setattr(worker, "_order", type(good)(good.request, gone, good.rung))
    with pytest.raises(AnswerCut, match="context size of 128") as caught:
        list(ask(worker, "count"))
    assert (caught.value.text, caught.value.exit_code) == ("one ", ContextOverflow.exit_code)
    monkeypatch.setattr(worker, "_order", good)
    assert texts(list(ask(worker, "count"))) == ["one ", "two ", "three"]
