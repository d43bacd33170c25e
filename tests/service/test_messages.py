"""Frames over a pipe."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator

import pytest

from edgespec import errors
from edgespec.memory.footprint import Footprint, Item
from edgespec.memory.report import MemoryReport, ProbeReport
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
    Order,
    Pipe,
    Probe,
    Probed,
    Progress,
    Said,
)
from edgespec.settings import Settings
from edgespec.types import Answer, Message, Notice, Piece, PlanLine, Sampling

ANSWER = Answer("Grüße 你好 🎉", (1, 2), "stop", "model", 3, 4, 1.5, 2.5, 6, 1, 2, 1.0, 1.0, 0.5)
EVERY_KIND = (
    Load(1, Settings(model="demo", nodes=8), rung=2),
    Generate(2, (Message("user", "hi"), Message("assistant", "x", (7, 8))), Sampling(seed=3), 5, ("\n",), (4, 5), 1, 2),
    Cancel(2),
    Probe(3, Settings(model="demo", budget=1 << 33), load=True),
    Probed(
        3, ProbeReport((), (MemoryReport("demo", "", 1, None, 2, 3, 4, Footprint((Item("kv", "cpu", 5, "why"),))),))
    ),
    Loaded(1, "demo", "a note", 2048, "model", (PlanLine("kv", "f16", "why"),), ("a warning",)),
    Progress(1, "loading demo", 0.5),
    Began(2, 4),
    Said(2, Piece("Gr\u00fc\u00dfe", (1, 2))),
    Noted(2, Notice("context", "room was made", 3)),
    Done(2, ANSWER, 1 << 33, (Notice("context", "room was made", 3),), (("cpu", 1 << 20),)),
)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe whose two ends are in this process."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader, os.fdopen(write, "wb") as writer:
        yield Pipe(reader, writer)


@pytest.mark.parametrize("message", EVERY_KIND, ids=lambda m: type(m).__name__)
def test_a_message_arrives_as_it_was_sent(pipe: Pipe, message: Order | Event) -> None:
    """Something that does not survive pickling, such as a view into the runtime's memory."""
    pipe.send(message)
    assert pipe.receive() == message


def test_the_ids_of_an_answer_arrive_though_they_do_not_count_as_equal(pipe: Pipe) -> None:
    """Message compares without ids; a frame that dropped them would cost the next turn its cache."""
    pipe.send(Generate(1, (Message("assistant", "x", (7, 8)),), Sampling()))
    order = pipe.receive()
    assert isinstance(order, Generate)
    assert order.messages[0].ids == (7, 8)


@pytest.mark.parametrize(
    "error",
    [
        errors.ContextOverflow(3000, 2048, 8192),
        errors.DrafterUnusable("drafter x has another vocabulary; use -d none"),
        errors.AnswerCut("it needs 7 MiB; close something", "half an answer", (1, 2), 3),
        errors.WorkerDied("it died, after 2 restarts; try again", "half an answer", (1, 2)),
        *(kind("a sentence") for kind in errors.EdgespecError.__subclasses__()),
    ],
    ids=lambda e: type(e).__name__,
)
def test_an_error_crosses_with_its_kind_sentence_and_exit_code(error: errors.EdgespecError) -> None:
    """Exceptions are rebuilt from args, which fails for those whose constructor takes something else."""
    again = pickle.loads(pickle.dumps(Failed(1, error))).error
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.exit_code == error.exit_code
    assert vars(again) == vars(error)


@pytest.mark.parametrize("n_bytes", [0, 1, 3, 4, 5, 40])
def test_a_stream_that_ends_early_is_an_end_and_no_message(n_bytes: int) -> None:
    """A process that dies half-way leaves half a length or half a body behind."""
    read, write = os.pipe()
    with os.fdopen(write, "wb") as writer, os.fdopen(read, "rb") as reader:
        whole_read, whole_write = os.pipe()
        with os.fdopen(whole_write, "wb") as w, os.fdopen(whole_read, "rb") as r:
            Pipe(r, w).send(EVERY_KIND[0])
            frame = r.read1()
        writer.write(frame[:n_bytes])
        writer.close()
        assert Pipe(reader, writer).receive() is None


def test_messages_of_several_threads_do_not_mix(pipe: Pipe) -> None:
    """Progress and pieces may be sent from different threads; an unlocked write would tear a large frame."""
    n_each, size = 25, 20_000

    def send(thread: int) -> None:
        for _ in range(n_each):
            pipe.send(Said(thread, Piece(str(thread) * size, ())))

    threads = [threading.Thread(target=send, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(4 * n_each):
        said = pipe.receive()
        assert isinstance(said, Said)
        assert said.piece.text == str(said.request) * size
    for thread in threads:
        thread.join()
