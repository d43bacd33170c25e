"""The real worker with the real demo is killed in mid-answer, and says what it would have said."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from edgespec.service.messages import Done, Noted, Progress, Said
from edgespec.service.supervisor import Supervisor
from edgespec.settings import Settings
from edgespec.types import Answer, Message, Sampling
from tests.service.conftest import Happening

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
EXACT = Settings(model="demo", method="model", exact=True, kv="q8_0", context=512)
TURNS = [Message("user", "Tell me a long story about a river, with a 🎉.")]
GREEDY, WARM = Sampling(temperature=0), Sampling(temperature=0.8, seed=5)
N_TOKENS = 48


@pytest.fixture(scope="module")
def worker() -> Iterator[Supervisor]:
    with Supervisor() as supervisor:
        supervisor.load(EXACT)
        yield supervisor


@pytest.fixture(scope="module")
def undisturbed(worker: Supervisor) -> dict[Sampling, Answer]:
    return {sampling: whole(worker.generate(TURNS, sampling, N_TOKENS))[1] for sampling in (GREEDY, WARM)}


def whole(events: Iterator[Happening]) -> tuple[str, Answer, int]:
    """The text as it was shown, the answer, and how many deaths were told."""
    seen = list(events)
    assert isinstance(seen[-1], Done)
    shown = "".join(event.piece.text for event in seen if isinstance(event, Said))
    return shown, seen[-1].answer, sum(notice.kind == "restart" for notice in seen[-1].notices)


def killed_at_piece(
    worker: Supervisor, n: int, number: signal.Signals, events: Iterator[Happening]
) -> Iterator[Happening]:
    """The same events; the process dies once n pieces are there."""
    for event in events:
        yield event
        n -= isinstance(event, Said)
        if n == 0 and isinstance(event, Said):
            os.kill(worker.pid, number)


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
@pytest.mark.parametrize(("n", "number"), [(1, signal.SIGKILL), (4, signal.SIGSEGV), (9, signal.SIGABRT)])
def test_an_answer_cut_by_a_death_is_the_undisturbed_one(
    worker: Supervisor, undisturbed: dict[Sampling, Answer], sampling: Sampling, n: int, number: signal.Signals
) -> None:
    """Draws are keyed by position, rows do not depend on the pass that computes them: a replay that lost a token, asked
    for the prompt in another way or counted the said ones twice would say something else."""
    want = undisturbed[sampling]
    shown, answer, n_deaths = whole(killed_at_piece(worker, n, number, worker.generate(TURNS, sampling, N_TOKENS)))
    assert (shown, answer.text, answer.tokens) == (want.text, want.text, want.tokens)
    assert (answer.finish, n_deaths) == (want.finish, 1)
    assert 0 < answer.n_said < len(answer.tokens)


def test_a_death_while_the_prompt_is_read_costs_nothing_but_time(worker: Supervisor) -> None:
    """Nothing was said, so nothing marks the answer as one that began before."""
    long = [Message("user", "river " * 380)]
    _, want, _ = whole(worker.generate(long, GREEDY, 8))
    worker.load(EXACT)  # whose cache has none of it
    events = worker.generate(long, GREEDY, 8)
    assert isinstance(next(events), Progress)
    os.kill(worker.pid, signal.SIGKILL)
    shown, answer, n_deaths = whole(events)
    assert (shown, answer.tokens, answer.n_said, n_deaths) == (want.text, want.tokens, 0, 1)


def test_the_conversation_of_before_is_there_after_a_death(worker: Supervisor) -> None:
    """The cache died with the process; the messages are the face's."""
    _, first, _ = whole(worker.generate(TURNS, GREEDY, N_TOKENS))
    turns = [*TURNS, Message("assistant", first.text, first.tokens), Message("user", "And then?")]
    _, want, _ = whole(worker.generate(turns, WARM, 12))
    os.kill(worker.pid, signal.SIGKILL)
    _, again, n_deaths = whole(worker.generate(turns, WARM, 12))
    assert (again.tokens, n_deaths) == (want.tokens, 1)
    assert again.cache_n == 0


def test_turns_that_were_left_out_stay_out_and_no_others_in_a_plan_without_a_drafter() -> None:
    """Its next rung has a shorter context: the process that took over left more turns out in mid-answer, or ended the
    answer with "length"."""
    turns = [Message("user" if i % 2 == 0 else "assistant", f"{i} " + "river bank " * 100) for i in range(13)]
    with Supervisor() as worker:
        n_ctx = worker.load(Settings(model="demo", method="plain", exact=True, kv="q8_0")).n_ctx
        _, want, _ = whole(worker.generate(turns, GREEDY, 40))
        seen = list(killed_at_piece(worker, 2, signal.SIGKILL, worker.generate(turns, GREEDY, 40)))
        shown, again, n_deaths = whole(iter(seen))
        assert (shown, again.tokens, again.finish, n_deaths) == (want.text, want.tokens, want.finish, 1)
        assert worker.loaded is not None
        assert worker.loaded.n_ctx == n_ctx
    kinds = [event.notice.kind for event in seen if isinstance(event, Noted)]
    assert [kind for kind in kinds if kind != "context"] == ["turns", "restart"]


def test_a_cancel_during_a_restart_stops_its_loading_and_the_next_answer_loads_anew(
    worker: Supervisor, undisturbed: dict[Sampling, Answer]
) -> None:
    """The load that was stopped fails by its cancel; taken for news of the next load it would fail that one too."""
    events = killed_at_piece(worker, 3, signal.SIGKILL, worker.generate(TURNS, GREEDY, N_TOKENS))
    seen: list[Happening] = []
    while not isinstance(seen[-1] if seen else None, Noted):
        seen.append(next(events))
    seen.append(next(events))
    assert isinstance(seen[-1], Progress)
    worker.cancel()
    _, cut, _ = whole(events)
    assert cut.finish == "cancelled"
    assert cut.text == "".join(event.piece.text for event in seen if isinstance(event, Said))
    assert undisturbed[GREEDY].text.startswith(cut.text)
    assert whole(worker.generate(TURNS, GREEDY, N_TOKENS))[0] == undisturbed[GREEDY].text
