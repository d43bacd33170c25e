"""Draws without replacement, and trees that keep all of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgespec.speculation.drawing import grow_drawn, without_replacement
from edgespec.speculation.policies import Children, Limits
from edgespec.speculation.sampling import Noise
from edgespec.speculation.sizing import cut
from edgespec.speculation.tree import GrowingTree
from edgespec.types import Dist, TokenTree

LIMITS = Limits(rows=12, depth=5, width=4, n_leaves=64)


def test_draws_follow_the_distribution_without_what_was_drawn() -> None:
    """Fails when the order is not that of sequential draws: 20,000 ordered pairs of four ids against their law."""
    q, n = np.array([0.5, 0.3, 0.15, 0.05]), 20_000
    ids = np.tile(np.array([3, 1, 0, 2], np.int32), (n, 1))
    logprob = np.tile(np.log(q).astype(np.float32), (n, 1))
    tokens, probs = without_replacement(Dist(ids, logprob), Noise(3), range(n), 2)
    place = {3: 0, 1: 1, 0: 2, 2: 3}
    counts = np.zeros((4, 4))
    for a, b in tokens.tolist():
        counts[place[a], place[b]] += 1
    law = np.array([[q[a] * q[b] / (1 - q[a]) if a != b else 0 for b in range(4)] for a in range(4)]) * n
    off = ~np.eye(4, dtype=bool)
    assert not counts[~off].any()
    assert ((counts - law)[off] ** 2 / law[off]).sum() < 31.3  # 11 degrees of freedom, p = 0.001
    first = np.array([q[place[t]] for t in tokens[:, 0].tolist()])
    second = np.array([q[place[t]] for t in tokens[:, 1].tolist()])
    assert probs == pytest.approx(np.stack([first, second / (1 - first)], axis=1), rel=1e-5)


def test_what_the_settings_cut_away_is_never_drawn() -> None:
    """Fails when an id of no probability follows the last one that has some."""
    with np.errstate(divide="ignore"):
        logprob = np.log(np.array([[0.7, 0.3, 0.0, 0.0]], np.float32))
    _, probs = without_replacement(Dist(np.arange(4, dtype=np.int32)[None], logprob), Noise(0), [1], 4)
    assert probs[0, 1:].tolist() == [1.0, 0.0, 0.0]


def grown(
    draws: Callable[[int], list[tuple[int, float]]], limits: Limits = LIMITS
) -> tuple[TokenTree, list[list[int]]]:
    """A tree below token 0 whose nodes draw (token, chance) by their token; and the waves that read it."""
    tree, waves = GrowingTree([7, 0]), list[list[int]]()

    def read(nodes: list[int]) -> Children:
        waves.append([tree.token[n] for n in nodes])
        found = [draws(tree.token[n]) for n in nodes]
        with np.errstate(divide="ignore"):
            logprob = [np.log([c for _, c in row]).tolist() for row in found]
        return Children([[t for t, _ in row] for row in found], logprob)

    return grow_drawn(tree, read, limits)[0], waves


def children(tree: TokenTree, node: int) -> list[int]:
    return tree.token[tree.parent == node].tolist()


def test_siblings_stand_in_the_order_they_were_drawn() -> None:
    """Fails when the verifier would try a likelier child before an earlier one."""
    tree, _ = grown({0: [(1, 0.1), (2, 0.9)]}.__getitem__, Limits(rows=3, depth=1, width=2, n_leaves=9))
    assert children(tree, 0) == [1, 2]
    assert tree.depth.tolist() == [0, 1, 1]


def test_rows_go_where_a_child_is_likeliest_to_be_asked_for_and_taken() -> None:
    """Fails when growth is not by slots: 1 taken at .9 leaves its sibling .1; its own first child has .9 of chance."""
    table = {0: [(1, 0.9), (2, 0.9)], 1: [(3, 0.5), (4, 0.5)], 3: [(5, 0.1), (6, 0.1)]}
    tree, _ = grown(table.__getitem__, Limits(rows=5, depth=5, width=2, n_leaves=9))
    # slots by the chance to be asked: 1 at 1, 3 at .9, then 4 and 5 at .45 each, never 2 at .1
    assert sorted(tree.token.tolist()) == [0, 1, 3, 4, 5]


def test_whether_a_child_is_drawn_does_not_depend_on_what_it_is() -> None:
    """Fails when an unlikely draw is dropped: the tree's shape up to a child must be the same whatever the child is."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        table = {
            t: [(int(c), float(p)) for c, p in zip(rng.permutation(40)[:4] + 1, rng.random(4), strict=True)]
            for t in range(41)
        }
        tree, _ = grown(table.__getitem__)
        assert len(tree) == LIMITS.rows
        for node in range(len(tree)):
            drawn = [token for token, _ in table[int(tree.token[node])]]
            assert children(tree, node) == drawn[: len(children(tree, node))]


