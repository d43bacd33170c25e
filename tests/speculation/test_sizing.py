"""How much of a tree a pass verifies: the best number of rows, and the part that is cut out."""

from __future__ import annotations

import numpy as np
import pytest

from edgespec.speculation.sizing import Sized, best_size, cut, whole
from edgespec.types import Dist, TokenTree, Verdict
from tests.helpers import random_tree, tree_of

STAIRS = {1: 10.0, 2: 16.0, 4: 17.0, 6: 30.0, 8: 31.0, 12: 55.0, 16: 56.0}


def falling(rng: np.random.Generator, tree: TokenTree) -> np.ndarray:
    """Chances that fall along every path, 1 at the root; some stay as they are."""
    chances = np.ones(len(tree))
    for node in range(1, len(tree)):
        chances[node] = chances[tree.parent[node]] * (1.0 if rng.random() < 0.2 else rng.random())
    return chances


def pass_ms(rows: int) -> float:
    return STAIRS.get(rows) or float(np.interp(rows, list(STAIRS), list(STAIRS.values())))


@pytest.mark.parametrize("goodput", [0.0, 0.02, 0.1, 0.3, 5.0])
def test_the_best_size_is_the_one_that_trying_all_of_them_finds(goodput: float) -> None:
    """Expected tokens less goodput times milliseconds, of every allowed width. Fails when a width is left out, the
    whole tree is none, or chances are summed in the tree's order."""
    rng, widths = np.random.default_rng(0), tuple(STAIRS)
    for _ in range(60):
        chances = falling(rng, random_tree(rng, int(rng.integers(2, 17)), 50, 0))

        def worth(n: int, chances: np.ndarray = chances) -> float:
            return float(np.sort(chances)[::-1][:n].sum()) - goodput * pass_ms(n)

        allowed = {*(w for w in widths if w < len(chances)), len(chances)}
        found = best_size(chances, goodput, pass_ms, widths)
        assert found in allowed
        assert worth(found) == pytest.approx(max(worth(n) for n in allowed))


def test_time_that_costs_nothing_takes_all_and_dear_time_takes_one() -> None:
    """Fails when the sign of the price is wrong."""
    chances = np.array([1.0, 0.5, 0.4, 0.3, 0.2])
    assert best_size(chances, 0.0, pass_ms, tuple(STAIRS)) == 5
    assert best_size(chances, 10.0, pass_ms, tuple(STAIRS)) == 1


@pytest.mark.parametrize("fill", [0, 3])
def test_a_cut_is_a_tree_of_the_likeliest_nodes(fill: int) -> None:
    """Fails when a parent is missing or stands behind its child, depths fall, or a likelier node was left out."""
    rng = np.random.default_rng(1)
    for _ in range(60):
        tree = random_tree(rng, 14, 50, 7)
        chances = falling(rng, tree)
        n = int(rng.integers(1, 14))
        sized = cut(tree, chances, n, fill)
        part = sized.tree
        assert len(part) == len(sized.nodes) == n + fill
        assert part.parent[0] == -1
        assert all(0 <= part.parent[i] < i for i in range(1, len(part)))
        assert all(part.depth[i] == part.depth[part.parent[i]] + 1 for i in range(1, len(part)))
        assert (np.diff(part.depth) >= 0).all()
        kept = [node for node in sized.nodes if node >= 0]
        assert min(chances[kept]) >= max(np.delete(chances, kept), default=0.0)


def test_nodes_say_where_a_part_stood() -> None:
    """Fails when places, tokens or parents are not those of the drafted tree."""
    rng = np.random.default_rng(2)
    for fill in (0, 2):
        tree = random_tree(rng, 14, 50, 7)
        sized = cut(tree, falling(rng, tree), 6, fill)
        for i, node in enumerate(sized.nodes):
            if node >= 0:
                assert sized.tree.token[i] == tree.token[node]
                assert sized.tree.draft_logprob[i] == tree.draft_logprob[node]
            if node > 0:
                assert sized.nodes[sized.tree.parent[i]] == tree.parent[node]


