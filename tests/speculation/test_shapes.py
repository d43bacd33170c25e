"""Best trees: the dynamic programme against every tree there is."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from edgespec.errors import BadSetting
from edgespec.speculation.shapes import Shape, best_trees

BY_RANK = (0.6, 0.2, 0.1)


def every_tree(n: int) -> list[Shape]:
    """All trees of n nodes by parent pointers (parents first), each child's rank by its place among its siblings."""
    found = []
    for parents in itertools.product(*(range(i) for i in range(1, n))):
        seen: dict[int, int] = {}
        ranks = []
        for parent in parents:
            ranks.append(seen.get(parent, 0))
            seen[parent] = ranks[-1] + 1
        found.append(Shape((-1, *parents), (-1, *ranks)))
    return found


@pytest.mark.parametrize("by_rank", [BY_RANK, (0.3, 0.3, 0.3), (0.1, 0.5, 0.2), (0.9, 0.0, 0.05)])
def test_no_tree_yields_more_than_the_programme_says(by_rank: tuple[float, ...]) -> None:
    """Fails on any slip in the recurrence; ranks that do not fall are what counts of a few rounds look like."""
    for width, depth in ((1, 3), (2, 2), (2, 6), (3, 3), (3, 6)):
        trees = best_trees(by_rank, 6, depth, width)
        best = 0.0
        for rows in range(1, 7):
            legal = [t for t in every_tree(rows) if t.depth <= depth and max(t.rank) < width]
            best = max([best, *(t.tokens(by_rank) for t in legal)])
            assert trees.tokens[depth, rows] == pytest.approx(best)


def test_chances_may_depend_on_the_depth() -> None:
    """Against every tree again. Fails when a level's chances are taken for its neighbour's, or for the root's."""
    by_depth = np.array([[0.7, 0.2, 0.05], [0.3, 0.3, 0.1], [0.1, 0.05, 0.6]])
    for width, depth in ((1, 3), (2, 2), (3, 3)):
        trees = best_trees(by_depth, 6, depth, width)
        best = 0.0
        for rows in range(1, 7):
            for tree in every_tree(rows):
                if tree.depth <= depth and max(tree.rank) < width:
                    best = max(best, expected(tree, by_depth))
            assert trees.tokens[depth, rows] == pytest.approx(best)
            assert expected(trees.shape(rows, depth), by_depth) == pytest.approx(best)
    with pytest.raises(BadSetting, match="chances of 3 levels are not enough for 4"):
        best_trees(by_depth, 6, 4, 2)


def expected(tree: Shape, by_depth: np.ndarray) -> float:
    """Tokens of a pass: the sum over nodes of the chance to walk there."""
    chance: list[float] = []
    for node, (parent, rank) in enumerate(zip(tree.parent, tree.rank, strict=True)):
        chance.append(1.0 if parent < 0 else chance[parent] * by_depth[tree.depths[node] - 1, rank])
    return sum(chance)


def test_a_chain_yields_a_geometric_sum() -> None:
    """Worked by hand: 1 + a + a^2 + ... with one term a row."""
    tokens = best_trees((0.75,), 8, 20, 1).tokens[20]
    assert tokens[1:] == pytest.approx([(1 - 0.75**n) / 0.25 for n in range(1, 9)])
    assert best_trees((0.75, 0.2), 8, 20, 1).tokens[20] == pytest.approx(tokens)


def test_a_depth_limit_ends_a_chain() -> None:
    """Fails when rows that no level has room for are counted."""
    assert best_trees((0.5,), 8, 2, 1).tokens[:, 8] == pytest.approx([1, 1.5, 1.75])
    assert len(best_trees((0.5,), 8, 2, 1).shape(8, 2)) == 3


def test_the_shape_is_the_tree_that_yields_those_tokens() -> None:
    """Fails when the way back through the table takes another branch than the way there."""
    trees = best_trees(BY_RANK, 20, 6, 3)
    for rows, depth in itertools.product(range(1, 21), range(7)):
        shape = trees.shape(rows, depth)
        assert len(shape) <= rows
        assert shape.depth <= depth
        assert max(shape.rank) < 3
        assert shape.tokens(BY_RANK) == pytest.approx(trees.tokens[depth, rows])


def test_more_rows_levels_and_children_never_yield_less() -> None:
    """A planner's sweep relies on it."""
    tokens = best_trees(BY_RANK, 30, 8, 3).tokens
    assert np.all(np.diff(tokens, axis=0) >= -1e-12)
    assert np.all(np.diff(tokens, axis=1) >= -1e-12)
    assert np.all(tokens >= best_trees(BY_RANK, 30, 8, 2).tokens - 1e-12)


def test_the_drafter_reads_inner_nodes_level_by_level() -> None:
    """By hand: a root with 6 children of one child each is 1 wave for the root and 2 for its children, 4 at a time."""
    shape = Shape((-1, *[0] * 6, *range(1, 7)), (-1, *range(6), *[0] * 6))
    assert shape.levels == (1, 6, 6)
    assert shape.n_leaves == 6
    assert shape.waves(4) == (1, 4, 2)
    assert Shape((-1,), (-1,)).waves(4) == ()
    assert best_trees((0.5,), 5, 9, 1).shape(5, 9).waves(4) == (1, 1, 1, 1)


def test_a_planners_table_takes_no_time() -> None:
    """64 rows, 32 levels, 8 children: fails when the innermost loop is Python again."""
    start = time.perf_counter()
    best_trees([0.5, *[0.05] * 7], 64, 32, 8)
    assert time.perf_counter() - start < 0.3


@pytest.mark.parametrize("by_rank", [(0.9, 0.2), (-0.1, 0.5), (float("nan"),)])
def test_what_are_no_chances_are_refused(by_rank: tuple[float, ...]) -> None:
    """Fails when a corrupt count yields a tree that is better than possible."""
    with pytest.raises(BadSetting, match="together at most 1"):
        best_trees(by_rank, 4, 4, 2)
