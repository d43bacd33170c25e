"""A drafter's context behind a conversation: brought up to it, read node by node, kept along the accepted path.

Each node is read once, and what a round left unread of the accepted text goes in front of the next round's first pass.
With a window a shortened text is read instead (docs/ladder.md): less memory, drafts that know less.
Not covered: ranking what a row says (model.py, mix.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgespec.backends.base import Context
from edgespec.speculation.tree import GrowingTree
from edgespec.types import Caps, Ids, Rows, Span

# More unread tokens than this are prefilled (no rows) before the first wave.
MAX_LEAD = 8
# The first tokens stay in a window: attention leans on them whatever they say (StreamingLLM, arXiv 2309.17453).
N_SINK = 4


def n_left_out(n: int, window: int | None) -> int:
    """Tokens behind the first N_SINK that a text of n tokens is read without, so that at most N_SINK + window remain.

    Grows in hops of half a window: only then is what follows the gap read again, half a window at a time.
    """
    if window is None or n <= N_SINK + window:
        return 0
    hop = max(window // 2, 1)
    return -(-(n - N_SINK - window) // hop) * hop


def _without(history: Ids, n_out: int) -> Ids:
    return np.concatenate([history[:N_SINK], history[N_SINK + n_out :]]) if n_out else history


class Reader:
    """Reads slot 0 of its context, which it owns; drafters of one model share it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._window: int | None = None
        self._n_out = 0
        self._cached: Ids = np.zeros(0, np.int32)
        self._n_lead = 1
        self._read: set[int] = set()

    @property
    def caps(self) -> Caps:
        return self._context.caps

    @property
    def n_leaves(self) -> int:
        return self._context.caps.max_leaves

    def begin(self, history: Ids, max_lead: int = MAX_LEAD) -> list[int]:
        """What a tree must start with: tokens that the cache lacks, at most max_lead, the pending one last."""
        self._n_out = n_left_out(len(history), self._window)
        history = _without(history, self._n_out)
        n_same = min(len(self._cached), len(history) - 1)
        differs = np.flatnonzero(self._cached[:n_same] != history[:n_same])
        n_same = int(differs[0]) if len(differs) else n_same
        self._context.truncate(0, n_same)
        self._cached = self._cached[:n_same]
        if len(history) - n_same > max_lead:
            self._context.prefill(0, history[n_same:-1])
            self._cached = history[:-1].copy()
        lead = [int(t) for t in history[len(self._cached) :]]
        self._n_lead = len(lead)
        self._read.clear()
        return lead

    def read(self, tree: GrowingTree, nodes: Sequence[int]) -> Rows:
        """A row a node, from one pass; what was left unread above them goes in front, in silence."""
        above: set[int] = set()
        for node in nodes:
            parent = tree.parent[node]
            while parent >= 0 and parent not in self._read and parent not in above:
                above.add(parent)
                parent = tree.parent[parent]
        above -= set(nodes)
        asked = [*sorted(above), *nodes]
        self._read.update(asked)
        return self._context.evaluate([Span(0, tree.view(), asked, len(above))])

    def keep(self, history: Ids, path: Sequence[int]) -> None:
        """Keep what was read of a path of the growing tree, from its root on; history ends with what was emitted."""
        self._context.keep(0, [*range(self._n_lead - 1), *path])
        n_known = self._context.length(0)
        self._cached = _without(history[: n_known + self._n_out], self._n_out).copy()

    def forget(self) -> None:
        self._context.truncate(0, 0)
        self._cached = self._cached[:0]

    def limit(self, window: int | None) -> None:
        self._window = window

    def close(self) -> None:
        self._context.close()
