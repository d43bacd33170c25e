"""Draw and match."""

from __future__ import annotations

import numpy as np
import pytest

from edgespec.backends.fake import FakeModel
from edgespec.speculation.sampling import Noise, Process, draw
from edgespec.speculation.verify import verify
from edgespec.types import ContextSpec, Rows, Sampling, Span, Verdict
from tests.helpers import path_of, random_tree, tree_of

GREEDY = Sampling(temperature=0)


def rows_for(best: list[int], n_vocab: int = 8) -> Rows:
    """Rows whose argmax is given."""
    logits = np.zeros((len(best), n_vocab), np.float32)
    logits[np.arange(len(best)), best] = 5
    return Rows(logits)


def check(tree, best, end_ids=(), max_tokens=99) -> Verdict:
    history = np.array([1, int(tree.token[0])], np.int32)
    return verify(tree, rows_for(best), Process(GREEDY), Noise(0), history, end_ids=end_ids, max_tokens=max_tokens)


#        0:4
#     1:5   2:6
#   3:7   4:5  5:2
TREE = tree_of([4, 5, 6, 7, 5, 2], [-1, 0, 0, 1, 2, 2])


def test_the_walk_follows_the_targets_own_tokens_and_adds_one() -> None:
    """Fails when a sibling is taken, or the bonus token is lost."""
    verdict = check(TREE, best=[6, 0, 5, 0, 3, 0])
    assert verdict == Verdict(path=(0, 2, 4), tokens=(6, 5, 3), finish=None)
    assert verdict.n_accepted == 2


def test_a_tree_the_target_disagrees_with_yields_its_one_token() -> None:
    """Fails when a rejected draft leaves a trace."""
    assert check(TREE, best=[1, 0, 0, 0, 0, 0]) == Verdict((0,), (1,), None)


def test_an_accepted_end_token_ends_the_answer_and_stays_pending() -> None:
    """Fails when tokens after the end come out, or the end token is committed though nothing follows it."""
    assert check(TREE, best=[6, 0, 5, 0, 3, 0], end_ids={5}) == Verdict((0, 2), (6, 5), "stop")


def test_an_answer_is_cut_at_max_tokens() -> None:
    """Fails when speculation overshoots the budget of plain decoding."""
    assert check(TREE, best=[6, 0, 5, 0, 3, 0], max_tokens=2) == Verdict((0, 2), (6, 5), "length")


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_any_tree_yields_the_text_of_plain_draws(temperature: float) -> None:
    """Fails when the tree, its shape or its order changes what is said: 300 random trees against lone draws."""
    model = FakeModel(n_vocab=6, seed=2, order=3, end_ids=frozenset())
    process, noise = Process(Sampling(temperature=temperature)), Noise(11)
    rng = np.random.default_rng(0)
    for _ in range(300):
        history = rng.integers(0, 6, 5).astype(np.int32)
        tree = random_tree(rng, int(rng.integers(1, 20)), 6, first=int(history[-1]))
        context = model.open(ContextSpec(n_ctx=64, max_nodes=32, max_leaves=32))
        context.prefill(0, history[:-1])
        rows = context.evaluate([Span(0, tree, np.arange(len(tree)))])
        verdict = verify(tree, rows, process, noise, history, end_ids=(), max_tokens=50)
        text = history.tolist()
        for _ in verdict.tokens:
            row = model.table[model.row_index(text)][None]
            text.append(draw(process(np.array(text, np.int32), [[]], row), noise, len(text)))
        assert text[5:] == list(verdict.tokens)
        assert list(verdict.path) == path_of(tree, verdict.path[-1])
        assert [int(tree.token[n]) for n in verdict.path[1:]] == list(verdict.tokens[:-1])
