"""The real worker with the real demo, end to end."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgespec.errors import BadSetting, ContextOverflow, EdgespecError, ModelNotFound, WorkerDied
from edgespec.service.messages import Done, Failed, Generate, Load, Noted, Pipe, Progress, Said
from edgespec.service.supervisor import Supervisor
from edgespec.service.worker import Worker
from edgespec.settings import Settings
from edgespec.speculation.acceptance import from_dict
from edgespec.types import Answer, Message, Notice, Piece, Sampling
from tests.service.conftest import Happening

GREEDY = Sampling(temperature=0)
LONG = [Message("user", "Tell me a long story about a river.")]


@pytest.fixture(scope="module")
def worker(loaded_once: Supervisor) -> Supervisor:
    return loaded_once


@pytest.fixture(scope="module")
def endless(worker: Supervisor) -> Sampling:
    """Draws that never end an answer, so that it can only be stopped."""
    _, greeting = answer(worker.generate([Message("user", "hi")], GREEDY))
    assert greeting.finish == "stop"
    return Sampling(seed=1, logit_bias=((greeting.tokens[-1], -math.inf),))


def answer(events: Iterator[Happening]) -> tuple[list[Said], Answer]:
    """The pieces of an answer and its summary, from the events that are left."""
    *pieces, done = (event for event in events if isinstance(event, Said | Done))
    assert isinstance(done, Done)
    return [piece for piece in pieces if isinstance(piece, Said)], done.answer


def prompt_of(n_words: int) -> Sequence[Message]:
    return [Message("user", "river " * n_words)]


def test_the_pieces_are_the_answer(worker: Supervisor) -> None:
    """Text held back for a character or a stop string must come at last, and every id with it."""
    pieces, whole = answer(worker.generate(LONG, Sampling(seed=1), max_tokens=40))
    assert "".join(p.piece.text for p in pieces) == whole.text
    assert tuple(i for p in pieces for i in p.piece.ids) == whole.tokens
    assert whole.finish in ("stop", "length")
    assert len(whole.tokens) <= 40


def test_the_next_turn_prefills_only_what_is_new(worker: Supervisor) -> None:
    """Tokenising an answer's text again may give other ids, and a drafter's leftovers may stand in the cache."""
    _, first = answer(worker.generate(LONG, GREEDY, max_tokens=30))
    turns = [*LONG, Message("assistant", first.text, first.tokens), Message("user", "And then?")]
    _, second = answer(worker.generate(turns, GREEDY, max_tokens=5))
    n_said = first.prompt_n + first.cache_n + len(first.tokens)
    assert second.cache_n >= n_said - 2  # the last token, and an end token, are not in the cache
    assert second.prompt_n < 20


def test_a_cancel_in_mid_answer_keeps_what_was_said(worker: Supervisor, endless: Sampling) -> None:
    """On a slow machine it took minutes to say."""
    events = worker.generate(LONG, endless)
    said = next(event for event in events if isinstance(event, Said))
    worker.cancel()
    pieces, whole = answer(events)
    assert whole.finish == "cancelled"
    assert whole.text == said.piece.text + "".join(p.piece.text for p in pieces)
    assert whole.tokens


def test_a_cancel_in_the_middle_of_a_prompt_is_an_answer_without_tokens(worker: Supervisor) -> None:
    """A prompt may take minutes; its passes must be left from inside, and the cache must stay usable."""
    events = worker.generate(prompt_of(1900), GREEDY)
    assert isinstance(next(events), Progress)
    worker.cancel()
    _, whole = answer(events)
    assert (whole.finish, whole.tokens, whole.text) == ("cancelled", (), "")
    _, after = answer(worker.generate(prompt_of(100), GREEDY, max_tokens=3))
    assert after.tokens


def test_a_request_that_fails_leaves_the_worker_usable(worker: Supervisor) -> None:
    """A prompt that is too long is no reason to load a model again."""
    with pytest.raises(ContextOverflow) as caught:
        list(worker.generate(prompt_of(5000), GREEDY))
    assert caught.value.n_ctx == 2048
    with pytest.raises(BadSetting):
        list(worker.generate([Message("user", "")], GREEDY))
    assert answer(worker.generate(LONG, GREEDY, max_tokens=2))[1].tokens


def test_a_load_that_fails_is_told_and_another_can_follow() -> None:
    """A face may offer to choose again."""
    with Supervisor() as fresh:
        with pytest.raises(EdgespecError, match="no model is loaded"):
            list(fresh.generate(LONG, GREEDY))
        with pytest.raises(ModelNotFound):
            fresh.load(Settings(model="nothing-of-the-kind"))
        loaded = fresh.load(Settings(model="demo", draft="none", context=64))
        assert (loaded.model, loaded.n_ctx, loaded.method) == ("demo", 64, "lookup")
        again = fresh.load(Settings(model="demo-draft", context=96))
        assert (again.model, again.n_ctx) == ("demo-draft", 96)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_a_killed_worker_is_one_sentence_after_what_it_said(endless: Sampling) -> None:
    """Out of memory, the system kills the largest process in mid-answer."""
    with Supervisor(most_deaths=1) as doomed:
        doomed.load(Settings(model="demo", draft="none"))
        events = doomed.generate(LONG, endless)
        said = next(event for event in events if isinstance(event, Said))
        assert said.piece.text
        os.kill(doomed.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match=r"^the model's process was killed by SIGKILL while answering; .*memory"):
            list(events)


class Noting:
    """An assistant's chat that remembers what it was asked, notes something and ends."""

    def __init__(self) -> None:
        self.chat, self.asked = self, {}  # type: ignore[var-annotated]
        self.weighing, self.n_kept = self, 0
        self.unsaved: str | None = None

    def growth(self) -> dict[str, int]:
        return {"cpu": 11, "CUDA0": 22}

    def keep(self) -> str | None:
        self.n_kept += 1
        return self.unsaved

    def stream(self, messages: object, **asked: object) -> Iterator[Piece | Notice | Answer]:
        self.asked = asked
        yield Piece("a", (1,))
        yield Notice("context", "room was made", 1)
        yield Answer("a", (1,), "stop", "plain", 1, 0, 1.0, 1.0, 0, 0, 1, 1.0, 0.0, 0.0)


