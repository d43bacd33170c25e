"""Drafts from a second, smaller model with the target's vocabulary.

Children are ranked with the target's own noise (docs/shared-noise.md), so the first child is likely to be the draw.
The drafter's cache follows the accepted path: each node is read once, and what a round left unread of the accepted text
goes in front of the next round's first pass. With a window it reads a shortened text instead (docs/ladder.md): less
memory, drafts that know less. Not covered: other vocabularies, trimmed heads (the backend's affair).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgespec.backends.base import Context
from edgespec.speculation.drafters.agreement import Agreement
from edgespec.speculation.policies import Children, grow, limits_of
from edgespec.speculation.sampling import Noise, Process
from edgespec.speculation.tree import GrowingTree
from edgespec.types import Choice, Ids, Rows, Span, TokenTree, Verdict

# Candidates a row is ranked and normalised over.
N_CANDIDATES = 20
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


class ModelDrafter:
    """Drafts for slot 0 of its context, which it owns."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._window: int | None = None
        self._n_out = 0
        self._cached: Ids = np.zeros(0, np.int32)
        self._agreement = {True: Agreement(), False: Agreement()}
        self._clear()

    def _clear(self) -> None:
        self._places: list[int] = []
        self._n_lead = 0
        self._scored: dict[int, tuple[Ids, NDArray[np.floating]]] = {}

    def draft(self, history: Ids, choice: Choice, process: Process, noise: Noise) -> TokenTree:
        self._clear()
        lead = self._catch_up(history)
        self._n_lead = len(lead)
        tree = GrowingTree(lead)
        self._greedy = process.sampling.greedy
        limits = limits_of(choice, self._context.caps.max_leaves)

        def read(nodes: list[int]) -> Children:
            return self._read(tree, nodes, choice.width, history, process, noise)

        drafted, self._places = grow(tree, read, limits)
        return drafted

    def _catch_up(self, history: Ids) -> list[int]:
        """Bring the cache to a prefix of what is read of history and return what it lacks, at most MAX_LEAD tokens."""
        self._n_out = n_left_out(len(history), self._window)
        history = _without(history, self._n_out)
        n_same = min(len(self._cached), len(history) - 1)
        differs = np.flatnonzero(self._cached[:n_same] != history[:n_same])
        n_same = int(differs[0]) if len(differs) else n_same
        self._context.truncate(0, n_same)
        self._cached = self._cached[:n_same]
        if len(history) - n_same > MAX_LEAD:
            self._context.prefill(0, history[n_same:-1])
            self._cached = history[:-1].copy()
        return [int(t) for t in history[len(self._cached) :]]

    def _read(
        self, tree: GrowingTree, nodes: list[int], width: int, history: Ids, process: Process, noise: Noise
    ) -> Children:
        """Evaluate nodes (and, in front of the root, the lead) and rank what may follow each of them."""
        asked, n_silent = (list(range(tree.root + 1)), tree.root) if nodes == [tree.root] else (nodes, 0)
        rows = self._context.evaluate([Span(0, tree.view(), asked, n_silent)])
        paths = [tree.path_tokens(n) if process.edits else () for n in nodes]
        dist = process.candidates(history, paths, rows.logits, rows.ids, max(N_CANDIDATES, width))
        score: NDArray[np.floating] = dist.logprob
        if not self._greedy:
            first = len(history) - tree.root
            score = score + noise.gumbel([first + tree.depth[n] for n in nodes], dist.ids)
        self._scored.update(zip(nodes, zip(dist.ids, score, strict=True), strict=True))
        logprob = self._agreement[self._greedy].logprob(score)
        if self._greedy:  # ranked already
            return Children(dist.ids[:, :width], logprob[:, :width])
        best = np.argsort(-score, axis=1, kind="stable")[:, :width]
        best += np.arange(0, score.size, score.shape[1])[:, None]
        return Children(dist.ids.take(best), logprob.take(best))

    def commit(self, history: Ids, verdict: Verdict, rows: Rows) -> None:
        path = [self._places[n] for n in verdict.path]
        for node, token in zip(path, verdict.tokens, strict=True):
            if node in self._scored:
                ids, score = self._scored[node]
                hit = np.flatnonzero((ids == token) & (score > -np.inf))
                self._agreement[self._greedy].observe(score, int(hit[0]) if len(hit) else None)
        self._context.keep(0, [*range(self._n_lead - 1), *path])
        n_known = self._context.length(0)
        self._cached = _without(history[: n_known + self._n_out], self._n_out).copy()
        self._clear()

    def forget(self) -> None:
        self._context.truncate(0, 0)
        self._cached = self._cached[:0]
        self._clear()

    def limit(self, window: int | None) -> None:
        self._window = window

    def close(self) -> None:
        self._context.close()
