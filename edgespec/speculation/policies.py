"""Which tree to draft: best-first growth in waves (SpecExec, arXiv 2406.02532, algorithm 1; DySpec by parameters).

The drafter's scores fall along a path, so the rows best-scored nodes always form a tree, and growing any node outside
them can no longer change it. Not covered: where scores come from (drafters), how many rows pay (controllers).
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from edgespec.speculation.tree import GrowingTree
from edgespec.types import Choice, TokenTree


@dataclass(frozen=True)
class Limits:
    """What a tree may cost.

    rows      nodes in all, the pending token included
    depth     drafted tokens on one path; width children of one node
    n_beams   nodes read in one wave of the drafter; n_waves waves in all
    n_leaves  leaves of the tree, and tips the drafter's cache may hold
    reach     a node of a full tree is read only if a child of this probability would enter it: 1 grows exactly the best
              tree, less saves waves
    row_prices, wave_price  as in Choice: a node must be likelier than its row costs, and the nodes of a wave together
              than the wave does
    decay     a level's factor on chances that are raw draft probabilities (SpecExec: 0.95); 1 where they were fitted
              to what the target draws (agreement.py), which is the same factor learnt
    n_reads   nodes read in all: the room of the drafter's cache beside the conversation
    """

    rows: int
    depth: int
    width: int
    n_leaves: int
    n_beams: int = 4
    n_waves: int = 64
    reach: float = 1.0
    row_prices: tuple[float, ...] = ()
    wave_price: float = 0.0
    decay: float = 1.0
    n_reads: int = 1 << 30

    def price(self, rank: int) -> float:
        """The least chance that a node with `rank` likelier ones must have."""
        return self.row_prices[min(rank, len(self.row_prices) - 1)] if self.row_prices else 0.0


# Reads a tenth fewer waves than 1 at the same tokens per pass (benchmarks/LOG.md).
REACH = 0.5
# Nodes of a wave. With an eighth of its rows, 32 at most, a large tree of the demo drafter takes about as many waves as
# it has levels, and reads hardly more nodes than it keeps; wider waves read more in vain and save few.
N_BEAMS, MOST_BEAMS, BEAM_SHARE = 4, 32, 8
# Trees beyond SMALL rows are for passes that cost nearly alike at any width (docs/specexec.md): grown exactly, at most
# MAX_LEVELS deep, with READS_A_ROW nodes read for each of their rows at most.
SMALL, MAX_LEVELS, READS_A_ROW = 64, 32, 2
# A drafter's first pass reads so many tokens more at most, in vain where the tree has them not (drafters/mix.py).
N_AHEAD = 3
# Sequences of a pass beside the conversation's own (docs/trees.md).
MAX_LEAVES = 255


def n_beams_of(rows: int, width: int) -> int:
    """Nodes a drafter reads in one wave of a tree of so many rows; a chain reads one."""
    if rows <= SMALL or width <= 1:
        return min(N_BEAMS, width)
    return min(rows // BEAM_SHARE, MOST_BEAMS)


def limits_of(choice: Choice, n_leaves: int, n_beams: int = MOST_BEAMS) -> Limits:
    """A choice as growth limits. n_beams: the most that one pass may read, 1 where a wave costs nothing by itself."""
    large = choice.rows > SMALL
    return Limits(
        choice.rows,
        min(choice.depth, MAX_LEVELS) if large and choice.width > 1 else choice.depth,
        choice.width,
        n_leaves,
        min(n_beams_of(choice.rows, choice.width), n_beams),
        n_waves=choice.rows,
        reach=1.0 if large else REACH,
        row_prices=choice.row_prices,
        wave_price=choice.wave_price,
        n_reads=n_reads_at_most(choice),
    )


def n_reads_at_most(choice: Choice) -> int:
    """Nodes the drafter may read for one tree: the room its cache needs beside the conversation."""
    most = n_beams_of(choice.rows, choice.width) if choice.rows <= SMALL else READS_A_ROW
    return choice.rows * min(most, choice.width)


@dataclass(frozen=True)
class Children:
    """What reading a wave gave: for each node read its children's tokens and log-chances, best first."""

    token: list[list[int]]
    logprob: list[list[float]]


