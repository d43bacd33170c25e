"""Several sources in one tree, with and without a drafter's rows, on the fake backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Setup
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters.automaton import Automaton
from edgespec.speculation.drafters.base import Drafter
from edgespec.speculation.drafters.mix import MixDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.drafters.recycle import Recycled
from edgespec.speculation.drafters.sources import Guess
from edgespec.speculation.drafters.suffix import Suffix
from edgespec.types import Choice, Rows, Sampling, Span, Step, TokenTree, Verdict
from tests.speculation.drafters.mixing import (
    DRAFT,
    LOOPING,
    SPEC,
    TREE,
    Says,
    answer,
    draft,
    made,
    node_at,
    path_tokens,
    reader,
    said,
)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("names", ["s", "r", "sr", "sm", "srm"])
@pytest.mark.parametrize("choice", [TREE, Choice("mix", 6, 5, 1), Choice("mix", 24, 12, 8)])
def test_no_source_changes_the_text(names: str, temperature: float, choice: Choice) -> None:
    """Draw and match: the tree decides how many tokens a pass yields, never which. Fails when a draft is believed."""
    assert said(answer(names, temperature, choice=choice)) == said(answer("", temperature))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_mixture_needs_fewer_passes_than_its_parts(temperature: float) -> None:
    """Fails when sources only crowd the drafter out, or it them. (Hardly any fewer, where text does not repeat.)"""
    n = {names: len(answer(names, temperature, LOOPING, n=300)) for names in ("", "sr", "m", "srm")}
    assert n["srm"] <= 1.05 * min(n["m"], n["sr"])
    assert max(n["m"], n["sr"]) < n[""]


def test_sources_alone_reach_many_tokens_a_pass_on_a_text_that_repeats() -> None:
    """A text that comes round, after it was said once. Fails when copies are cut short: by width, by a chance that
    falls too fast along a copy, or by counts that include what was only drafted."""
    for names in ("s", "r", "sr"):
        found = answer(names, 0.0, LOOPING, n=400, choice=Choice("mix", 16, 15, 4))
        late = [len(s.tokens) for s in found if s.n_past > 150]
        assert sum(late) / len(late) > 8, names


def test_the_same_child_proposed_twice_is_one_child() -> None:
    """Fails when siblings are alike: the second one can never be walked and costs a row."""
    twice = {(): Guess(2, {5: 0.6, 6: 0.3}), (5,): Guess(2, {6: 0.9})}
    again = {(): Guess(2, {5: 0.7, 7: 0.2}), (5,): Guess(2, {6: 0.5, 8: 0.4})}
    for temperature in (0.0, 0.8):
        for r in (None, reader()[0]):
            d = MixDrafter([Says(twice), Says(again)], r)
            tree = draft(d, [1, 2, 3], temperature=temperature)
            for node in range(len(tree)):
                children = tree.token[tree.parent == node].tolist()
                assert len(children) == len(set(children))
            assert {5, 6}.issubset(tree.token.tolist())


def test_agreement_of_two_makes_a_child_likelier() -> None:
    """Fails when the second source's word is lost on the way into the tree."""
    one, other = Guess(1, {5: 0.5, 6: 0.5}), Guess(1, {6: 0.9})
    alone = draft(MixDrafter([Says({(): one}), Says({})]), [1, 2])
    both = draft(MixDrafter([Says({(): one}), Says({(): other})]), [1, 2])
    assert alone.token.tolist()[1] == 5  # equal chances: in the source's order
    assert both.token.tolist()[1] == 6


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("names", ["sr", "srm"])
def test_trees_are_breadth_first_and_within_the_choice(names: str, temperature: float) -> None:
    """Fails when a runtime would refuse the tree, or it is larger than was asked for."""
    drafter, learners, _ = made(names)
    rng, text = np.random.default_rng(0), [1, 2, 3]
    for choice in (TREE, Choice("mix", 5, 4, 1), Choice("mix", 16, 3, 2)) * 8:
        tree = draft(drafter, text, choice, temperature)
        assert 1 <= len(tree) <= choice.rows
        assert tree.depth.max() <= choice.depth
        assert (np.diff(tree.depth) >= 0).all()
        assert tree.token[0] == text[-1]
        assert all(tree.depth[i] == tree.depth[tree.parent[i]] + 1 for i in range(1, len(tree)))
        assert all(tree.draft_logprob[i] <= tree.draft_logprob[tree.parent[i]] for i in range(1, len(tree)))
        assert np.bincount(tree.parent[1:], minlength=1).max() <= choice.width
        learners[0].learn(np.array(text, np.int32), tree, Rows(rng.standard_normal((len(tree), 48)).astype(np.float32)))
        text = [*text, int(rng.integers(0, 6))]
        drafter.commit(np.array(text, np.int32), Verdict((0,), (text[-1],), None))


