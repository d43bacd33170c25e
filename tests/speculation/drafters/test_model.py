"""The model drafter on the fake backend."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgespec.backends.fake import FakeContext, FakeModel
from edgespec.speculation.drafters.agreement import Agreement
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import N_SINK, Reader, n_left_out
from edgespec.speculation.sampling import Noise, Process, draw
from edgespec.types import Choice, ContextSpec, Rows, Sampling, Verdict

NO_ROWS = Rows(np.zeros((0, 0), np.float32))
TREE = Choice("model", rows=8, depth=7, width=4)
CHAIN = Choice("model", rows=5, depth=4, width=1)


def drafter(model: FakeModel | None = None) -> tuple[ModelDrafter, FakeContext]:
    model = model or FakeModel(n_vocab=32, end_ids=frozenset())
    context = model.open(ContextSpec(n_ctx=512, max_nodes=32, max_leaves=32))
    return ModelDrafter(Reader(context)), context


def draft(d: ModelDrafter, history: list[int], choice: Choice = TREE, temperature: float = 0.0):
    process = Process(Sampling(temperature=temperature))
    return d.draft(np.array(history, np.int32), choice, process, Noise(4))


def accept(d: ModelDrafter, tree, history: list[int], n: int) -> list[int]:
    """Accept the first path of length n and let the target add token 31."""
    path, node = [0], 0
    for _ in range(n):
        node = int(np.flatnonzero(tree.parent == node)[0])
        path.append(node)
    tokens = [*tree.token[path[1:]].tolist(), 31]
    history = [*history, *tokens]
    d.commit(np.array(history, np.int32), Verdict(tuple(path), tuple(tokens), None))
    return history


def test_the_cache_follows_the_accepted_path_without_reading_twice() -> None:
    """Fails when a node is decoded again though the drafter's cache holds it: reads = tokens + nodes tried in vain."""
    d, context = drafter()
    history = [1, 2, 3, 4]
    for n in (0, 1, 3, 2, 4, 0, 4):
        tree = draft(d, history, CHAIN)
        before = context.length(0)
        history = accept(d, tree, history, n)
        # pending and accepted nodes that were read; the last of a full chain never was
        assert context.length(0) == before + (len(history) - 1 - before) - (1 if n == 4 else 0)
        assert context._slots[0].tokens == history[: context.length(0)]
    assert context.n_prefilled == 0


def test_a_replaced_conversation_is_caught_up_from_the_common_prefix() -> None:
    """Fails when a new prompt is drafted for with the old one in the cache."""
    d, context = drafter()
    accept(d, draft(d, list(range(20))), list(range(20)), 0)
    fresh = [*range(10), *range(30, 9, -1)]
    tree = draft(d, fresh)
    assert context._slots[0].tokens == fresh[:-1]
    assert tree.token.tolist() == draft(drafter()[0], fresh).token.tolist()


def test_an_idle_drafter_catches_up_by_prefill() -> None:
    """Fails when a drafter that sat out some rounds reads a long text row by row."""
    d, context = drafter()
    draft(d, list(range(30)))
    assert context.n_prefilled == 29


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_drafter_equal_to_the_target_drafts_its_very_draws(temperature: float) -> None:
    """Fails when the drafter's noise is not the target's: its first child must be the draw itself, at every depth."""
    model = FakeModel(n_vocab=32, end_ids=frozenset(), scale=1.0)
    history = [3, 1, 4]
    tree = draft(drafter(model)[0], history, CHAIN, temperature)
    process, noise, text = Process(Sampling(temperature=temperature)), Noise(4), list(history)
    for _ in range(4):
        row = model.table[model.row_index(text)][None]
        text.append(draw(process(np.array(text, np.int32), [[]], row), noise, len(text)))
    assert tree.token.tolist() == text[2:]


def test_siblings_are_distinct_and_never_ids_the_settings_cut_away() -> None:
    """Fails when a row is spent on a token that the target cannot draw."""
    d, _ = drafter()
    process = Process(Sampling(temperature=0.8, top_k=2))
    wide = Choice("model", 16, 8, 8)
    tree = d.draft(np.array([1, 2], np.int32), wide, process, Noise(1))
    for node in range(len(tree)):
        children = tree.token[tree.parent == node].tolist()
        assert len(children) == len(set(children)) <= 2


