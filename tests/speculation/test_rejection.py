"""Sequential rejection: the law of what it says, counted exactly on small drafts, and by chi-square on texts."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from edgespec.backends.fake import FakeModel
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Setup
from edgespec.errors import BadSetting
from edgespec.speculation import rejection
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters import sampled
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.drafters.sampled import SampledDrafter
from edgespec.speculation.policies import grow
from edgespec.speculation.rejection import accept, rejection_draws
from edgespec.speculation.sampling import Noise, Process, draw
from edgespec.speculation.verify import verify
from edgespec.types import PLAIN, Choice, ContextSpec, Dist, Ids, Rows, Sampling, Span, Step, TokenTree, Verdict
from tests.helpers import random_tree, tree_of

Accept = Callable[[Dist, Dist, Ids, np.ndarray], int | Dist]


def dist(*probs: float) -> Dist:
    with np.errstate(divide="ignore"):
        return Dist(np.arange(len(probs), dtype=np.int32)[None], np.log(np.array([probs], np.float32)))


def threshold(rule: Accept, target: Dist, draft: Dist, children: Ids, n: int) -> float:
    """How likely child n is accepted once those before it were rejected."""

    def is_taken(u: float) -> bool:
        return rule(target, draft, children[: n + 1], np.array([1.0] * n + [u])) == children[n]

    if is_taken(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if is_taken(middle) else (low, middle)
    return low


def law(rule: Accept, target: Dist, draft: Dist, n_children: int) -> np.ndarray:
    """Probability of each token over every order in which the draft can give its children."""
    q, said = np.exp(draft.logprob[0].astype(float)), np.zeros(target.ids.shape[1])
    for order in itertools.permutations(np.flatnonzero(q > 0), n_children):
        left = 1.0
        for i, child in enumerate(order):
            left *= q[child] / (q.sum() - q[list(order[:i])].sum())
        children = np.array(order, np.int32)
        for n in range(n_children):
            share = threshold(rule, target, draft, children, n)
            said[children[n]] += left * share
            left *= 1 - share
        if left > 1e-9:
            rest = rule(target, draft, children, np.ones(n_children))
            assert isinstance(rest, Dist)
            said += left * np.exp(rest.logprob[0].astype(float))
    return said


TARGET = dist(0.5, 0.3, 0.15, 0.05)
DRAFTS = {
    "alike": dist(0.5, 0.3, 0.15, 0.05),
    "near": dist(0.4, 0.35, 0.2, 0.05),
    "opposite": dist(0.05, 0.15, 0.3, 0.5),
    "flat": dist(0.25, 0.25, 0.25, 0.25),
    "one-hot": dist(0.0, 1.0, 0.0, 0.0),
    "nearly one-hot": dist(1e-7, 1 - 3e-7, 1e-7, 1e-7),
    "half of it": dist(0.0, 0.0, 0.6, 0.4),
}


@pytest.mark.parametrize("draft", DRAFTS.values(), ids=DRAFTS)
@pytest.mark.parametrize("n_children", [0, 1, 2, 3])
def test_whatever_was_drafted_the_target_is_what_is_said(draft: Dist, n_children: int) -> None:
    """Fails when a draft, useless or hostile, shifts a single probability; counted over every order, to float32."""
    n_possible = int((draft.logprob > -np.inf).sum())
    found = law(accept, TARGET, draft, min(n_children, n_possible))
    assert found == pytest.approx(np.exp(TARGET.logprob[0]), abs=2e-6)


def test_a_draft_that_cannot_be_said_is_never_accepted() -> None:
    """Fails when zero target mass is divided away, or the residual of a draft beyond the support loses mass."""
    target, draft = dist(0.0, 0.0, 0.7, 0.3), dist(0.6, 0.4, 0.0, 0.0)
    assert law(accept, target, draft, 2) == pytest.approx([0, 0, 0.7, 0.3], abs=1e-6)


def test_ids_are_matched_by_their_number_not_their_place() -> None:
    """Fails when draft and target, each likeliest first and cut elsewhere, are subtracted column by column."""
    target = Dist(np.array([[7, 2, 5]], np.int32), np.log(np.array([[0.6, 0.3, 0.1]], np.float32)))
    draft = Dist(np.array([[5, 9, 7]], np.int32), np.log(np.array([[0.5, 0.3, 0.2]], np.float32)))
    rest = accept(target, draft, np.array([5, 9], np.int32), np.array([0.21, 0.0]))
    assert isinstance(rest, Dist)
    # max(p - q, 0) of (7: .6 - .2, 2: .3, 5: .1 - .5), then with 5 gone q is (9: .6, 7: .4): (4/7 - .4, 3/7)
    assert np.exp(rest.logprob[0]) == pytest.approx(np.array([6, 15, 0]) / 21, abs=1e-6)


def always(_target: Dist, _draft: Dist, children: Ids, _u: np.ndarray) -> int | Dist:
    return int(children[0])


def without_residual(target: Dist, draft: Dist, children: Ids, u: np.ndarray) -> int | Dist:
    found = accept(target, draft, children, u)
    return found if isinstance(found, int) else target


def with_replacement(target: Dist, draft: Dist, children: Ids, u: np.ndarray) -> int | Dist:
    """draft_probs keeps what was rejected."""
    rest: int | Dist = target
    for n, child in enumerate(children.tolist()):
        assert isinstance(rest, Dist)
        rest = accept(rest, draft, np.array([child], np.int32), u[n : n + 1])
        if isinstance(rest, int):
            break
    return rest


BROKEN = {"always": always, "no residual": without_residual, "with replacement": with_replacement}


@pytest.mark.parametrize("rule", BROKEN.values(), ids=BROKEN)
def test_a_broken_rule_misses_the_law(rule: Accept) -> None:
    """Fails when the count above could not fail."""
    found = law(rule, TARGET, DRAFTS["opposite"], 2)
    assert np.abs(found - np.exp(TARGET.logprob[0])).max() > 0.01


# The whole of it, drafts included: rows by the last token alone, so that every token said is a sample of its row.
MODEL = FakeModel(n_vocab=64, seed=5, order=1, scale=1.5, end_ids=frozenset())
DRAFT = MODEL.perturbed(1.0)
CHAIN, TREE = Choice("model", 5, 4, 1), Choice("model", 10, 4, 5)
SMALL = Choice("model", 4, 3, 5)
OPEN = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
N_TOKENS = 5000
# Tokens are counted by their rank in the drafter's row, since what favours drafts shows there: few cells, more power.
FIRST_RANKS = np.array([0, 1, 2, 3, 5, 8, 16])
# 6 degrees of freedom, p = 0.001
CRITICAL = 22.5


def engine(choice: Choice, n_ctx: int = N_TOKENS + 8, drafter=SampledDrafter, model: FakeModel = MODEL) -> Engine:
    spec = ContextSpec(n_ctx=n_ctx, max_nodes=32, max_leaves=32)
    draft = TimedContext(model.perturbed(1.0).open(spec))
    setup = Setup(
        TimedContext(model.open(spec)), {"model": drafter(Reader(draft))}, FixedController(choice), "model", [draft]
    )
    return Engine(setup)


def tokens(e: Engine, sampling: Sampling, n: int, end_ids=()) -> list[int]:
    events = e.generate([1, 2], sampling, n, end_ids=end_ids, draws=rejection_draws)
    return [t for s in events if isinstance(s, Step) for t in s.tokens]


def chi_square(choice: Choice, temperature: float) -> float:
    """Of one long text against the rows it was drawn from."""
    said = [2, *tokens(engine(choice), Sampling(temperature, seed=3, **OPEN), N_TOKENS)]
    counts, expected = np.zeros(len(FIRST_RANKS)), np.zeros(len(FIRST_RANKS))
    probs = np.exp(MODEL.table.astype(float) / temperature)
    probs /= probs.sum(axis=1, keepdims=True)
    for before, token in itertools.pairwise(said):
        row = MODEL.row_index([before])
        ranked = np.argsort(-DRAFT.table[row])
        expected += np.add.reduceat(probs[row][ranked], FIRST_RANKS)
        counts += np.add.reduceat(ranked == token, FIRST_RANKS)
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("choice", [CHAIN, TREE], ids=["chain", "tree"])
def test_sampled_text_follows_the_targets_law(choice: Choice, temperature: float) -> None:
    """Fails when the noise of drafting leaks into deciding, or a tree keeps the children it likes."""
    assert chi_square(choice, temperature) < CRITICAL


@pytest.mark.parametrize("rule", [always, without_residual])
def test_text_of_a_broken_rule_misses_the_law(rule: Accept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the chi-square above could not fail."""
    monkeypatch.setattr(rejection, "accept", rule)
    assert chi_square(TREE, 1.0) > CRITICAL


