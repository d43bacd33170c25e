"""Several sources in one tree, with and without a drafter's rows, on the fake backend."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgespec.backends.fake import FakeContext, FakeModel
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Setup
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters.automaton import Automaton
from edgespec.speculation.drafters.mix import MixDrafter
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.drafters.recycle import Recycled
from edgespec.speculation.drafters.sources import NOTHING, Guess
from edgespec.speculation.drafters.suffix import Suffix
from edgespec.speculation.sampling import Noise, Process
from edgespec.speculation.tree import single
from edgespec.types import PLAIN, Choice, ContextSpec, Rows, Sampling, Step, TokenTree, Verdict

MODEL = FakeModel(n_vocab=48, seed=3, end_ids=frozenset())
# Few rows and one token of past: at temperature 0 the text must come round.
LOOPING = FakeModel(n_vocab=12, seed=3, order=1, end_ids=frozenset())
DRAFT = MODEL.perturbed(1.0)
TREE = Choice("mix", rows=12, depth=8, width=4)
SPEC = ContextSpec(n_ctx=900, max_nodes=32, max_leaves=32)


class Says:
    """A source whose guess at each place is given, by the tokens behind the history; places are those tokens."""

    trust = (0.0, 0.1, 1.5)

    def __init__(self, guesses: dict[tuple[int, ...], Guess]) -> None:
        self._guesses = guesses

    def follow(self, history: np.ndarray) -> tuple[int, ...]:
        return ()

    def step(self, place: tuple[int, ...], token: int) -> tuple[int, ...]:
        return (*place, token)

    def guess(self, place: tuple[int, ...]) -> Guess:
        return self._guesses.get(place, NOTHING)


def reader(model: FakeModel = DRAFT) -> tuple[Reader, FakeContext]:
    context = model.open(SPEC)
    return Reader(context), context


def draft(d: MixDrafter, history: Sequence[int], choice: Choice = TREE, temperature: float = 0.0) -> TokenTree:
    return d.draft(np.array(history, np.int32), choice, Process(Sampling(temperature=temperature)), Noise(4))


def made(names: str, model: FakeModel = MODEL) -> tuple[Any, list[Recycled], list[TimedContext]]:
    """A drafter of these by letter (s suffix, r recycled, m the model's rows; m alone is the model drafter), what
    learns, and contexts."""
    recycled = Recycled(1 << 10)
    sources: list[Any] = [Suffix(Automaton(4000))] if "s" in names else []
    sources += [recycled] if "r" in names else []
    contexts = [TimedContext(model.perturbed(1.0).open(SPEC))] if "m" in names else []
    if not sources and contexts:
        return ModelDrafter(Reader(contexts[0])), [recycled], contexts
    return MixDrafter(sources, Reader(contexts[0]) if contexts else None), [recycled], contexts


def answer(names: str, temperature: float, model: FakeModel = MODEL, n: int = 200, choice: Choice = TREE) -> list[Step]:
    drafter, learners, contexts = made(names or "s", model)
    setup = Setup(
        TimedContext(model.open(SPEC)),
        {"mix": drafter},
        FixedController(choice if names else PLAIN),
        "mix",
        contexts,
        learners if "r" in names else (),
    )
    events = Engine(setup).generate([1, 2, 3], Sampling(temperature=temperature, seed=9), n, end_ids=())
    return [s for s in events if isinstance(s, Step)]


def said(steps: list[Step]) -> list[int]:
    return [t for s in steps for t in s.tokens]


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
    tree = draft(MixDrafter([Says(COPY)], r), [1, 2, 3], Choice("mix", 24, 8, 3))
    paths = [tuple(t for t in path_tokens(tree, n)) for n in range(len(tree))]
    assert (5, 6, 7) in paths
    assert any(len(p) > 3 and p[:3] == (5, 6, 7) for p in paths)
    assert context.n_silent >= 2  # 5 and 6 in front of the row behind 5 6 7
    # what the drafter said behind the copy is what it says behind that text read plainly
    row = DRAFT.table[DRAFT.row_index([1, 2, 3, 5, 6, 7])]
    behind = {p[3] for p in paths if len(p) > 3 and p[:3] == (5, 6, 7)}
    assert int(row.argmax()) in behind


def path_tokens(tree: TokenTree, node: int) -> list[int]:
    path: list[int] = []
    while node:
        path.append(int(tree.token[node]))
        node = int(tree.parent[node])
    return path[::-1]


def node_at(tree: TokenTree, path: Sequence[int]) -> list[int]:
    """Nodes of a path of tokens, the root first."""
    nodes = [0]
    for token in path:
        nodes.append(int(np.flatnonzero((tree.parent == nodes[-1]) & (tree.token == token))[0]))
    return nodes


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
        assert held == history[: len(held)]
        assert len(held) < len(history)
        fresh = draft(MixDrafter([Says(COPY)], reader()[0]), history, Choice("mix", 24, 8, 3))
        mine = draft(d, history, Choice("mix", 24, 8, 3))
        assert set(mine.token.tolist()) & set(fresh.token.tolist())
    assert context.n_prefilled == 0


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("names", ["sr", "srm"])
def test_drafting_has_no_lasting_effect_on_what_is_learnt(names: str, temperature: float) -> None:
    """A round may be given up between draft and commit. Fails when a draft teaches, or a second draft of the same
    history is another one."""
    drafter, learners, _ = made(names)
    text = [1, 2, 3, 4, 1, 2, 3]
    learners[0].learn(np.array(text, np.int32), single(3), Rows(MODEL.table[:1]))
    learnt, table = json.dumps(drafter.to_dict()), learners[0].arrays()["keys"].copy()
    trees = [draft(drafter, text, temperature=temperature) for _ in range(4)]
    assert all(t.token.tolist() == trees[0].token.tolist() for t in trees)
    assert all(t.draft_logprob.tolist() == trees[0].draft_logprob.tolist() for t in trees)
    assert json.dumps(drafter.to_dict()) == learnt
    np.testing.assert_array_equal(learners[0].arrays()["keys"], table)


def test_a_commit_without_a_draft_is_nothing() -> None:
    """The drafter was forgotten in between. Fails when that ends the answer."""
    drafter, *_ = made("srm")
    draft(drafter, [1, 2, 3])
    drafter.forget()
    before = json.dumps(drafter.to_dict())
    drafter.commit(np.array([1, 2, 3, 4], np.int32), Verdict((0,), (4,), None))
    assert json.dumps(drafter.to_dict()) == before


def test_a_source_that_misleads_loses_its_say_over_the_drafter() -> None:
    """It is always wrong, beside a drafter that is always right. Fails when it goes on to cost rows: in the
    end the first child is nearly always the drafter's."""
    drafter = MixDrafter([Says({(): Guess(2, {47: 0.9})})], reader(MODEL)[0])
    text = [1, 2, 3]
    first: list[bool] = []
    for _ in range(250):
        tree = draft(drafter, text, Choice("mix", 4, 1, 3))
        right = int(MODEL.table[MODEL.row_index(text)].argmax())
        if right == 47:
            text = [*text, 46]
            continue
        first.append(int(tree.token[1]) == right)
        text = [*text, right]
        drafter.commit(np.array(text, np.int32), Verdict((0,), (right,), None))
    assert sum(first[:10]) < 5
    assert sum(first[-50:]) >= 45


def test_greedy_and_sampled_answers_are_learnt_apart() -> None:
    """Fails when noise at temperature 0.8 teaches what drafts at 0 are worth."""
    drafter, *_ = made("sr")
    before = drafter.to_dict()
    before = json.loads(json.dumps(before))
    draft(drafter, [1, 2, 3, 1, 2], temperature=0.8)
    drafter.commit(np.array([1, 2, 3, 1, 2, 3], np.int32), Verdict((0,), (3,), None))
    after = drafter.to_dict()
    assert after["greedy"] == before["greedy"]
    assert after["sampled"] != before["sampled"]


def test_what_was_learnt_survives_a_file() -> None:
    """Fails when the next session begins anew."""
    drafter, *_ = made("srm")
    text = [1, 2, 3, 4]
    for i in range(60):
        draft(drafter, text, temperature=0.8 * (i % 2))
        text = [*text, 1 + i % 5]
        drafter.commit(np.array(text, np.int32), Verdict((0,), (text[-1],), None))
    again, *_ = made("srm")
    again.take(json.loads(json.dumps(drafter.to_dict())))
    assert again.to_dict() == drafter.to_dict() != made("srm")[0].to_dict()


@pytest.mark.parametrize(
    "data",
    [None, 7, [], {"greedy": 7}, {"greedy": {}}, {"sampled": {"blend": 1, "evidence": {"a": 2}}}, {"greedy": [1, 2]}],
)
def test_nonsense_counts_as_nothing_learnt(data: object) -> None:
    """A file edited by hand, or another version's. Fails when it raises."""
    drafter, *_ = made("sr")
    before = json.dumps(drafter.to_dict())
    drafter.take(data)
    assert json.dumps(drafter.to_dict()) == before
