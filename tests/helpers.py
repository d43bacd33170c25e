"""Small trees and references the speculation tests share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgespec.types import TokenTree


def tree_of(tokens: Sequence[int], parents: Sequence[int]) -> TokenTree:
    """A tree from parallel lists, already breadth first; parents[0] is -1."""
    depth = np.zeros(len(parents), np.int16)
    for node, parent in enumerate(parents[1:], start=1):
        depth[node] = depth[parent] + 1
    return TokenTree(np.array(tokens, np.int32), np.array(parents, np.int32), depth, np.zeros(len(parents), np.float32))


def random_tree(rng: np.random.Generator, n: int, n_vocab: int, first: int) -> TokenTree:
    """A breadth-first tree of n nodes below token `first`, siblings distinct."""
    parents = sorted(int(rng.integers(0, i)) for i in range(1, n))
    parents = [min(p, i) for i, p in enumerate(parents)]
    tokens, used = [first], set()
    for parent in parents:
        token = int(rng.integers(0, n_vocab))
        while (parent, token) in used:
            token = (token + 1) % n_vocab
        used.add((parent, token))
        tokens.append(token)
    return tree_of(tokens, [-1, *parents])


def path_of(tree: TokenTree, node: int) -> list[int]:
    """Nodes from 0 down to `node`."""
    path = [node]
    while tree.parent[path[-1]] >= 0:
        path.append(int(tree.parent[path[-1]]))
    return path[::-1]