def test_a_tree_that_leaves_out_unlikely_draws_misses_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why grow_drawn exists: best-first by score keeps a child for what it is, and what it keeps is no draw."""
    monkeypatch.setattr(sampled.Chances, "of", lambda _, prob: prob)
    assert chi_square(SMALL, 1.0) < CRITICAL
    monkeypatch.setattr(sampled, "grow_drawn", grow)
    assert chi_square(SMALL, 1.0) > CRITICAL


def test_the_verifiers_noise_is_not_the_drafts() -> None:
    """Fails when one stream serves two purposes: they must not even correlate."""
    ids = np.arange(4000, dtype=np.int32)[None]
    noise = Noise(9)
    streams = [noise.gumbel([5], ids)[0]]
    streams += [noise.stream(n).gumbel([5], ids)[0] for n in (rejection.DRAFT_STREAM, rejection.ACCEPT_STREAM)]
    assert np.abs(np.corrcoef(streams) - np.eye(3)).max() < 0.06


def test_at_temperature_0_it_is_the_greedy_walk() -> None:
    """Fails when a draft without probabilities, or one likelier than the target's choice, changes the path."""
    model = FakeModel(n_vocab=6, seed=2, order=3, end_ids=frozenset())
    process, noise, rng = Process(Sampling(temperature=0)), Noise(11), np.random.default_rng(0)
    for _ in range(200):
        history = rng.integers(0, 6, 5).astype(np.int32)
        tree = random_tree(rng, int(rng.integers(1, 20)), 6, first=int(history[-1]))
        context = model.open(ContextSpec(n_ctx=64, max_nodes=32, max_leaves=32))
        context.prefill(0, history[:-1])
        rows = context.evaluate([Span(0, tree, np.arange(len(tree)))])
        limits = {"end_ids": {int(rng.integers(6))}, "max_tokens": int(rng.integers(1, 9))}
        greedy = verify(tree, rows, process, noise, history, **limits)
        assert verify(tree, rows, process, noise, history, draws=rejection_draws, **limits) == greedy
    said = [tokens(engine(TREE, 300, d), Sampling(temperature=0), 100) for d in (SampledDrafter, ModelDrafter)]
    assert said[0] == said[1]


