"""Trees of up to 512 nodes, as SpecExec grows them (arXiv 2406.02532, algorithm 1): exact, bounded, read once."""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np
import pytest

from edgespec.backends.fake import FakeContext, FakeModel
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.policies import (
    MAX_LEAVES,
    MAX_LEVELS,
    Children,
    Limits,
    grow,
    limits_of,
    n_beams_of,
    n_reads_at_most,
)
from edgespec.speculation.sampling import Noise, Process, log_softmax
from edgespec.speculation.tree import GrowingTree
from edgespec.types import Choice, ContextSpec, Sampling, TokenTree, Verdict

WIDTH = 16
MODEL = FakeModel(n_vocab=64, end_ids=frozenset())
# A drafter that is nearly sure grows long thin trees, one that knows nothing wide ones.
SURE, UNSURE = FakeModel(n_vocab=64, scale=12.0), FakeModel(n_vocab=64, scale=0.3)
PENDING = 9


def choice(rows: int, depth: int = 511) -> Choice:
    return Choice("model", rows, depth, WIDTH)


def children_of(model: FakeModel, path: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and log-chances after the pending token and a path, best first."""
    logprob = log_softmax(model.table[model.row_index([5, PENDING, *path])].astype(np.float64))
    order = np.argsort(-logprob, kind="stable")[:WIDTH]
    return order, logprob[order]


def grown(model: FakeModel, limits: Limits) -> tuple[TokenTree, list[list[int]]]:
    """The tree of a drafter that says what a model says, and the waves it read."""
    tree, waves = GrowingTree([PENDING]), []

    def read(nodes: list[int]) -> Children:
        waves.append(nodes)
        found = [children_of(model, tuple(tree.path_tokens(n))) for n in nodes]
        return Children([ids.tolist() for ids, _ in found], [logprob.tolist() for _, logprob in found])

    return grow(tree, read, limits)[0], waves


def scores(tree: TokenTree) -> dict[tuple[int, ...], float]:
    """Of every prefix in the tree."""
    paths = {0: ()}
    for node in range(1, len(tree)):
        paths[node] = (*paths[int(tree.parent[node])], int(tree.token[node]))
    return {path: float(tree.draft_logprob[node]) for node, path in paths.items()}


def best_prefixes(model: FakeModel, n: int, decay: float, levels: int = 512) -> dict[tuple[int, ...], float]:
    """The n most probable prefixes and their scores: one node at a time, always the best one not yet taken."""
    taken: dict[tuple[int, ...], float] = {}
    todo: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    while len(taken) < n:
        score, path = heapq.heappop(todo)
        taken[path] = -score
        if len(path) == levels:
            continue
        for token, logprob in zip(*children_of(model, path), strict=True):
            heapq.heappush(todo, (score - float(logprob) - np.log(decay), (*path, int(token))))
    return taken


def n_leaves(tree: TokenTree) -> int:
    return len(tree) - len(set(tree.parent[1:].tolist()))


@pytest.mark.parametrize("decay", [1.0, 0.95])
@pytest.mark.parametrize("rows", [16, 32, 64, 128, 256])
def test_the_tree_is_exactly_the_most_probable_prefixes(rows: int, decay: float) -> None:
    """Fails when a wave leaves out a node whose child belongs into the tree, or a level's decay is not in the scores:
    each prefix and its score are those of brute force."""
    limits = replace(limits_of(choice(rows), MAX_LEAVES), reach=1.0, decay=decay)
    tree, _ = grown(MODEL, limits)
    assert scores(tree) == pytest.approx(best_prefixes(MODEL, rows, decay), abs=1e-4)


def test_beyond_64_rows_the_product_itself_grows_exactly() -> None:
    """Fails when the shortcut of small trees, a reach below 1, is taken where a pass costs seconds."""
    assert limits_of(choice(65), MAX_LEAVES).reach == 1.0
    assert limits_of(choice(64), MAX_LEAVES).reach < 1.0


@pytest.mark.parametrize("model", [MODEL, SURE, UNSURE], ids=["usual", "sure", "unsure"])
@pytest.mark.parametrize("rows", [128, 256, 512])
def test_a_large_tree_keeps_within_what_contexts_hold(rows: int, model: FakeModel) -> None:
    """Fails when leaves or levels go beyond the runtime's sequences, or the drafter reads more than its cache has room
    for, a node twice, or more of them in a pass than it was opened for."""
    tree, waves = grown(model, limits_of(choice(rows), MAX_LEAVES))
    assert len(tree) <= rows
    assert n_leaves(tree) <= MAX_LEAVES
    assert tree.depth.max() <= MAX_LEVELS
    read = [n for wave in waves for n in wave]
    assert len(read) == len(set(read)) <= n_reads_at_most(choice(rows))
    assert max(map(len, waves)) == n_beams_of(rows, WIDTH)


def test_a_sure_drafter_is_followed_down_to_the_last_level() -> None:
    """Fails when a wave is filled up with unlikely nodes beside a likely one, so that the room of the drafter's cache
    is spent half-way down: where text is sure the tokens are deep."""
    tree, _ = grown(SURE, limits_of(choice(128), MAX_LEAVES))
    assert tree.depth.max() == MAX_LEVELS
    assert scores(tree) == pytest.approx(best_prefixes(SURE, 128, 1.0, MAX_LEVELS), abs=1e-3)


def test_leaves_beyond_the_limit_are_the_least_probable_ones() -> None:
    """Fails when a likely leaf gives way to an unlikely one: nobody left out is better than anybody kept, but for
    prefixes whose place is below one that was left out."""
    tree, _ = grown(UNSURE, limits_of(choice(512), MAX_LEAVES))
    kept, every = scores(tree), best_prefixes(UNSURE, 512, 1.0)
    assert n_leaves(tree) == MAX_LEAVES
    assert min(kept.values()) >= max(every[path] for path in every if path not in kept) - 1e-4


@pytest.mark.parametrize(("rows", "beams"), [(2, 4), (64, 4), (128, 16), (256, 32), (512, 32)])
def test_waves_grow_with_the_tree(rows: int, beams: int) -> None:
    """Fails when a tree of 512 nodes takes a hundred passes of the drafter, or a small one reads wide waves in vain."""
    assert n_beams_of(rows, WIDTH) == beams
    assert n_beams_of(rows, 1) == 1


def opened(rows: int) -> tuple[ModelDrafter, FakeContext]:
    n_beams = n_beams_of(rows, WIDTH)
    context = MODEL.perturbed(0.3).open(ContextSpec(n_ctx=2048, max_nodes=n_beams, max_leaves=MAX_LEAVES))
    return ModelDrafter(Reader(context)), context


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_model_drafts_large_trees_and_keeps_the_accepted_path(temperature: float) -> None:
    """Fails when a large tree's drafter asks for a wider pass than it was opened for, or reads an accepted node again:
    between two drafts only the tokens it has never read enter its cache in silence."""
    drafter, context = opened(256)
    process, history = Process(Sampling(temperature=temperature)), [1, 2, 3]
    for _ in range(4):
        n_silent = context.n_silent
        tree = drafter.draft(np.array(history, np.int32), choice(256, 31), process, Noise(3))
        assert len(tree) > 64
        unread = len(history) - 1 - context.length(0)
        assert context.n_silent - n_silent == unread <= 2
        path = [0]
        while len(below := np.flatnonzero(tree.parent == path[-1])):
            path.append(int(below[0]))
        tokens = [*tree.token[path[1:]].tolist(), 40]
        history += tokens
        drafter.commit(np.array(history, np.int32), Verdict(tuple(path), tuple(tokens), None))


def test_the_same_text_is_drafted_the_same_way_twice() -> None:
    """Fails when growth depends on what an earlier draft left behind."""
    drafter, _ = opened(256)
    process, history = Process(Sampling(temperature=0.8)), np.array([1, 2, 3], np.int32)
    first = drafter.draft(history, choice(256, 31), process, Noise(3))
    drafter.forget()
    again = drafter.draft(history, choice(256, 31), process, Noise(3))
    assert scores(first) == scores(again)
