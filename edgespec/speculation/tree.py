"""Token trees as parallel arrays: growing one, cutting the best part out of it, reading paths.

Not covered: which nodes are worth growing (policies.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgespec.types import Floats, Ids, TokenTree


class GrowingTree:
    """A tree that only grows at its end, so that node indices stay valid for a context between two `keep` calls.

    Starts with a chain of `lead` tokens, scores 0: what the context has yet to read, the pending token last.
    """

    def __init__(self, lead: Sequence[int], capacity: int = 64) -> None:
        self._token: Ids = np.zeros(capacity, np.int32)
        self._parent: Ids = np.zeros(capacity, np.int32)
        self._depth = np.zeros(capacity, np.int16)
        self._score: Floats = np.zeros(capacity, np.float32)
        self.n = 0
        self.root = len(lead) - 1
        arange = np.arange(len(lead))
        self.append(np.asarray(lead, np.int32), arange - 1, arange, np.zeros(len(lead)))

    def append(
        self,
        token: Ids,
        parent: np.ndarray,
        depth: np.ndarray,
        score: np.ndarray,
    ) -> None:
        start, self.n = self.n, self.n + len(token)
        if self.n > len(self._token):
            for name in ("_token", "_parent", "_depth", "_score"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros(self.n + len(old), old.dtype)]))
        self._token[start : self.n] = token
        self._parent[start : self.n] = parent
        self._depth[start : self.n] = depth
        self._score[start : self.n] = score

    @property
    def token(self) -> Ids:
        return self._token[: self.n]

    @property
    def parent(self) -> Ids:
        return self._parent[: self.n]

    @property
    def depth(self) -> np.ndarray:
        """Depth below the first lead token; the pending token stands at `root`."""
        return self._depth[: self.n]

    @property
    def score(self) -> Floats:
        return self._score[: self.n]

    def view(self) -> TokenTree:
        return TokenTree(self.token, self.parent, self.depth, self.score)

    def cut(self, nodes: Ids) -> tuple[TokenTree, Ids]:
        """The tree below the pending token that holds just `nodes`, in breadth-first order, best first within a depth.

        nodes: indices that contain `root` and every parent up to it. Returns the tree and, for each of its nodes, the
        index here.
        """
        order = nodes[np.lexsort((nodes, -self.score[nodes], self.depth[nodes]))]
        place = np.full(self.n, -1, np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        parent = np.where(order == self.root, -1, place[self.parent[order]]).astype(np.int32)
        depth = (self.depth[order] - self.root).astype(np.int16)
        return TokenTree(self.token[order], parent, depth, self.score[order]), order

    def path_tokens(self, node: int) -> list[int]:
        """Tokens from below the pending one to `node`."""
        tokens = []
        while node != self.root:
            tokens.append(int(self._token[node]))
            node = int(self._parent[node])
        return tokens[::-1]


def single(token: int) -> TokenTree:
    """The tree of plain decoding: the pending token alone."""
    zero = np.zeros(1, np.int32)
    return TokenTree(np.array([token], np.int32), zero - 1, zero.astype(np.int16), zero.astype(np.float32))


def chain(tokens: Sequence[int]) -> TokenTree:
    """One path; tokens[0] is pending."""
    n = np.arange(len(tokens), dtype=np.int32)
    return TokenTree(np.asarray(tokens, np.int32), n - 1, n.astype(np.int16), np.zeros(len(n), np.float32))


def n_leaves(parent: Ids) -> int:
    return len(parent) - len(np.unique(parent[parent >= 0]))
