"""Token recycling: what the target thought might follow a token, kept from every row it computed, also rejected ones.

Token Recycling (arXiv 2408.08696) keeps eight successors a token; here the key may be the last two or three tokens as
well, which says more (the n-grams of STAND, arXiv 2506.04708), and logits are kept, so that successors can be ranked
with the target's noise. One table of fixed size: a new key takes the place of an old one that hashes alike.
Not covered: growing trees of it (mix.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from edgespec.speculation.drafters.sources import NOTHING, Guess
from edgespec.speculation.sampling import top_k
from edgespec.types import Ids, Rows, TokenTree

N_SUCCESSORS = 8
# Longest keys first: the longest one known is asked alone.
ORDERS = (3, 2, 1)
# Entries; 56 bytes each with keys, ids and logits.
N_SLOTS = 1 << 15
# Rows of one pass that are learnt from: those near the root are the likeliest to be met again, and each costs a search
# for its largest logits.
MAX_LEARNT = 16
_GOLDEN, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1

Place: TypeAlias = tuple[int, ...]


def _key(tokens: Place) -> int:
    key = len(tokens)
    for token in tokens:
        key = ((key ^ (token + 1)) * _GOLDEN) & _MASK
        key ^= key >> 29
    return key or 1


class Recycled:
    """The table: keys uint64 [n], ids int32 [n, 8], logits float16 [n, 8] below the best one's; key 0 is empty."""

    trust = (0.0, 0.01, 0.04, 0.12)

    def __init__(self, n_slots: int = N_SLOTS) -> None:
        self._n = n_slots
        self.clear()

    def clear(self) -> None:
        """Forget every row."""
        self._keys = np.zeros(self._n, np.uint64)
        self._ids = np.zeros((self._n, N_SUCCESSORS), np.int32)
        self._logits = np.zeros((self._n, N_SUCCESSORS), np.float16)

    @property
    def n_bytes(self) -> int:
        return self._keys.nbytes + self._ids.nbytes + self._logits.nbytes

    def follow(self, history: Ids) -> Place:
        return tuple(history[-ORDERS[0] :].tolist())

    def step(self, place: Place, token: int) -> Place:
        return (*place, token)[-ORDERS[0] :]

    def guess(self, place: Place) -> Guess:
        for grade, order in zip(range(len(ORDERS), 0, -1), ORDERS, strict=True):
            key = _key(place[-order:])
            slot = key % self._n
            if len(place) >= order and int(self._keys[slot]) == key:
                below = self._logits[slot].tolist()
                weights = [math.exp(x) for x in below]
                total = sum(weights)
                named = zip(self._ids[slot].tolist(), weights, strict=True)
                return Guess(grade, {token: w / total for token, w in named if token >= 0})
        return NOTHING

    def learn(self, history: Ids, tree: TokenTree, rows: Rows) -> None:
        """Keep each row's largest logits under the tokens in front of it."""
        n = min(len(tree), MAX_LEARNT)
        k = min(N_SUCCESSORS, rows.logits.shape[1])
        ids, logits = top_k(rows.logits[:n], k)
        if rows.ids is not None:
            ids = rows.ids[ids]
        below = np.maximum(logits - logits[:, :1], -60.0).astype(np.float16)
        places: list[Place] = []
        for node in range(n):
            parent = int(tree.parent[node])
            place = self.step(places[parent], int(tree.token[node])) if parent >= 0 else self.follow(history)
            places.append(place)
            for order in ORDERS[-len(place) :]:
                key = _key(place[-order:])
                slot = key % self._n
                self._keys[slot] = key
                self._ids[slot, :k], self._ids[slot, k:] = ids[node], -1
                self._logits[slot, :k], self._logits[slot, k:] = below[node], -60.0

    def arrays(self) -> dict[str, Any]:
        """The table as arrays, for a file; `take` reads them back."""
        return {"keys": self._keys.view(np.int64), "ids": self._ids, "logits": self._logits.astype(np.float32)}

    def take(self, arrays: Mapping[str, Any], n_vocab: int) -> bool:
        """Go on from a kept table; False, and nothing changes, where it is of another shape or names unknown tokens."""
        try:
            keys, ids, logits = (np.asarray(arrays[name]) for name in ("keys", "ids", "logits"))
        except (KeyError, TypeError, ValueError):
            return False
        kinds = ((keys, np.int64, self._keys), (ids, np.int32, self._ids), (logits, np.float32, self._logits))
        if any(a.dtype != kind or a.shape != mine.shape for a, kind, mine in kinds):
            return False
        if ids.min() < -1 or ids.max() >= n_vocab or not np.all((logits <= 0) & (logits >= -60)):
            return False
        self._keys, self._ids = keys.view(np.uint64).copy(), ids.copy()
        self._logits = logits.astype(np.float16)
        return True