COPY = {
    (): Guess(2, {5: 0.9}),
    (5,): Guess(2, {6: 0.99}),
    (5, 6): Guess(2, {7: 0.99}),
    (5, 6, 7): Guess(1, {8: 0.5}),
}


def test_a_sure_node_is_not_read_and_its_descendant_reads_it_in_silence() -> None:
    """A copy needs no rows of the drafter, but what comes behind it does. Fails when rows are asked for nodes whose
    children are known, or a node is read without its past."""
    r, context = reader()
    rows: list[tuple[int, ...]] = []  # paths whose rows were asked for
    evaluate = context.evaluate

    def noted(spans: Sequence[Span]) -> Rows:
        rows.extend(tuple(path_tokens(spans[0].tree, int(n))) for n in spans[0].nodes[spans[0].n_silent :])
        return evaluate(spans)

    context.evaluate = noted  # type: ignore[method-assign]
    context.prefill(0, [1, 2])
    r.keep(np.array([1, 2, 3], np.int32), [])
    tree = draft(MixDrafter([Says(COPY)], r), [1, 2, 3], Choice("mix", 24, 8, 3))
    assert (5, 6, 7) in rows
    assert not {(), (5,), (5, 6)} & set(rows)
    paths = [tuple(t for t in path_tokens(tree, n)) for n in range(len(tree))]
    assert (5, 6, 7) in paths
    assert any(len(p) > 3 and p[:3] == (5, 6, 7) for p in paths)
    assert context.n_silent >= 2  # 5 and 6 in front of the row behind 5 6 7
    # what the drafter said behind the copy is what it says behind that text read plainly
    row = DRAFT.table[DRAFT.row_index([1, 2, 3, 5, 6, 7])]
    behind = {p[3] for p in paths if len(p) > 3 and p[:3] == (5, 6, 7)}
    assert int(row.argmax()) in behind


@pytest.mark.parametrize("path", [[], [5], [5, 6], [5, 6, 7]])
def test_commit_keeps_the_readers_cache_equal_to_the_conversation(path: list[int]) -> None:
    """Fails when a node that was skipped, or one that was rejected, is taken for text that was read."""
    r, context = reader()
    d, history = MixDrafter([Says(COPY)], r), [1, 2, 3]
    for _ in range(5):
        tree = draft(d, history, Choice("mix", 24, 8, 3))
        history = [*history, *path, 40]
        d.commit(np.array(history, np.int32), Verdict(tuple(node_at(tree, path)), (*path, 40), None))
        held = context._slots[0].tokens
        assert held == history[:-1]  # 5 and 6 were read in front of 7
    assert context.n_prefilled == 0


def likely() -> dict[tuple[int, ...], Guess]:
    """A source that says what the drafter would say anyway."""
    path: tuple[int, ...] = ()
    found = {}
    for _ in range(4):
        best = int(DRAFT.table[DRAFT.row_index([1, 2, 3, *path])].argmax())
        found[path] = Guess(1, {best: 0.8})
        path = (*path, best)
    return found


LIKELY = likely()