def test_penalties_reach_the_draft() -> None:
    """Fails when the drafter proposes what the target's penalties forbid."""
    d, _ = drafter()
    process = Process(Sampling(temperature=0, presence_penalty=100))
    tree = d.draft(np.array([1, 2], np.int32), CHAIN, process, Noise(1))
    path = [2, *tree.token[1:].tolist()]
    assert len(set(path)) == len(path)


def test_tau_is_fitted_to_the_matches_seen() -> None:
    """Fails when the fit stays at its start: draws made with tau 1.6 and 0.3 must be told apart."""
    rng = np.random.default_rng(0)
    for true in (0.3, 1.6):
        agreement = Agreement()
        for _ in range(600):
            score = np.sort(rng.standard_normal(16) * 2)[::-1]
            chance = np.exp(score / true)
            agreement.observe(score, int(rng.choice(16, p=chance / chance.sum())))
        assert true / 1.5 < agreement.tau < true * 1.5


def test_a_draw_outside_the_candidates_lowers_the_hit_rate_only() -> None:
    """Fails when a miss is scored as some candidate."""
    agreement = Agreement()
    tau, before = agreement.tau, agreement.log_hit_rate
    for _ in range(20):
        agreement.observe(np.zeros(4), None)
    assert agreement.tau == tau
    assert agreement.log_hit_rate < before


@pytest.mark.parametrize("window", [1, 2, 7, 16])
def test_a_window_keeps_the_first_tokens_and_the_last_ones(window: int) -> None:
    """Fails when it grows beyond its size, keeps less than half of it, or moves at every token."""
    out = [n_left_out(n, window) for n in range(1, 200)]
    read = [n - n_out for n, n_out in enumerate(out, start=1)]
    assert max(read) == N_SINK + window
    assert all(n > N_SINK + window - max(window // 2, 1) for n in read[N_SINK + window :])
    hops = {b - a for a, b in itertools.pairwise(out)} - {0}
    assert hops == {max(window // 2, 1)}
    assert not any(n_left_out(n, None) for n in (1, 10**6))


def test_a_drafter_with_a_window_reads_the_shortened_text() -> None:
    """Fails when its cache holds anything but the sinks and the last tokens, or more than it may hold."""
    model = FakeModel(n_vocab=32, end_ids=frozenset())
    context = model.open(ContextSpec(n_ctx=N_SINK + 8 + 16, max_nodes=32, max_leaves=32))
    d = ModelDrafter(Reader(context))
    d.limit(8)
    history = [5, 6, 7, 8, 9]
    for n in [0, 2, 4, 1, 4, 4, 3, 0, 4] * 3:
        tree = draft(d, history, CHAIN)
        n_out = n_left_out(len(history), 8)
        history = accept(d, tree, history, n)
        held = context._slots[0].tokens
        assert held == [*history[:N_SINK], *history[N_SINK + n_out :]][: len(held)]
        assert len(held) >= min(len(history), N_SINK + 4) - 2


def test_a_window_is_read_anew_only_when_it_hops() -> None:
    """Fails when every round reads the window again: it must cost about one token read for each one said."""
    model = FakeModel(n_vocab=32, end_ids=frozenset())
    context = model.open(ContextSpec(n_ctx=300, max_nodes=32, max_leaves=32))
    d = ModelDrafter(Reader(context))
    d.limit(64)
    history = list(range(20))
    for _ in range(200):
        history = accept(d, draft(d, history, CHAIN), history, 2)
    assert context.n_prefilled < 1.2 * len(history)


def test_a_window_that_is_lifted_reads_the_whole_text_again() -> None:
    """Fails when a step up leaves a gap in the drafter's past."""
    d, context = drafter()
    d.limit(8)
    history = list(range(30))
    draft(d, history)
    d.limit(None)
    draft(d, history)
    assert context._slots[0].tokens == history[:-1]
