"""The tree that yields most tokens for its rows: Sequoia's dynamic programme (arXiv 2402.12374, section 3).

It takes a child's chance to be the draw for a matter of its rank alone, so it knows the best tree before anything is
drafted: what a planner needs to compare widths. The tree that is drafted in a round is another one, grown by the
drafter's own scores (policies.py), and as a rule a little better.

    T[l][m][0] = 1,   T[l][m][b] = max over y of  T[l][m - y][b - 1] + by_rank[b] * max over b' of T[l - 1][y][b']

is the most tokens of a tree of at most m nodes, l levels below its root, and exactly b children of the root. Where
chances fall with the depth as well (a parallel drafter's), by_rank is that of the level the root stands at.
Not covered: what a pass costs (cost.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgespec.errors import BadSetting


@dataclass(frozen=True)
class Shape:
    """One tree, breadth first.

    parent  of each node, -1 for the root
    rank    which child of its parent a node is, 0 the first; -1 for the root
    """

    parent: tuple[int, ...]
    rank: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.parent)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Of each node; the root's is 0."""
        depths: list[int] = []
        for parent in self.parent:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return tuple(depths)

    @property
    def depth(self) -> int:
        return max(self.depths)

    @property
    def levels(self) -> tuple[int, ...]:
        """Nodes by depth, the root's level first."""
        return tuple(np.bincount(self.depths).tolist())

    @property
    def n_leaves(self) -> int:
        return len(self) - len(set(self.parent) - {-1})

    def waves(self, n_beams: int) -> tuple[int, ...]:
        """Nodes a drafter reads in each of its passes, at most n_beams a pass, level by level: the inner nodes."""
        inner = np.bincount([self.depths[node] for node in set(self.parent) - {-1}]).tolist() if len(self) > 1 else []
        return tuple(min(n_beams, n - start) for n in inner for start in range(0, n, n_beams))

    def tokens(self, by_rank: Sequence[float]) -> float:
        """Expected tokens of a pass, the bonus token included: the sum over nodes of the chance to walk there."""
        chance: list[float] = []
        for parent, rank in zip(self.parent, self.rank, strict=True):
            chance.append(1.0 if parent < 0 else chance[parent] * by_rank[rank])
        return sum(chance)


@dataclass(frozen=True, eq=False)
class Trees:
    """The best trees for every number of rows and every depth within limits.

    tokens      float64 [depth + 1, rows + 1], expected tokens of a pass with at most so many rows and levels of drafts,
                the bonus token included; column 0 is 0
    n_children  int32 [depth + 1, rows + 1], children of the best tree's root
    n_rows      int32 [depth + 1, rows + 1], rows that the best tree uses: fewer than allowed where limits leave no more
    last        int32 [depth + 1, width + 1, rows + 1], rows of the last child's subtree, by exact number of rows
    """

    tokens: NDArray[np.float64]
    n_children: NDArray[np.int32]
    n_rows: NDArray[np.int32]
    last: NDArray[np.int32]

    def shape(self, rows: int, depth: int) -> Shape:
        """The best tree of at most `rows` rows and `depth` levels of drafts."""
        parent, rank = [-1], [-1]
        todo = [(0, rows, depth)]  # node, rows its subtree may have, levels below it
        for node, m, level in todo:
            left = int(self.n_rows[level, m])
            sizes = []
            for b in range(int(self.n_children[level, m]), 0, -1):
                sizes.append(int(self.last[level, b, left]))
                left -= sizes[-1]
            for r, size in enumerate(reversed(sizes)):
                parent.append(node)
                rank.append(r)
                todo.append((len(parent) - 1, size, level - 1))
        return Shape(tuple(parent), tuple(rank))


def best_trees(by_rank: Sequence[float] | NDArray[np.float64], rows: int, depth: int, width: int) -> Trees:
    """The best trees of up to `rows` rows, the pending token's included; width 1 leaves chains.

    by_rank: chance of a walked node's b-th child to be the draw, best first, together at most 1; or float64
    [depth or more, width], the same by the node's depth, and then only `depth` levels below the root make sense of the
    tables. Takes O(depth * width * rows^2). Raises BadSetting for chances or limits that make no sense.
    """
    chances = np.asarray(by_rank, np.float64)[..., :width]
    if rows < 1 or depth < 0 or width < 1:
        raise BadSetting(f"a tree has 1 row, 0 levels and 1 child or more, not {rows}, {depth} and {width}")
    if not np.all(np.isfinite(chances)) or np.any(chances < 0) or np.any(chances.sum(axis=-1) > 1 + 1e-9):
        raise BadSetting(f"chances by rank are 0 or more and together at most 1, not {chances.tolist()}")
    if chances.ndim > 1 and len(chances) < depth:
        raise BadSetting(f"chances of {len(chances)} levels are not enough for {depth}")
    tokens = np.zeros((depth + 1, rows + 1))
    tokens[:, 1:] = 1.0
    n_children, n_rows = (np.zeros((depth + 1, rows + 1), np.int32) for _ in range(2))
    n_rows[:, 1:] = 1
    last = np.zeros((depth + 1, chances.shape[-1] + 1, rows + 1), np.int32)
    size = np.arange(rows + 1)
    # before[m, y]: rows left for the root and its earlier children when the last child's subtree takes y of m.
    before = size[:, None] - size[None, :]
    allowed = (before >= 1) & (size[None, :] >= 1)
    before = np.where(allowed, before, 0)
    for level in range(1, depth + 1):
        exact = np.full(rows + 1, -np.inf)  # by exact rows for the root and what its children may use
        exact[1] = 1.0
        best, count = exact.copy(), np.zeros(rows + 1, np.int32)
        for b, chance in enumerate(chances if chances.ndim == 1 else chances[depth - level], start=1):
            total = np.where(allowed, exact[before] + chance * tokens[level - 1][None, :], -np.inf)
            last[level, b] = total.argmax(axis=1)
            exact = total.max(axis=1)
            better = exact > best + 1e-12  # fewer children where that is as good
            best, count = np.where(better, exact, best), np.where(better, b, count)
        _at_most(best, count, tokens[level], n_children[level], n_rows[level])
    return Trees(tokens, n_children, n_rows, last)


def _at_most(
    best: NDArray[np.float64],
    count: NDArray[np.int32],
    tokens: NDArray[np.float64],
    n_children: NDArray[np.int32],
    n_rows: NDArray[np.int32],
) -> None:
    """From trees of exactly so many rows to those of at most as many, into the three rows of Trees."""
    at = 1
    for m in range(1, len(best)):
        if best[m] > best[at] + 1e-12:
            at = m
        tokens[m], n_children[m], n_rows[m] = best[at], count[at], at