def staged(
    depth: int = 8, width: int = 3, guesses: dict[tuple[int, ...], Guess] = LIKELY
) -> tuple[list[set[tuple[int, ...]]], TokenTree]:
    """Paths that each pass of the drafter read, and the tree."""
    r, context = reader()
    passes: list[set[tuple[int, ...]]] = []
    evaluate = context.evaluate

    def noted(spans: Sequence[Span]) -> Rows:
        shown = spans[0].nodes[spans[0].n_silent :]
        passes.append({tuple(path_tokens(spans[0].tree, int(n))) for n in shown})
        return evaluate(spans)

    context.evaluate = noted  # type: ignore[method-assign]
    context.prefill(0, [1, 2])
    r.keep(np.array([1, 2, 3], np.int32), [])
    d = MixDrafter([Says(guesses)], r)
    return passes, draft(d, [1, 2, 3], Choice("mix", 24, depth, width))


def test_what_sources_deem_likely_is_read_in_the_drafters_first_pass() -> None:
    """Staged drafting. Fails when each of these rows costs the drafter a pass of its own, or one is read twice; what is
    unlikely, or too deep, is not read ahead."""
    ahead = set(LIKELY)  # the pending token, and three behind it
    passes, _ = staged()
    assert passes[0] == ahead
    assert sum(map(len, passes)) == len(set().union(*passes))
    assert staged(depth=3)[0][0] == {path for path in ahead if len(path) < 3}
    unlikely = {path: Guess(1, dict.fromkeys(guess.chances, 0.6)) for path, guess in LIKELY.items()}
    assert len(staged(guesses=unlikely)[0][0]) < len(ahead)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("width", [1, 8])
def test_a_pass_never_asks_for_more_rows_than_the_drafter_has(temperature: float, width: int) -> None:
    """The plan opens a drafter for as many rows as a wave has nodes. Fails when what is read ahead comes on top of a
    full wave, as where sources were sure of the first tokens."""
    for seed in range(6):
        r = Reader(LOOPING.perturbed(1.0).open(replace(SPEC, max_nodes=4)))
        suffix, recycled = Suffix(Automaton(4000)), Recycled(1 << 10)
        drafters: dict[str, Drafter] = {"mix": MixDrafter([suffix, recycled], r)}
        controller = FixedController(Choice("mix", 16, 15, width))
        setup = Setup(TimedContext(LOOPING.open(SPEC)), drafters, controller, "mix", [], (suffix, recycled))
        sampling = Sampling(temperature=temperature, seed=seed)
        events = Engine(setup).generate([1, 2, 3 + seed], sampling, 200, end_ids=())
        assert sum(len(e.tokens) for e in events if isinstance(e, Step)) == 200


def test_a_drafter_that_holds_one_path_reads_nothing_ahead() -> None:
    """A context for chains. Fails when what was read ahead is not what is drafted: the runtime has no room for both."""
    context = DRAFT.open(replace(SPEC, max_leaves=1))
    r = Reader(context)
    says = {path: Guess(1, {(next(iter(guess.chances)) + 1) % 48: 0.9}) for path, guess in LIKELY.items()}
    tree = draft(MixDrafter([Says(says)], r), [1, 2, 3], Choice("mix", 6, 5, 1))
    assert len(tree) > 2
    assert r.n_leaves == 1


@pytest.mark.parametrize("width", [1, 3])
def test_reading_ahead_changes_no_tree(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a node that was only read ahead is drafted, or one that is drafted is there twice. A chain needs fewer
    passes; a wider tree has others to read."""
    passes, tree = staged(width=width)
    monkeypatch.setattr("edgespec.speculation.drafters.mix.N_AHEAD", 0)
    more, plain = staged(width=width)
    assert len(more) - len(passes) >= (3 if width == 1 else 0)
    for one, other in (
        (tree.token, plain.token),
        (tree.parent, plain.parent),
        (tree.draft_logprob, plain.draft_logprob),
    ):
        assert one.tolist() == other.tolist()
