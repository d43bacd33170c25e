"""How far a drafter's own chances can be believed: by depth, by rank among siblings and by kind of text.

For each such place the hits that were seen over those that the chances promised, drawn towards the drafter's overall
figure while little was seen. With these factors the sum of a tree's chances is what a pass really yields.
Not covered: which drafter (goodput.py keeps one of these for each).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespec.types import TokenTree, Verdict

DEPTHS, RANKS = (1, 2, 3, 5, 9), (0, 1, 2)
N_KINDS = 3
# Hits that a place is imagined to have had with the overall factor; older ones fade.
N_PRIOR, FORGET = 6.0, 0.995
MOST = 0.995
# More than so many rounds at FORGET never add up to.
MOST_COUNTED = 1e6


class Reliability:
    """Hits and promised hits, float64 [2, N_KINDS, len(DEPTHS), len(RANKS)]."""

    def __init__(self) -> None:
        self._counts = np.zeros((2, N_KINDS, len(DEPTHS), len(RANKS)))
        self._factors: dict[int, list[list[float]]] = {}

    def chances(self, tree: TokenTree, kind: int) -> NDArray[np.float64]:
        """float64 [n]: of each node to be walked, the root's 1; never above its parent's."""
        if len(tree) == 1:
            return np.ones(1)
        factors = self._of(kind)
        logprob, parents = tree.draft_logprob.tolist(), tree.parent.tolist()
        depths = tree.depth.tolist()
        chances, n_children = [1.0], [0] * len(parents)
        for node in range(1, len(parents)):
            parent = parents[node]
            edge = math.exp(logprob[node] - logprob[parent])
            factor = factors[_depth(depths[node])][_rank(n_children[parent])]
            n_children[parent] += 1
            chances.append(chances[parent] * min(edge * factor, MOST))
        return np.array(chances)

    def observe(self, tree: TokenTree, verdict: Verdict, kind: int) -> None:
        """Count the children of every walked node, the last one's too; a lone node has none and costs no time."""
        if len(tree) == 1:
            return
        walked = dict(zip(verdict.path, verdict.tokens, strict=True))
        logprob, parents, tokens = tree.draft_logprob.tolist(), tree.parent.tolist(), tree.token.tolist()
        depths, n_children = tree.depth.tolist(), [0] * len(parents)
        counts = self._counts[:, kind]
        counts *= FORGET
        for node in range(1, len(parents)):
            parent = parents[node]
            rank, n_children[parent] = n_children[parent], n_children[parent] + 1
            if parent in walked and logprob[node] > -math.inf:
                at = (_depth(depths[node]), _rank(rank))
                counts[0][at] += tokens[node] == walked[parent]
                counts[1][at] += math.exp(logprob[node] - logprob[parent])
        self._factors.pop(kind, None)

    def _of(self, kind: int) -> list[list[float]]:
        if kind not in self._factors:
            total = self._counts.sum(axis=(1, 2, 3))
            overall = (total[0] + N_PRIOR) / (total[1] + N_PRIOR)
            hits, promised = self._counts[:, kind]
            own = hits.sum() + N_PRIOR * overall, promised.sum() + N_PRIOR
            here = own[0] / own[1]
            self._factors[kind] = ((hits + N_PRIOR * here) / (promised + N_PRIOR)).tolist()
        return self._factors[kind]

    def to_list(self) -> list[Any]:
        """For a JSON file; `take` reads it back."""
        counts: list[Any] = self._counts.tolist()
        return counts

    def take(self, data: object) -> None:
        """Go on from what `to_list` wrote; what makes no sense counts as nothing seen."""
        try:
            counts = np.array(data, np.float64)
        except (TypeError, ValueError, OverflowError):
            return
        if counts.shape == self._counts.shape and np.all((counts >= 0) & (counts <= MOST_COUNTED)):
            self._counts, self._factors = counts, {}


def _depth(depth: int) -> int:
    return bisect_right(DEPTHS, depth) - 1


def _rank(rank: int) -> int:
    return min(rank, RANKS[-1])


class Kinds:
    """Tells kinds of text apart by their last tokens: 0 words, 1 symbols (code, lists), 2 digits."""

    N_LOOKED_AT = 32

    def __init__(self, classes: NDArray[np.int8]) -> None:
        """classes: int8 [n_vocab], 0 to 2 for each id."""
        self._classes = classes

    def of(self, history: NDArray[np.int32]) -> int:
        recent = self._classes[history[-self.N_LOOKED_AT :]]
        counts = np.bincount(recent, minlength=N_KINDS).tolist()
        if counts[2] * 5 > len(recent):
            return 2
        return 1 if counts[1] * 3 > len(recent) else 0


def classes_of(pieces: list[bytes]) -> NDArray[np.int8]:
    """int8 [n_vocab] from the bytes of each id: 2 with a digit, 1 with neither letter nor digit, else 0."""

    def kind(piece: bytes) -> int:
        if any(48 <= b <= 57 for b in piece):
            return 2
        return 0 if any(b >= 128 or 65 <= b & 0xDF <= 90 for b in piece) else 1

    return np.array([kind(piece) for piece in pieces], np.int8)
