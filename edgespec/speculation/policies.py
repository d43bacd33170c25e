"""Which tree to draft: best-first growth in waves (SpecExec, arXiv 2406.02532, algorithm 1; DySpec by parameters).

The drafter's scores fall along a path, so the rows best-scored nodes always form a tree, and growing any node outside
them can no longer change it. Not covered: where scores come from (drafters), how many rows pay (controllers).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgespec.speculation.tree import GrowingTree
from edgespec.types import Choice, Ids, TokenTree


@dataclass(frozen=True)
class Limits:
    """What a tree may cost.

    rows      nodes in all, the pending token included
    depth     drafted tokens on one path; width children of one node
    n_beams   nodes read in one wave of the drafter; n_waves waves in all
    n_leaves  leaves of the tree, and tips the drafter's cache may hold
    min_prob  nodes less likely to be reached than this are not drafted
    reach     a node of a full tree is read only if a child of this probability would enter it: 1 grows exactly the best
              tree, less saves waves
    """

    rows: int
    depth: int
    width: int
    n_leaves: int
    n_beams: int = 4
    n_waves: int = 64
    min_prob: float = 0.0
    reach: float = 1.0


def limits_of(choice: Choice, n_leaves: int) -> Limits:
    """A choice as growth limits; a chain reads one node a wave."""
    return Limits(choice.rows, choice.depth, choice.width, n_leaves, n_beams=min(4, choice.width))


@dataclass(frozen=True)
class Children:
    """What reading a wave gave: parent int32 [n] (index in the growing tree), token int32 [n], logprob [n]."""

    parent: Ids
    token: Ids
    logprob: NDArray[np.floating]


def grow(tree: GrowingTree, read: Callable[[Ids], Children], limits: Limits) -> tuple[TokenTree, Ids]:
    """The best-scored tree within the limits, and where its nodes stand in `tree`.

    read(nodes) evaluates nodes of `tree` in one pass; its children's logprobs must not be positive.
    """
    closed = np.zeros(tree.n, bool)
    closed[: tree.root] = True
    log_reach = np.log(limits.reach)
    log_min = np.log(limits.min_prob) if limits.min_prob > 0 else -np.inf
    has_child: set[int] = set()
    n_tips = 1
    for _ in range(limits.n_waves):
        wave = _wave(tree, closed, limits, log_reach)
        wave, n_tips = _within_tips(wave, tree.parent, has_child, n_tips, limits.n_leaves)
        if not len(wave):
            break
        closed[wave] = True
        children = read(wave)
        score = tree.score[children.parent] + np.minimum(children.logprob, 0)
        floor = max(_nth_best(np.concatenate([tree.score[tree.root :], score]), limits.rows), log_min)
        good = (score >= floor) & (score > -np.inf)
        parent = children.parent[good]
        tree.append(children.token[good], parent, tree.depth[parent] + 1, score[good])
        closed = np.concatenate([closed, np.zeros(len(parent), bool)])
    return tree.cut(_best(tree, limits))


def _wave(tree: GrowingTree, closed: NDArray[np.bool_], limits: Limits, log_reach: float) -> Ids:
    """Up to n_beams of the best unread nodes whose children could still enter the tree."""
    open_nodes = np.flatnonzero(~closed)
    score = tree.score[open_nodes]
    floor = _nth_best(tree.score[tree.root :], limits.rows)
    useful = (score + log_reach > floor) & (tree.depth[open_nodes] - tree.root < limits.depth)
    open_nodes, score = open_nodes[useful], score[useful]
    return open_nodes[np.argsort(-score, kind="stable")[: limits.n_beams]].astype(np.int32)


def _within_tips(wave: Ids, parents: Ids, has_child: set[int], n_tips: int, n_leaves: int) -> tuple[Ids, int]:
    """The part of a wave that the drafter's sequences can hold: a second child below a node starts a new tip."""
    kept = []
    for node in wave.tolist():
        parent = int(parents[node])
        more = 1 if parent in has_child else 0
        if n_tips + more <= n_leaves:
            has_child.add(parent)
            n_tips += more
            kept.append(node)
    return np.array(kept, np.int32), n_tips


def _nth_best(score: NDArray[np.floating], n: int) -> float:
    """The n-th largest score, -inf while there are fewer."""
    return -np.inf if len(score) < n else float(np.partition(score, len(score) - n)[len(score) - n])


def _best(tree: GrowingTree, limits: Limits) -> Ids:
    """The rows best nodes, fewer where that many leaves are not allowed; the worst node of a set is always a leaf."""
    order = np.argsort(-tree.score[tree.root :], kind="stable")[: limits.rows] + tree.root
    nodes = order.astype(np.int32)
    n_children = np.bincount(tree.parent[nodes[1:]], minlength=tree.n)
    n_leaves = int((n_children[nodes] == 0).sum())
    n = len(nodes)
    while n_leaves > limits.n_leaves:
        n -= 1
        parent = tree.parent[nodes[n]]
        n_children[parent] -= 1
        n_leaves -= 1 if n_children[parent] else 0
    return nodes[:n]
