"""Rounds on the fake backend."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edgespec.backends.fake import FakeModel
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Setup
from edgespec.errors import BadSetting, Cancelled, ContextOverflow
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.types import PLAIN, Choice, ContextSpec, Prefill, Sampling, Step

TREE = Choice("model", rows=8, depth=7, width=4)
SHAPES = [PLAIN, Choice("model", 4, 3, 1), TREE, Choice("model", 24, 6, 8)]
MODEL = FakeModel(n_vocab=48, seed=3, end_ids=frozenset())
ENDING = FakeModel(n_vocab=48, seed=3, end_ids=frozenset(range(4)))


def engine(choice: Choice = TREE, model: FakeModel = MODEL, n_ctx: int = 600) -> Engine:
    spec = ContextSpec(n_ctx=n_ctx, max_nodes=32, max_leaves=32)
    target = TimedContext(model.open(spec))
    draft = TimedContext(model.perturbed(1.0).open(spec))
    return Engine(Setup(target, {"model": ModelDrafter(Reader(draft))}, FixedController(choice), "model", [draft]))


def steps(e: Engine, prompt: Sequence[int], n: int | None = 80, temperature: float = 0.0, model=MODEL) -> list[Step]:
    sampling = Sampling(temperature=temperature, seed=9)
    return [s for s in e.generate(prompt, sampling, n, end_ids=model.end_ids) if isinstance(s, Step)]


def tokens(events: list[Step]) -> list[int]:
    return [t for s in events for t in s.tokens]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_every_shape_says_what_plain_decoding_says(temperature: float) -> None:
    """Fails when speculation changes the text; the rounds must be fewer, or nothing was speculated."""
    plain = steps(engine(PLAIN), [1, 2, 3], temperature=temperature)
    for choice in SHAPES[1:]:
        found = steps(engine(choice), [1, 2, 3], temperature=temperature)
        assert tokens(found) == tokens(plain)
        assert len(found) < len(plain)


@pytest.mark.parametrize("choice", SHAPES)
def test_an_answer_ends_at_its_first_end_token(choice: Choice) -> None:
    """Fails when a draft runs past the end: the end token is the last one and the only one."""
    found = steps(engine(choice, ENDING), [1, 2, 3], n=400, temperature=1.0, model=ENDING)
    said = tokens(found)
    assert found[-1].finish == "stop"
    assert said[-1] in ENDING.end_ids
    assert not ENDING.end_ids & set(said[:-1])


@pytest.mark.parametrize("choice", SHAPES)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_an_answer_has_exactly_max_tokens(choice: Choice, n: int) -> None:
    """Fails when the last round overshoots or stops short."""
    found = steps(engine(choice), [1, 2, 3], n=n)
    assert len(tokens(found)) == n
    assert found[-1].finish == "length"


def test_the_last_rounds_are_no_deeper_than_the_answer_may_get() -> None:
    """Two tokens are left: fails when a chain of seven is drafted for them."""
    found = steps(engine(), [1, 2, 3], n=9)
    left = [9 - sum(len(s.tokens) for s in found[:i]) for i in range(len(found))]
    assert all(s.choice.depth <= max(n - 1, 0) for s, n in zip(found, left, strict=True))
    assert any(s.choice.depth < TREE.depth and s.n_drafted for s in found)


@pytest.mark.parametrize("choice", SHAPES)
def test_a_full_context_ends_the_answer_with_length(choice: Choice) -> None:
    """Fails when the last cells are refused or overrun: 40 tokens of context hold 3 of prompt and 37 of answer."""
    found = steps(engine(choice, n_ctx=40), [1, 2, 3], n=None)
    assert len(tokens(found)) == 37
    assert found[-1].finish == "length"


def test_only_what_is_new_is_prefilled() -> None:
    """Fails when a second turn reads its history again, on the target or the drafter."""
    e = engine()
    said = tokens(steps(e, [1, 2, 3], n=50))
    prompt = [1, 2, 3, *said, 7, 8, 9]
    prefill = next(iter(e.generate(prompt, Sampling(temperature=0), 5, end_ids=())))
    assert prefill == Prefill(len(prompt), 52, prefill.ms)


def test_a_changed_history_is_read_again_from_where_it_differs() -> None:
    """Fails when a cache is trusted beyond the common prefix: the text must be that of a fresh engine."""
    e = engine()
    steps(e, [1, 2, 3, 4, 5], n=20)
    assert tokens(steps(e, [1, 2, 9, 4, 5], n=20)) == tokens(steps(engine(), [1, 2, 9, 4, 5], n=20))


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers() -> None:
    """Fails when it is cut silently."""
    with pytest.raises(ContextOverflow, match=r"41 tokens.*context size of 40"):
        steps(engine(n_ctx=40), list(range(40)))


@pytest.mark.parametrize(("prompt", "n"), [([], 5), ([1], 0)])
def test_an_empty_prompt_or_answer_is_refused(prompt: list[int], n: int) -> None:
    """Fails when it reaches the runtime."""
    with pytest.raises(BadSetting):
        steps(engine(), prompt, n=n)


def test_a_cancel_between_rounds_keeps_what_was_said() -> None:
    """Fails when stopping loses tokens or leaves the engine unusable."""
    e, plain = engine(), tokens(steps(engine(), [1, 2, 3]))
    said: list[Step] = []
    for event in e.generate([1, 2, 3], Sampling(temperature=0), 80, end_ids=(), cancelled=lambda: len(said) >= 3):
        if isinstance(event, Step):
            said.append(event)
    assert said[-1].finish == "cancelled"
    assert tokens(said) == plain[: len(tokens(said))]
    assert tokens(steps(e, [1, 2, 3])) == plain


def test_a_cancel_while_the_prompt_is_read_raises() -> None:
    """Fails when a long prompt cannot be stopped."""
    with pytest.raises(Cancelled):
        list(engine().generate(list(range(30)), Sampling(), 5, end_ids=(), cancelled=lambda: True))


def test_closing_the_iterator_leaves_the_engine_ready() -> None:
    """Fails when an abandoned answer spoils the next one."""
    e = engine()
    events = e.generate([1, 2, 3], Sampling(temperature=0), 80, end_ids=())
    for _ in range(4):
        next(events)
    events.close()
    assert tokens(steps(e, [1, 2, 3])) == tokens(steps(engine(), [1, 2, 3]))


def test_a_round_accounts_for_its_time_and_drafts() -> None:
    """Fails when a figure of the report is made up."""
    found = steps(engine(), [1, 2, 3], n=60)
    assert sum(s.n_accepted + 1 for s in found) == 60
    assert all(0 <= s.n_accepted <= s.n_drafted <= 7 for s in found)
    assert all(s.target_ms > 0 and s.overhead_ms > 0 for s in found)
    assert all((s.draft_ms > 0) == (s.n_drafted > 0) for s in found)
    assert [s.n_drafted for s in found].index(0) == 0  # the pass that reads the prompt drafts nothing