def chain_that_is_accepted() -> tuple[TokenTree, Rows, np.ndarray]:
    """Four drafts, each certain for both models; the target's rows say 1, 2, 3, 4, 5."""
    tree = tree_of([0, 1, 2, 3, 4], [-1, 0, 1, 2, 3])
    rows = np.full((5, 8), -50, np.float32)
    rows[np.arange(5), np.arange(1, 6)] = 50
    probs = Dist(np.arange(1, 6, dtype=np.int32)[:, None], np.zeros((5, 1), np.float32))
    return TokenTree(tree.token, tree.parent, tree.depth, tree.draft_logprob, probs), Rows(rows), np.array([7, 0])


@pytest.mark.parametrize(
    ("end_ids", "max_tokens", "verdict"),
    [
        ((), 99, Verdict((0, 1, 2, 3, 4), (1, 2, 3, 4, 5), None)),
        ({3}, 99, Verdict((0, 1, 2), (1, 2, 3), "stop")),
        ((), 2, Verdict((0, 1), (1, 2), "length")),
    ],
)
def test_ends_and_budgets_cut_as_they_do_for_draws(end_ids, max_tokens, verdict) -> None:
    """Fails when an accepted draft runs past the end of the answer."""
    tree, rows, history = chain_that_is_accepted()
    process = Process(Sampling(temperature=1, **OPEN))
    found = verify(
        tree, rows, process, Noise(1), history, end_ids=end_ids, max_tokens=max_tokens, draws=rejection_draws
    )
    assert found == verdict


def test_a_drafter_without_probabilities_is_told_apart() -> None:
    """Fails when guesses are verified as if they were draws, which favours them."""
    tree, rows, history = chain_that_is_accepted()
    guesses = TokenTree(tree.token, tree.parent, tree.depth, tree.draft_logprob)
    with pytest.raises(BadSetting, match="use --method model, or --verify match"):
        verify(
            guesses,
            rows,
            Process(Sampling(temperature=1, **OPEN)),
            Noise(1),
            history,
            end_ids=(),
            max_tokens=9,
            draws=rejection_draws,
        )


def test_without_drafts_it_says_what_draw_and_match_says() -> None:
    """Fails when plain decoding depends on how drafts would be verified."""
    sampling = Sampling(1.0, seed=3, **OPEN)
    said, process, text = tokens(engine(PLAIN, 100), sampling, 40), Process(sampling), [1, 2]
    for _ in said:
        row = MODEL.table[MODEL.row_index(text)][None]
        text.append(draw(process(np.array(text, np.int32), [[]], row), Noise(3), len(text)))
    assert text[2:] == said


def test_the_same_seed_and_shape_give_the_same_text() -> None:
    """Fails when anything but the counter-based noise decides; another seed must give another text."""
    said = [tokens(engine(TREE, 300), Sampling(1.0, seed=seed, **OPEN), 100) for seed in (4, 4, 5)]
    assert said[0] == said[1] != said[2]
