"""How much of a drafted tree a pass should verify: trees are sized to what passes cost (docs/control.md).

A node is worth its chance to be walked, so the best m nodes are the m likeliest, which form a tree. With goodput
(tokens a millisecond) as the price of time, m is best where expected tokens minus goodput times the milliseconds of
the pass is largest: maximising that difference every round maximises tokens over time in the long run (renewal reward;
SmartSpec's goodput, arXiv 2406.14066, with its optimum found by Dinkelbach's method).
Not covered: chances (reliability.py), what a pass costs (live.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgespec.types import TokenTree, Verdict


@dataclass(frozen=True)
class Sized:
    """A part of a tree in breadth-first order.

    nodes  where each of its nodes stood in the drafted tree; fillers, which only round a pass up, come last as -1
    """

    tree: TokenTree
    nodes: tuple[int, ...]

    @property
    def n_drafted(self) -> int:
        """Drafted nodes; fillers and the pending token are none."""
        return sum(node > 0 for node in self.nodes)

    def as_drafted(self, verdict: Verdict) -> Verdict:
        """A verdict on this tree in the drafted tree's nodes, cut where a filler was accepted after all."""
        path: list[int] = []
        for node in verdict.path:
            if self.nodes[node] < 0:
                break
            path.append(self.nodes[node])
        return Verdict(tuple(path), verdict.tokens[: len(path)], verdict.finish)


def whole(tree: TokenTree) -> Sized:
    return Sized(tree, tuple(range(len(tree))))


def best_size(
    chances: NDArray[np.floating], goodput: float, pass_ms: Callable[[int], float], widths: Sequence[int]
) -> int:
    """Rows worth verifying: one of `widths` or all of them, 1 being plain.

    chances   float [n], of each node to be walked, the root's 1 first
    goodput   tokens a millisecond that time is worth
    pass_ms   of a width; widths rise
    """
    n = len(chances)
    expected = np.cumsum(np.sort(chances)[::-1])
    candidates = [w for w in widths if w < n] + [n]
    worth = [float(expected[w - 1]) - goodput * pass_ms(w) for w in candidates]
    return candidates[int(np.argmax(worth))]


def cut(tree: TokenTree, chances: NDArray[np.floating], n: int, fill: int = 0) -> Sized:
    """The n likeliest nodes, and `fill` more below the last one that are not meant to be accepted.

    A parent stands before its children where they are as likely, so that every part is a tree. A tree of draws stays
    whole: one that is left out for what it is makes draws of the others no longer (docs/rejection.md).
    """
    if tree.draft_probs is not None or (n >= len(tree) and not fill):
        return whole(tree)
    kept = np.sort(np.argsort(-chances, kind="stable")[:n])
    place = np.full(len(tree), -1, np.int32)
    place[kept] = np.arange(len(kept), dtype=np.int32)
    parent = tree.parent[kept]
    parent = np.where(parent >= 0, place[parent], -1).astype(np.int32)
    part = TokenTree(tree.token[kept], parent, tree.depth[kept], tree.draft_logprob[kept])
    if not fill:
        return Sized(part, tuple(kept.tolist()))
    return _filled(part, kept.tolist(), fill)


def _filled(part: TokenTree, kept: list[int], fill: int) -> Sized:
    """Fillers are a chain below the last node, which has no children: they add no leaf and keep the order."""
    n = len(part)
    below = np.arange(fill, dtype=np.int32)
    tree = TokenTree(
        np.concatenate([part.token, np.zeros(fill, np.int32)]),
        np.concatenate([part.parent, n - 1 + below]),
        np.concatenate([part.depth, part.depth[-1] + 1 + below]).astype(np.int16),
        np.concatenate([part.draft_logprob, np.full(fill, -np.inf, np.float32)]),
    )
    return Sized(tree, (*kept, *[-1] * fill))
