"""Jacobi windows and n-grams on the fake backend."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest

from edgespec.backends.fake import FakeContext, FakeModel
from edgespec.speculation.drafters.lookahead import LookaheadDrafter
from edgespec.speculation.drafters.ngram_pool import NgramPool
from edgespec.speculation.sampling import Noise, Process, draw
from edgespec.speculation.tree import chain, single
from edgespec.speculation.verify import verify
from edgespec.types import Choice, ContextSpec, Rows, Sampling, Span, TokenTree
from tests.helpers import path_of, tree_of

TREE = Choice("lookahead", rows=12, depth=8, width=6)
JACOBI = Choice("lookahead", rows=7, depth=6, width=1)
PLAIN = Choice("none", rows=1, depth=0, width=0)
PROMPT = [3, 1, 4, 1, 5]


def model(order: int = 2) -> FakeModel:
    return FakeModel(n_vocab=32, order=order, scale=4.0, end_ids=frozenset())


def said_after(fake: FakeModel, text: list[int], n: int, temperature: float = 0.0) -> list[int]:
    """Plain decoding, straight from the table."""
    process, noise, text = Process(Sampling(temperature=temperature)), Noise(7), list(text)
    start = len(text)
    for _ in range(n):
        dist = process(np.array(text, np.int32), [[]], fake.table[fake.row_index(text)][None])
        text.append(draw(dist, noise, len(text)))
    return text[start:]


class Round:
    """A conversation with a target, round by round; trees and outputs of every pass are noted."""

    def __init__(self, fake: FakeModel, drafter: LookaheadDrafter, temperature: float = 0.0) -> None:
        self.drafter = drafter
        self.context: FakeContext = fake.open(ContextSpec(n_ctx=2048, max_nodes=32, max_leaves=16))
        self.context.prefill(0, PROMPT[:-1])
        self.history = np.array(PROMPT, np.int32)
        self.process, self.noise = Process(Sampling(temperature=temperature)), Noise(7)
        self.trees: list[TokenTree] = []
        self.said_pairs: set[tuple[int, int]] = set()

    def look(self, choice: Choice) -> tuple[TokenTree, Rows]:
        """Draft, evaluate and learn, but accept nothing."""
        tree = self.drafter.draft(self.history, choice, self.process, self.noise)
        return tree, self.evaluated(tree)

    def evaluated(self, tree: TokenTree) -> Rows:
        self.trees.append(tree)
        rows = self.context.evaluate([Span(0, tree, np.arange(len(tree)))])
        for node, token in enumerate(tree.token.tolist()):
            path = tree.token[path_of(tree, node)[1:]].tolist()
            dist = self.process(self.history, [path], rows.logits[node : node + 1])
            self.said_pairs.add((token, draw(dist, self.noise, len(self.history) + len(path))))
            self.said_pairs.add((token, int(rows.logits[node].argmax())))
        self.drafter.learn(self.history, tree, rows)
        return rows

    def step(self, choice: Choice) -> int:
        """One round; how many tokens it gave."""
        tree, rows = self.look(choice)
        verdict = verify(tree, rows, self.process, self.noise, self.history, end_ids=(), max_tokens=99)
        self.context.keep(0, verdict.path)
        self.history = np.concatenate([self.history, np.array(verdict.tokens, np.int32)])
        self.drafter.commit(self.history, verdict)
        return len(verdict.tokens)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("choice", [TREE, JACOBI])
def test_the_text_is_that_of_plain_decoding(choice: Choice, temperature: float) -> None:
    """Fails when a tree's nodes do not stand where their parents say: the target would answer another question."""
    talk = Round(model(), LookaheadDrafter(), temperature)
    while len(talk.history) < 200:
        talk.step(choice)
    said = talk.history[len(PROMPT) :].tolist()
    assert said == said_after(model(), PROMPT, len(said), temperature)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_jacobi_iteration_makes_one_more_guess_right_each_pass(temperature: float) -> None:
    """Jacobi's theorem (arXiv 2305.10427), with shared noise at any temperature: fails when outputs become guesses of
    another place, or are drawn without that place's noise."""
    talk = Round(model(), LookaheadDrafter(), temperature)
    truth = said_after(model(), PROMPT, 6, temperature)
    for n_right in range(7):
        tree, _ = talk.look(JACOBI)
        assert tree.token[1 : 1 + n_right].tolist() == truth[:n_right]
        talk.context.keep(0, [])
    assert len(tree) == 7


