"""The first pass reads the rest of the prompt as well, so that the weights are read once less."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgespec.backends.fake import FakeContext, FakeModel
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Setup
from edgespec.errors import Cancelled
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.verify import recorded_draws
from edgespec.types import PLAIN, Choice, ContextSpec, Prefill, Sampling, Step

MODEL = FakeModel(n_vocab=48, seed=3, end_ids=frozenset())
TREE = Choice("model", rows=8, depth=7, width=4)
N_UBATCH = 16


def engine(choice: Choice = TREE, exact: bool = False) -> tuple[Engine, FakeContext]:
    spec = ContextSpec(n_ctx=200, max_nodes=32, max_leaves=32, n_ubatch=N_UBATCH, exact=exact)
    context = MODEL.open(spec)
    draft = TimedContext(MODEL.perturbed(1.0).open(spec))
    drafters = {"model": ModelDrafter(Reader(draft))}
    made = Engine(Setup(TimedContext(context), drafters, FixedController(choice), "model", [draft]))
    return made, context


def answer(e: Engine, prompt: list[int], n: int = 20, **more: object) -> list[int]:
    events = e.generate(prompt, Sampling(temperature=0), n, end_ids=(), **more)
    return [t for s in events if isinstance(s, Step) for t in s.tokens]


@pytest.mark.parametrize("choice", [PLAIN, TREE], ids=["plain", "tree"])
@pytest.mark.parametrize("n", [1, 2, 3, N_UBATCH, N_UBATCH + 1, N_UBATCH + 2, 2 * N_UBATCH + 1, 3 * N_UBATCH])
def test_the_text_is_that_of_a_prompt_read_apart(choice: Choice, n: int) -> None:
    """Fails when a token of the prompt is lost, read twice or put in another place, at any length."""
    prompt = list(range(1, n + 1))
    assert answer(engine(choice)[0], prompt) == answer(engine(PLAIN, exact=True)[0], prompt)


@pytest.mark.parametrize(("n", "n_apart"), [(2, 0), (N_UBATCH + 1, 0), (N_UBATCH + 2, 16), (3 * N_UBATCH, 32)])
def test_no_pass_is_spent_on_what_the_first_round_can_read(n: int, n_apart: int) -> None:
    """Fails when the rest of a prompt costs a pass of its own, or a pass reads more than it may."""
    e, context = engine(PLAIN)
    answer(e, list(range(1, n + 1)), n=1)
    assert (context.n_prefilled, context.n_silent, context.n_passes) == (n_apart, n - 1 - n_apart, 1)


def test_under_exact_the_prompt_is_read_apart() -> None:
    """Fails when the first row comes from a pass whose width depends on the prompt."""
    e, context = engine(exact=True)
    answer(e, list(range(1, 10)), n=4)
    assert (context.n_prefilled, context.n_silent) == (8, 0)


def test_the_time_of_the_first_pass_is_shared_between_prompt_and_round() -> None:
    """Fails when the prompt's time counts as decoding, or none of it does: 9 rows read, 1 of them the round's."""
    e, _ = engine(PLAIN)
    ticks = iter(range(1000))
    inner = e._target.evaluate
    e._target.evaluate = lambda *a: (inner(*a), setattr(e._target, "ms", 100.0 * (1 + next(ticks))))[0]
    prefill, first, second, *_ = e.generate(list(range(1, 10)), Sampling(temperature=0), 5, end_ids=())
    assert isinstance(prefill, Prefill)
    assert prefill.ms >= 100 * 8 / 9
    assert first.target_ms == pytest.approx(100 / 9, abs=5)  # and what keeping the path took
    assert second.target_ms > 50


def cancel_at(call: int) -> Callable[[], bool]:
    calls = iter(range(100))
    return lambda: next(calls) >= call


@pytest.mark.parametrize("call", [0, 1, 2, 3])
def test_a_cancel_before_the_first_token_raises_wherever_it_strikes(call: int) -> None:
    """Fails when a stop during the first pass looks like an answer, or spoils the next one."""
    e, _ = engine(PLAIN)
    prompt = list(range(1, 3 * N_UBATCH))
    with pytest.raises(Cancelled):
        answer(e, prompt, cancelled=cancel_at(call))
    assert answer(e, prompt) == answer(engine(PLAIN)[0], prompt)


def test_forget_reads_the_prompt_anew() -> None:
    """Fails when an answer timed as the first of its prompt finds the prompt in a cache."""
    e, _ = engine()
    first = answer(e, [1, 2, 3, 4])
    e.forget()
    prefill = next(iter(e.generate([1, 2, 3, 4], Sampling(temperature=0), 20, end_ids=())))
    assert isinstance(prefill, Prefill)
    assert prefill.n_cached == 0
    e.forget()
    assert answer(e, [1, 2, 3, 4]) == first


@pytest.mark.parametrize("cached", [False, True], ids=["cold", "cached"])
def test_the_pass_that_reads_a_prompt_drafts_nothing(cached: bool) -> None:
    """Fails when the first token waits for the drafter, or a prompt that is all in the cache wastes its first pass."""
    e, _ = engine()
    if cached:
        answer(e, list(range(1, 30)), n=1)
    steps = [s for s in e.generate(list(range(1, 30)), Sampling(), 20, end_ids=()) if isinstance(s, Step)]
    assert (steps[0].n_drafted > 0) == cached
    assert steps[0].draft_ms == 0 or cached
    assert all(s.n_drafted > 0 for s in steps[1:-1])


@pytest.mark.parametrize("choice", [PLAIN, TREE], ids=["plain", "tree"])
def test_a_recorded_answer_is_replayed_token_for_token(choice: Choice) -> None:
    """Fails when the replay says anything else, or takes no draft where the record has it."""
    prompt, said = [1, 2, 3], [(7 * i) % 48 for i in range(30)]
    e, _ = engine(choice)
    assert answer(e, prompt, n=len(said), draws=recorded_draws([*prompt, *said])) == said


def test_a_replay_of_the_models_own_answer_accepts_what_decoding_accepted() -> None:
    """Fails when the record is read at another place than the target did."""
    own = [s for s in engine()[0].generate([1, 2, 3], Sampling(temperature=0), 40, end_ids=()) if isinstance(s, Step)]
    text = [1, 2, 3, *(t for s in own for t in s.tokens)]
    again = engine()[0].generate([1, 2, 3], Sampling(temperature=0), 40, end_ids=(), draws=recorded_draws(text))
    assert [s.n_accepted for s in again if isinstance(s, Step)] == [s.n_accepted for s in own]