def test_siblings_keep_their_order() -> None:
    """Ranks are what acceptance is counted by. Fails when a cut sorts siblings by chance."""
    tree = tree_of([0, 11, 12, 13, 14], [-1, 0, 0, 0, 0])
    sized = cut(tree, np.array([1.0, 0.1, 0.3, 0.05, 0.2]), 4)
    assert sized.tree.token.tolist() == [0, 11, 12, 14]


def test_of_equally_likely_nodes_the_parent_is_kept() -> None:
    """Fails when a tie leaves a node without its parent: a chance of 1 may be its parent's too."""
    tree = tree_of([0, 1, 2, 3, 4], [-1, 0, 1, 2, 3])
    assert cut(tree, np.ones(5), 3).tree.token.tolist() == [0, 1, 2]


@pytest.mark.parametrize("parents", [[-1], [-1, 0, 1], [-1, 0, 0, 0, 1]], ids=["root", "chain", "tree"])
def test_fillers_add_no_leaf_and_no_sibling(parents: list[int]) -> None:
    """A context is opened for so many leaves. Fails when a chain that was filled up is a tree, when a filler stands
    beside a drafted token, or an accepted one could be taken for a draft."""
    tree = tree_of([5, 0, 1, 3, 9][: len(parents)], parents)
    sized = cut(tree, np.linspace(1.0, 0.3, len(parents)), len(parents), fill=3)
    n, filled = len(parents), sized.tree
    assert filled.parent.tolist() == [*parents, n - 1, n, n + 1]
    assert filled.depth[n:].tolist() == [tree.depth[-1] + 1 + i for i in range(3)]
    assert sized.nodes == (*range(n), -1, -1, -1)
    assert sized.n_drafted == n - 1
    assert np.isneginf(filled.draft_logprob[n:]).all()
    assert len(set(range(n + 3)) - set(filled.parent.tolist())) == len(set(range(n)) - set(parents))


def test_a_verdict_is_told_in_the_drafted_trees_nodes() -> None:
    """Fails when a drafter keeps rows of nodes that were not walked."""
    tree = tree_of([5, 10, 11, 12, 13], [-1, 0, 0, 2, 3])
    sized = cut(tree, np.array([1.0, 0.1, 0.9, 0.8, 0.7]), 4, fill=1)
    verdict = Verdict((0, 1, 2, 3), (11, 12, 13, 40), None)
    assert sized.nodes == (0, 2, 3, 4, -1)
    assert sized.as_drafted(verdict) == Verdict((0, 2, 3, 4), (11, 12, 13, 40), None)


@pytest.mark.parametrize("finish", [None, "stop"])
def test_a_verdict_is_cut_where_a_filler_was_accepted(finish: str | None) -> None:
    """The target may draw a filler after all. Fails when the drafter is told of a node that it never drafted; what was
    emitted behind the last drafted node is what follows it."""
    sized = Sized(tree_of([5, 10, 0], [-1, 0, 0]), (0, 1, -1))
    drafted = sized.as_drafted(Verdict((0, 2), (0, 33), finish))
    assert (drafted.path, drafted.tokens, drafted.finish) == ((0,), (0,), finish)


def test_a_tree_of_draws_stays_whole() -> None:
    """Leaving out a drawn child for what it is biases the rest (docs/rejection.md). Fails when it is cut or filled."""
    tree = tree_of([5, 10, 11], [-1, 0, 0])
    draws = TokenTree(
        tree.token, tree.parent, tree.depth, tree.draft_logprob, Dist(np.zeros((3, 1), np.int32), np.zeros((3, 1)))
    )
    for n, fill in ((1, 0), (2, 1), (3, 2)):
        assert cut(draws, np.array([1.0, 0.5, 0.1]), n, fill) == whole(draws)


def test_asking_for_all_of_it_is_the_tree_itself() -> None:
    """Fails when an uncut tree loses something on the way."""
    tree = tree_of([5, 10, 11], [-1, 0, 0])
    assert cut(tree, np.array([1.0, 0.5, 0.1]), 3).tree is tree
    verdict = Verdict((0, 2), (11, 4), None)
    assert whole(tree).as_drafted(verdict) == verdict