def test_a_window_that_is_right_is_accepted_whole() -> None:
    """Fails when a window at its fixed point is not the text itself."""
    talk = Round(model(), LookaheadDrafter())
    for _ in range(7):
        talk.look(JACOBI)
        talk.context.keep(0, [])
    assert talk.step(JACOBI) == 7
    assert talk.history[len(PROMPT) :].tolist() == said_after(model(), PROMPT, 7)


def test_ngrams_and_the_text_go_before_what_was_said_behind_a_wrong_guess() -> None:
    """By hand: 5 was said to go on with 6; the text goes 6 7 4 5; the last pass alone knows of 3 and 8.
    A chain of width 1, Jacobi decoding, takes what the last pass said first."""
    d, process = LookaheadDrafter(), Process(Sampling(temperature=0))
    d.pool.add((5, 6))
    history = np.array([6, 7, 4, 5], np.int32)
    d._said = (4, (1, 2, 3, 9))
    wide = d.draft(history, Choice("lookahead", 5, 4, 2), process, Noise(0))
    assert wide.token.tolist() == [5, 6, 7, 4, 5]
    d._said = (4, (8, 2, 3, 9))
    history[3] = 3
    assert d.draft(history, Choice("lookahead", 3, 2, 2), process, Noise(0)).token.tolist() == [3, 8, 2]
    history[3] = 5
    assert d.draft(history, Choice("lookahead", 5, 4, 1), process, Noise(0)).token.tolist() == [5, 8, 2, 3, 9]


def test_guesses_behind_a_short_accept_are_what_was_said_there() -> None:
    """By hand: pending 5, guesses 6 7 8; the target says 6 at 5, 9 at 6, 3 at 7 and 2 at 8. 6 and 9 are emitted, so the
    guesses for what follows 9 are 3 and 2."""
    d = LookaheadDrafter()
    process, noise = Process(Sampling(temperature=0)), Noise(0)
    history = np.array([6, 7, 8, 1, 5, 6, 7, 8, 5], np.int32)
    choice = Choice("lookahead", rows=4, depth=3, width=1)
    tree = d.draft(history, choice, process, noise)
    assert tree.token.tolist() == [5, 6, 7, 8]  # from the text: nothing was said yet
    logits = np.zeros((4, 10), np.float32)
    logits[range(4), [6, 9, 3, 2]] = 5
    d.learn(history, tree, Rows(logits))
    fresh = d.draft(np.array([*history, 6, 9], np.int32), choice, process, noise)
    assert fresh.token[:3].tolist() == [9, 3, 2]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_harvested_ngrams_are_true_outputs(temperature: float) -> None:
    """Fails when guesses, or tokens of the prompt, are harvested as if the target had said them: every token of an
    n-gram was said at a node that holds the one before."""
    talk = Round(model(), LookaheadDrafter(n_gram=4), temperature)
    for _ in range(60):
        talk.step(TREE)
    grams = talk.drafter.pool.grams()
    assert max(map(len, grams)) == 4
    assert {pair for gram in grams for pair in itertools.pairwise(gram)} <= talk.said_pairs


def test_an_ngram_grows_along_the_tree_and_from_pass_to_pass() -> None:
    """By hand: 5 says 6 and the tree's 6 says 7, so 5 6 7; the next pass begins at 7, says 8, and makes it 5 6 7 8."""
    d = LookaheadDrafter(n_gram=4)
    d.learn(np.array([1, 5], np.int32), tree_of([5, 6, 9], [-1, 0, 0]), one_hot([6, 7, 3]))
    assert d.pool.grams() == [(9, 3), (6, 7), (5, 6, 7)]
    d.learn(np.array([1, 5, 6, 7], np.int32), single(7), one_hot([8]))
    assert set(d.pool.grams()) == {(9, 3), (7, 8), (6, 7, 8), (5, 6, 7, 8)}
    d.learn(np.array([1, 5, 6, 7, 8], np.int32), single(8), one_hot([2]))
    assert set(d.pool.after(5)) == {(6, 7, 8)}
    assert set(d.pool.after(6)) == {(7, 8, 2)}


def one_hot(best: list[int]) -> Rows:
    logits = np.zeros((len(best), 10), np.float32)
    logits[np.arange(len(best)), best] = 5
    return Rows(logits)


def test_columns_are_read_as_the_ids_they_stand_for() -> None:
    """Fails when a trimmed head's column number is taken for a token."""
    d = LookaheadDrafter()
    rows = Rows(one_hot([2]).logits, np.arange(10, dtype=np.int32) + 100)
    d.learn(np.array([5], np.int32), single(5), rows)
    assert d.pool.grams() == [(5, 102)]


