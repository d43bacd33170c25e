"""Token trees as parallel arrays: growing one, cutting the best part out of it, reading paths.

Not covered: which nodes are worth growing (policies.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgespec.types import Ids, TokenTree


class GrowingTree:
    """A tree that only grows at its end, so that node indices stay valid for a context between two `keep` calls.

    Starts with a chain of `lead` tokens, scores 0: what the context has yet to read, the pending token last at `root`.
    token, parent, depth (below the first lead token) and score are lists, to be read only. A node that is only read
    ahead (`spare`) is no part of the tree, score -inf, until it is appended.
    """

    def __init__(self, lead: Sequence[int]) -> None:
        self.root = len(lead) - 1
        self.token = list(lead)
        self.parent = list(range(-1, self.root))
        self.depth = list(range(len(lead)))
        self.score = [0.0] * len(lead)
        self._spare: dict[tuple[int, int], int] = {}

    def spare(self, token: int, parent: int) -> int:
        """A node that may be appended later on, so that its row can be read with its parent's."""
        self._spare[parent, token] = node = self.append(token, parent, self.depth[parent] + 1, -math.inf)
        return node

    def append(self, token: int, parent: int, depth: int, score: float) -> int:
        """The node's index: a new one, or that of the spare node it is."""
        if self._spare and (node := self._spare.pop((parent, token), None)) is not None:
            self.score[node] = score
            return node
        self.token.append(token)
        self.parent.append(parent)
        self.depth.append(depth)
        self.score.append(score)
        return len(self.token) - 1

    def view(self) -> TokenTree:
        return _arrays(self.token, self.parent, self.depth, self.score)

    def cut(self, nodes: Sequence[int]) -> tuple[TokenTree, list[int]]:
        """The tree below the pending token that holds just `nodes`, in breadth-first order, best first within a depth.

        nodes: indices that contain `root` and every parent up to it. Returns the tree and, for each of its nodes, the
        index here.
        """
        order = sorted(nodes, key=lambda n: (self.depth[n], -self.score[n], n))
        return self._ordered(order), order

    def drawn(self) -> tuple[TokenTree, list[int]]:
        """The whole tree below the pending token, breadth first, siblings in the order they were appended; and where
        its nodes stand here."""
        order = sorted(range(self.root, len(self.token)), key=lambda n: (self.depth[n], n))
        return self._ordered(order), order

    def _ordered(self, order: Sequence[int]) -> TokenTree:
        place = {n: i for i, n in enumerate(order)}
        return _arrays(
            [self.token[n] for n in order],
            [-1, *(place[self.parent[n]] for n in order[1:])],
            [self.depth[n] - self.depth[self.root] for n in order],
            [self.score[n] for n in order],
        )

    def path_tokens(self, node: int) -> list[int]:
        """Tokens from below the pending one to `node`."""
        tokens = []
        while node != self.root:
            tokens.append(self.token[node])
            node = self.parent[node]
        return tokens[::-1]


def _arrays(token: Sequence[int], parent: Sequence[int], depth: Sequence[int], score: Sequence[float]) -> TokenTree:
    return TokenTree(
        np.array(token, np.int32), np.array(parent, np.int32), np.array(depth, np.int16), np.array(score, np.float32)
    )


def single(token: int) -> TokenTree:
    """The tree of plain decoding: the pending token alone."""
    zero = np.zeros(1, np.int32)
    return TokenTree(np.array([token], np.int32), zero - 1, zero.astype(np.int16), zero.astype(np.float32))


def below(lead: Ids, tree: TokenTree) -> TokenTree:
    """The tree with a chain of `lead` above its root: text in front of the pending token that is in no cache yet."""
    n = np.arange(len(lead), dtype=np.int32)
    parent = np.where(tree.parent < 0, len(lead) - 1, tree.parent + len(lead))
    return TokenTree(
        np.concatenate([lead, tree.token]),
        np.concatenate([n - 1, parent.astype(np.int32)]),
        np.concatenate([n, tree.depth + len(lead)]).astype(np.int16),
        np.concatenate([np.zeros(len(lead), np.float32), tree.draft_logprob]),
    )


def chain(tokens: Sequence[int]) -> TokenTree:
    """One path; tokens[0] is pending."""
    n = np.arange(len(tokens), dtype=np.int32)
    return TokenTree(np.asarray(tokens, np.int32), n - 1, n.astype(np.int16), np.zeros(len(n), np.float32))