@pytest.mark.parametrize(
    ("rows", "depth", "width", "n_leaves"), [(6, 2, 3, 9), (9, 5, 1, 9), (9, 5, 4, 2), (1, 5, 4, 2)]
)
def test_a_tree_stays_within_its_limits(rows: int, depth: int, width: int, n_leaves: int) -> None:
    """Fails when a pass is wider than the context was opened for."""
    tree, _ = grown(lambda t: [(10 * t + i, 0.4) for i in range(1, 5)], Limits(rows, depth, width, n_leaves))
    parents = tree.parent.tolist()
    n_children = [parents.count(n) for n in range(len(tree))]
    assert len(tree) <= rows
    assert tree.depth.max() <= depth
    assert max(n_children) <= width
    assert n_children.count(0) <= n_leaves


def test_a_tree_ends_where_nothing_is_left_to_draw() -> None:
    """Fails when an exhausted draft is asked for ever, or its cut ids are drafted."""
    tree, _ = grown({0: [(1, 0.9), (2, 0.0)], 1: [(3, 0.0), (4, 0.0)]}.__getitem__)
    assert tree.token.tolist() == [0, 1]


def test_reading_ahead_saves_passes_and_changes_nothing() -> None:
    """Fails when every node costs a pass of the drafter, or what is drawn depends on the wave that read it."""

    def table(token: int) -> list[tuple[int, float]]:
        return [(10 * token + i, 0.5) for i in range(1, 5)]

    alone, slow = grown(table, Limits(rows=12, depth=3, width=4, n_leaves=64, n_beams=1))
    ahead, fast = grown(table, Limits(rows=12, depth=3, width=4, n_leaves=64, n_beams=4))
    assert ahead.token.tolist() == alone.token.tolist()
    assert len(fast) < len(slow)
    read = [*itertools.chain(*fast)]
    assert len(read) == len(set(read))


def test_slots_that_are_hardly_asked_for_stay_empty() -> None:
    """Fails when a controller cannot have a smaller tree: first children at .9, .81, .73, .66, second ones at .1."""
    tree, _ = grown(lambda t: [(10 * t + i, 0.9) for i in range(1, 5)], replace(LIMITS, row_prices=(0.0, 0.6)))
    assert tree.parent.tolist() == [-1, 0, 1, 2, 3, 4]


def test_a_tree_of_draws_is_not_cut_to_its_likeliest_nodes() -> None:
    """Fails when what was drawn is left out before it is verified: the rest are no draws any more."""
    tree, _ = grown(lambda t: [(10 * t + i, 0.4) for i in range(1, 5)])
    probs = Dist(np.zeros((len(tree), 1), np.int32), np.zeros((len(tree), 1), np.float32))
    chances = np.linspace(1, 0.1, len(tree))
    assert len(cut(tree, chances, 4).tree) == 4
    drawn = replace(tree, draft_probs=probs)
    assert cut(drawn, chances, 4).tree is drawn
    assert cut(drawn, chances, len(tree), fill=2).tree is drawn