def test_drafting_teaches_nothing() -> None:
    """Fails when a draft that is dropped, or made twice, changes what the next ones hold."""
    talk = Round(model(), LookaheadDrafter())
    for _ in range(20):
        talk.step(TREE)
    d, arguments = talk.drafter, (talk.history, TREE, talk.process, talk.noise)
    before = copy.deepcopy({**vars(d), "_asked": None, "pool": d.pool.grams()})
    first = d.draft(*arguments)
    d.draft(talk.history, JACOBI, talk.process, Noise(1))
    assert {**vars(d), "_asked": None, "pool": d.pool.grams()} == before
    again = d.draft(*arguments)
    assert again.token.tolist() == first.token.tolist()
    assert again.draft_logprob.tolist() == first.draft_logprob.tolist()


@pytest.mark.parametrize("choice", [TREE, JACOBI, Choice("lookahead", 5, 4, 3), Choice("lookahead", 16, 2, 3)])
def test_trees_keep_to_the_choice_and_to_the_protocol(choice: Choice) -> None:
    """Fails when a branch overruns rows, depth or width, siblings repeat, or nodes are not breadth first."""
    talk = Round(model(), LookaheadDrafter(), 0.8)
    for _ in range(60):
        talk.step(choice)
    for tree in talk.trees:
        assert len(tree) <= choice.rows
        assert tree.depth.max() <= choice.depth
        assert (np.diff(tree.depth) >= 0).all()
        edges = list(zip(tree.parent.tolist(), tree.token.tolist(), strict=True))
        assert len(set(edges)) == len(edges)
        assert np.bincount(tree.parent[1:]).max() <= choice.width
        assert (tree.draft_logprob[1:] < tree.draft_logprob[tree.parent[1:]]).all()
        assert len(tree) == choice.rows or choice.depth < choice.rows - 1  # the window takes what n-grams leave


def test_what_is_learnt_is_bounded() -> None:
    """Fails when an evening's text fills the memory: two n-grams a first token, and outputs of one pass alone."""
    d = LookaheadDrafter(n_gram=3, pool=NgramPool(n_keys=5, n_each=2))
    talk = Round(model(), d, 0.8)
    for _ in range(100):
        talk.step(TREE)
    assert len(d.pool) <= 10
    assert max(len(gram) for gram in d.pool.grams()) <= 3
    assert len(d._trails) <= 2 * TREE.rows


def test_text_that_repeats_gives_several_tokens_a_pass() -> None:
    """A model that only looks at one token walks in a circle: after one round of it every pass is accepted whole."""
    talk = Round(model(order=1), LookaheadDrafter())
    for _ in range(60):
        talk.step(TREE)
    assert talk.step(TREE) >= 4


def test_other_drafters_trees_teach_as_well() -> None:
    """Fails when only its own passes are harvested: a drafter that sits idle would start from nothing."""
    talk = Round(model(order=1), LookaheadDrafter())
    truth = said_after(model(order=1), PROMPT, 3)
    talk.evaluated(chain([PROMPT[-1], *truth[:2]]))
    assert talk.drafter.pool.after(PROMPT[-1])[0] == tuple(truth)


def test_noise_of_one_place_is_never_used_at_another() -> None:
    """Fails when a pass that another drafter's tree took is drawn from with what the last draft was asked for: its
    seed may be another answer's, so only the likeliest token is known to be the target's."""
    talk = Round(FakeModel(n_vocab=32, scale=0.5, end_ids=frozenset()), LookaheadDrafter(), 5.0)
    talk.drafter.draft(talk.history, TREE, talk.process, talk.noise)
    rows = talk.context.evaluate([Span(0, single(9), [0])])
    assert int(rows.logits[0].argmax()) != draw(talk.process(talk.history, [[]], rows.logits), talk.noise, 6)
    talk.drafter.learn(np.array([*PROMPT, 9], np.int32), single(9), rows)
    assert talk.drafter.pool.grams() == [(9, int(rows.logits[0].argmax()))]


def test_forgetting_drops_the_conversation_and_keeps_what_was_learnt() -> None:
    """Fails when guesses of one conversation are tried in the next, or the pool is lost with it."""
    talk = Round(model(), LookaheadDrafter())
    for _ in range(10):
        talk.step(TREE)
    grams = talk.drafter.pool.grams()
    talk.drafter.forget()
    assert talk.drafter.pool.grams() == grams
    assert (talk.drafter._said, talk.drafter._trails) == ((0, ()), {})
