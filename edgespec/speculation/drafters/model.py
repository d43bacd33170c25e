"""Drafts from a second, smaller model with the target's vocabulary.

Children are ranked with the target's own noise (docs/shared-noise.md), so the first child is likely to be the draw.
Not covered: reading rows and following the conversation (reader.py), other vocabularies, trimmed heads (the backend's
affair).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgespec.speculation.drafters.agreement import Agreement
from edgespec.speculation.drafters.ranking import children, place_of, scored
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.policies import Children, grow, limits_of
from edgespec.speculation.sampling import Noise, Process
from edgespec.speculation.tree import GrowingTree
from edgespec.types import Choice, Ids, TokenTree, Verdict


class ModelDrafter:
    """Drafts what its reader's model would say."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._agreement = {True: Agreement(), False: Agreement()}
        self._clear()

    def _clear(self) -> None:
        self._places: list[int] = []
        self._scored: dict[int, tuple[Ids, NDArray[np.floating]]] = {}

    def draft(self, history: Ids, choice: Choice, process: Process, noise: Noise) -> TokenTree:
        self._clear()
        tree = GrowingTree(self._reader.begin(history))
        self._greedy = process.sampling.greedy
        limits = limits_of(choice, self._reader.n_leaves, self._reader.caps.max_nodes)

        def read(nodes: list[int]) -> Children:
            return self._read(tree, nodes, choice.width, history, process, noise)

        drafted, self._places = grow(tree, read, limits)
        return drafted

    def _read(
        self, tree: GrowingTree, nodes: list[int], width: int, history: Ids, process: Process, noise: Noise
    ) -> Children:
        """Evaluate nodes and rank what may follow each of them."""
        rows = self._reader.read(tree, nodes)
        paths = [tree.path_tokens(n) if process.edits else () for n in nodes]
        first = len(history) - tree.root
        found = scored(history, paths, rows, [first + tree.depth[n] for n in nodes], process, noise, width)
        self._scored.update(zip(nodes, zip(found.ids, found.score, strict=True), strict=True))
        return children(found, self._agreement[self._greedy].logprob(found.score), width)

    def commit(self, history: Ids, verdict: Verdict) -> None:
        path = [self._places[n] for n in verdict.path]
        for node, token in zip(path, verdict.tokens, strict=True):
            if node in self._scored:
                ids, score = self._scored[node]
                self._agreement[self._greedy].observe(score, place_of(token, ids, score))
        self._reader.keep(history, path)
        self._clear()

    def forget(self) -> None:
        self._reader.forget()
        self._clear()

    def limit(self, window: int | None) -> None:
        self._reader.limit(window)

    def close(self) -> None:
        self._reader.close()