def grow(tree: GrowingTree, read: Callable[[list[int]], Children], limits: Limits) -> tuple[TokenTree, list[int]]:
    """The best-scored tree within the limits, and where its nodes stand in `tree`.

    read(nodes) evaluates nodes of `tree` in one pass; its children's logprobs must not be positive. Plain lists and
    heaps: a wave has some dozens of candidates, too few to pay for array calls.
    """
    growth = _Growth(tree, limits)
    for _ in range(limits.n_waves):
        wave = growth.next_wave()
        if not wave:
            break
        children = read(wave)
        growth.add(wave, children.token, children.logprob)
    return tree.cut(growth.best())


class _Growth:
    """Unread nodes as a heap, and the scores of the rows best nodes, rising: the first one is the score to beat."""

    def __init__(self, tree: GrowingTree, limits: Limits) -> None:
        self._tree, self._limits = tree, limits
        self._unread = [(0.0, tree.root)]
        self._best = [0.0]
        self._log_reach, self._log_decay = math.log(limits.reach), math.log(limits.decay)
        self._log_far = math.log(limits.rows)
        self._has_read_child: set[int] = set()
        self._n_tips = 1
        self._n_read = 0

    def _floor(self) -> float:
        return self._best[0] if len(self._best) == self._limits.rows else -math.inf

    def _far(self) -> float:
        """What a wave of a large tree leaves for later ones: nodes that much less likely than the best one would mostly
        be read in vain, and where the drafter is sure there are many of them. In later waves they may come in."""
        return -self._unread[0][0] - self._log_far if self._unread and self._limits.rows > SMALL else -math.inf

    def _price(self, score: float, n_before: int = 0) -> float:
        """Of the row that a node of this score would take behind all that are no worse, and n_before others."""
        if not self._limits.row_prices:
            return 0.0
        return self._limits.price(len(self._best) - bisect_left(self._best, score) + n_before)

    def next_wave(self) -> list[int]:
        """Up to n_beams of the best unread nodes whose children could still enter the tree.

        A node that the drafter's sequences cannot hold is passed over: a second read child of a node is a new tip.
        """
        wave: list[int] = []
        worth = 0.0
        floor, far = self._floor() - self._log_reach, self._far()
        n_most = min(self._limits.n_beams, self._limits.n_reads - self._n_read)
        while self._unread and len(wave) < n_most:
            score = -self._unread[0][0]
            gain = math.exp(score) - self._price(score, len(wave))
            if score <= (max(floor, far) if wave else floor) or gain <= 0:
                break
            _, node = heapq.heappop(self._unread)
            parent = self._tree.parent[node]
            is_tip = parent in self._has_read_child
            if self._n_tips + is_tip <= self._limits.n_leaves:
                self._has_read_child.add(parent)
                self._n_tips += is_tip
                wave.append(node)
                worth += gain
        self._n_read += len(wave)
        return wave if worth > self._limits.wave_price else []

    def add(self, wave: list[int], tokens: list[list[int]], logprobs: list[list[float]]) -> None:
        """Keep the children that are among the rows best nodes so far."""
        tree, rows = self._tree, self._limits.rows
        for node, row_tokens, row_logprobs in zip(wave, tokens, logprobs, strict=True):
            score, depth = tree.score[node] + self._log_decay, tree.depth[node] + 1
            for token, logprob in zip(row_tokens, row_logprobs, strict=True):
                child_score = score + min(logprob, 0.0)
                if child_score == -math.inf or child_score < self._floor():
                    break
                if math.exp(child_score) <= self._price(child_score):
                    break
                insort(self._best, child_score)
                if len(self._best) > rows:
                    del self._best[0]
                child = tree.append(token, node, depth, child_score)
                if depth - tree.depth[tree.root] < self._limits.depth:
                    heapq.heappush(self._unread, (-child_score, child))

    def best(self) -> list[int]:
        """The rows best nodes, fewer where that many leaves are not allowed; the worst of a set is always a leaf."""
        tree = self._tree
        grown = [n for n in range(tree.root, len(tree.score)) if tree.score[n] > -math.inf]
        nodes = sorted(grown, key=lambda n: (-tree.score[n], n))[: self._limits.rows]
        n_children = Counter(tree.parent[n] for n in nodes[1:])
        n_leaves = sum(n not in n_children for n in nodes)
        while n_leaves > self._limits.n_leaves:
            parent = tree.parent[nodes.pop()]
            n_children[parent] -= 1
            n_leaves -= n_children[parent] > 0
        return nodes