def test_what_was_said_goes_to_the_chat_and_what_it_notes_comes_back() -> None:
    """Said ids that were dropped on the way would be said again; a notice taken for the answer would end it."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader, os.fdopen(write, "wb") as writer:
        worker, chat = Worker(Pipe(reader, writer)), Noting()
        worker._assistant = chat  # type: ignore[assignment]
        worker._generate(Generate(7, (), GREEDY, said=(4, 5), n_shown=1))
        face = Pipe(reader, writer)
        said, noted, done = (face.receive() for _ in range(3))
    assert (chat.asked["said"], chat.asked["n_shown"]) == ((4, 5), 1)
    assert said == Said(7, Piece("a", (1,)))
    assert noted == Noted(7, Notice("context", "room was made", 1))
    assert isinstance(done, Done)
    assert done.growth == (("cpu", 11), ("CUDA0", 22))
    assert chat.n_kept == 1


def test_what_could_not_be_saved_is_told_with_the_next_answer_once() -> None:
    """A full disk: fails when nobody hears of it, or it is said with every answer."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader, os.fdopen(write, "wb") as writer:
        worker, chat = Worker(Pipe(reader, writer)), Noting()
        worker._assistant = chat  # type: ignore[assignment]
        chat.unsaved = "the disk is full"
        for request in (1, 2, 3):
            worker._generate(Generate(request, (), GREEDY))
        face = Pipe(reader, writer)
        told = [face.receive() for _ in range(10)]
    assert [e.request for e in told if isinstance(e, Noted) and e.notice.kind == "saving"] == [2]
    assert told[3] == Noted(2, Notice("saving", "the disk is full"))


def test_the_rung_of_a_load_reaches_the_one_who_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan that killed the process would be tried again."""
    asked: dict[str, object] = {}

    def opened(_settings: Settings, **how: object) -> None:
        asked.update(how)
        raise BadSetting("seen")

    monkeypatch.setattr("edgespec.assemble.open_assistant", opened)
    with pytest.raises(BadSetting, match="seen"):
        Worker(Pipe(None, None))._load(Load(1, Settings(), rung=2))  # type: ignore[arg-type]
    assert asked["rung"] == 2


def test_a_bug_in_the_worker_is_a_sentence_and_no_silence(capsys: pytest.CaptureFixture[str]) -> None:
    """An unforeseen error that ended the serving loop would leave the face waiting for ever."""
    (order_read, order_write), (event_read, event_write) = os.pipe(), os.pipe()
    with (
        os.fdopen(order_read, "rb") as orders_in,
        os.fdopen(order_write, "wb") as orders_out,
        os.fdopen(event_read, "rb") as events_in,
        os.fdopen(event_write, "wb") as events_out,
    ):
        face, worker = Pipe(events_in, orders_out), Worker(Pipe(orders_in, events_out))
        worker._assistant = object()  # type: ignore[assignment]
        threading.Thread(target=worker.serve, daemon=True).start()
        worker._orders.put(Generate(7, (), GREEDY))
        failed = face.receive()
    assert isinstance(failed, Failed)
    assert failed.request == 7
    assert "an error inside edgespec (AttributeError: " in str(failed.error)
    assert str(failed.error).endswith("please report it")
    assert "Traceback" in capsys.readouterr().err


def test_what_can_wait_is_done_in_silence_and_told_with_the_next_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when idle time is never used, used again without an answer in between, or nobody hears of it."""
    monkeypatch.setattr("edgespec.service.worker.IDLE_S", 0.01)
    worker, tidied = Worker(Pipe(None, None)), threading.Event()  # type: ignore[arg-type]
    calls: list[bool] = []

    def tidy(awaited: Callable[[], bool]) -> str:
        calls.append(awaited())
        worker._orders.put(Generate(8, (), GREEDY))
        calls.append(awaited())
        tidied.set()
        return "it was trimmed again"

    worker._assistant = SimpleNamespace(tidy=tidy)  # type: ignore[assignment]
    worker._untidy = True
    assert worker._next() == Generate(8, (), GREEDY)
    assert tidied.is_set()
    assert calls == [False, True]
    worker._orders.put(Generate(9, (), GREEDY))
    assert worker._next() == Generate(9, (), GREEDY)
    assert len(calls) == 2
    sent: list[object] = []
    worker._pipe = SimpleNamespace(send=sent.append)  # type: ignore[assignment]
    worker._assistant.chat = SimpleNamespace(stream=lambda *_, **__: iter(()))  # type: ignore[union-attr, misc]
    worker._generate(Generate(9, (), GREEDY))
    worker._generate(Generate(10, (), GREEDY))
    assert sent == [Noted(9, Notice("drafter", "it was trimmed again"))]


