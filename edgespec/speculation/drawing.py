"""Trees whose children are draws: grown best-first by slots (DySpec, arXiv 2410.11744, algorithm 1).

A slot is a place for one more child of a node. Which slot is filled next is decided by what was drawn before, never by
the child that will fill it, and what was drawn stays: leaving out unlikely children would make the others likelier than
draft_probs says, and rejection (rejection.py) would favour them. Not covered: guesses ranked by score (policies.py).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgespec.speculation.policies import Children, Limits
from edgespec.speculation.sampling import Noise
from edgespec.speculation.tree import GrowingTree
from edgespec.types import Dist, Ids, TokenTree


def without_replacement(dist: Dist, noise: Noise, keys: Sequence[int], width: int) -> tuple[Ids, NDArray[np.float64]]:
    """Up to `width` draws of each row, in order: ids int32 [m, w], and the probability each had when it was its turn,
    float64 [m, w], 0 where nothing was left.

    keys: a row each, the noise's position; two draws that share one are no longer independent.
    """
    score = dist.logprob + noise.gumbel(keys, dist.ids)
    order = np.argsort(-score, axis=1, kind="stable")
    probs = np.take_along_axis(np.exp(dist.logprob.astype(np.float64)), order, axis=1)
    left = probs[:, ::-1].cumsum(axis=1)[:, ::-1]  # summed from the rear: a difference would cancel
    chance = np.divide(probs, left, out=np.zeros_like(probs), where=left > 0)
    return np.take_along_axis(dist.ids, order, axis=1)[:, :width], chance[:, :width]


def grow_drawn(tree: GrowingTree, read: Callable[[list[int]], Children], limits: Limits) -> tuple[TokenTree, list[int]]:
    """A tree of limits.rows nodes, fewer where depth, width, leaves or candidates end; and where its nodes stand in
    `tree`.

    read(nodes) evaluates nodes of `tree` in one pass: tokens in the order they were drawn, logprob the log-chance of
    each to be accepted when it is its turn, -inf where nothing was left to draw. Slots less likely to be asked for than
    limits.row_prices say stay empty; n_waves, reach and wave_price do not apply.
    """
    drawn: dict[int, tuple[list[int], list[float]]] = {}
    slots = [(0.0, tree.root, 0)]  # minus the log-chance that it is asked for, the node, which child of it
    n_leaves, depth_most = 1, tree.depth[tree.root] + limits.depth
    while slots and (n_rows := len(tree.token) - tree.root) < limits.rows:
        if math.exp(-slots[0][0]) < limits.price(n_rows):
            break
        _, node, rank = slots[0]
        if node not in drawn:
            wave = _wave(slots, drawn, limits.n_beams, limits.rows - len(tree.token) + tree.root)
            found = read(wave)
            drawn.update(zip(wave, zip(found.token, found.logprob, strict=True), strict=True))
        asked, node, rank = heapq.heappop(slots)
        tokens, logprobs = drawn[node]
        if rank >= min(len(tokens), limits.width) or logprobs[rank] == -math.inf:
            continue
        if n_leaves + (rank > 0) > limits.n_leaves:
            continue
        n_leaves += rank > 0
        score = -asked + logprobs[rank]
        child = tree.append(tokens[rank], node, tree.depth[node] + 1, score)
        if tree.depth[child] < depth_most:
            heapq.heappush(slots, (-score, child, 0))
        if (rejected := -math.expm1(min(logprobs[rank], 0.0))) > 0:
            heapq.heappush(slots, (asked - math.log(rejected), node, rank + 1))
    return tree.drawn()


def _wave(
    slots: list[tuple[float, int, int]], drawn: dict[int, tuple[list[int], list[float]]], n_beams: int, n_left: int
) -> list[int]:
    """The best slot's node and others whose turn may come: reading ahead draws nothing, so it decides nothing."""
    best = heapq.nsmallest(max(n_left, 1), slots)
    return [node for _, node, _ in best if node not in drawn][:n_beams]