def test_a_face_that_closes_ends_what_can_wait_before_the_process_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a head that is being cut is killed half-way, and half a model stays on the disk."""
    left: list[str] = []
    monkeypatch.setattr("edgespec.service.worker.leave", lambda: left.append("process"))
    worker = Worker(SimpleNamespace(receive=lambda: None))  # type: ignore[arg-type]
    begun = threading.Event()

    def tidy(awaited: Callable[[], bool]) -> None:
        begun.set()
        while not awaited():
            pass
        left.append("half a file")

    worker._assistant = SimpleNamespace(tidy=tidy)  # type: ignore[assignment]
    busy = threading.Thread(target=worker._tidy)
    busy.start()
    assert begun.wait(5)
    worker.listen()
    busy.join()
    assert left == ["half a file", "process"]


def test_a_fault_in_what_can_wait_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when nobody's order takes the model down."""
    worker = Worker(Pipe(None, None))  # type: ignore[arg-type]
    worker._assistant, worker._untidy = SimpleNamespace(), True  # type: ignore[assignment]
    worker._tidy()
    assert "AttributeError" in capsys.readouterr().err
    assert not worker._untidy


def test_a_probe_is_told_beside_a_loaded_model_that_stays(worker: Supervisor) -> None:
    """A face may ask in the middle of a conversation."""
    _, first = answer(worker.generate(LONG, GREEDY, max_tokens=4))
    said: list[Progress] = []
    (found,) = worker.probe(Settings(model="demo-draft", method="plain"), progress=said.append).models
    assert (found.model, found.method, found.measured) == ("demo-draft", "plain", None)
    assert found.predicted.total_bytes > found.weight_bytes > 0
    assert found.program_bytes > 0
    _, again = answer(worker.generate(LONG, GREEDY, max_tokens=4))
    assert again.tokens == first.tokens


def test_a_probe_that_fails_is_told_and_the_next_request_is_answered(worker: Supervisor) -> None:
    """A slip of the finger is no reason to lose a loaded model."""
    with pytest.raises(ModelNotFound):
        worker.probe(Settings(model="nothing-of-the-kind"))
    assert answer(worker.generate(LONG, GREEDY, max_tokens=2))[1].tokens


def test_an_answer_ends_with_what_its_process_grew_by(worker: Supervisor) -> None:
    """Contexts and what passes need, at least. Fails when what is weighed is another process, or began too late."""
    *_, done = worker.generate(LONG, GREEDY, max_tokens=4)
    assert isinstance(done, Done)
    growth = dict(done.growth)
    assert 1 << 20 < growth["cpu"] < done.rss_bytes


def test_what_an_answer_taught_is_kept_for_the_next_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fails when every start begins with the priors, or learning waits for an end that a killed process never has."""
    monkeypatch.setenv("EDGESPEC_DATA_DIR", str(tmp_path))
    with Supervisor() as fresh:
        fresh.load(Settings(model="demo", method="model", nodes=4, context=256, threads=1))
        list(fresh.generate(LONG, GREEDY, max_tokens=24))
        list(fresh.generate(LONG, GREEDY, max_tokens=1))  # behind which the first one's lesson is on disk
        (file,) = tmp_path.glob("learnt-*.json")
        fresh.kill()
    counts = from_dict(json.loads(file.read_text())["data"])
    assert max(counts.n_seen(greedy=True, width=width) for width in (1, 8)) > 1
