"""Drafts that are draws from a smaller model, for `--verify rejection`; at temperature 0 ModelDrafter's.

Children are drawn without replacement from draft_probs (the drafter's row under the target's settings), with noise that
neither the target's draws nor the verifier use, and the tree says what they were drawn from. Not covered: other
vocabularies.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgespec.speculation.drafters.chances import Chances
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.drawing import grow_drawn, without_replacement
from edgespec.speculation.policies import Children, limits_of
from edgespec.speculation.rejection import DRAFT_STREAM
from edgespec.speculation.sampling import Noise, Process, log_softmax
from edgespec.speculation.tree import GrowingTree
from edgespec.types import Choice, Dist, Floats, Ids, TokenTree, Verdict

# Likeliest ids that draft_probs is cut to: what it leaves out the target can still draw, but no draft can be.
N_CANDIDATES = 64
# Nodes of one growing tree, lead included, at most: a key of the noise is used once in a conversation.
_KEYS = 1024


class SampledDrafter:
    """Drafts what its reader's model might say."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._greedy = ModelDrafter(reader)
        self._chances = Chances()
        self._clear()

    def _clear(self) -> None:
        self._places: list[int] = []
        self._dists: dict[int, tuple[Ids, Floats]] = {}
        self._drawn: dict[int, tuple[list[int], list[float]]] = {}

    def draft(self, history: Ids, choice: Choice, process: Process, noise: Noise) -> TokenTree:
        self._clear()
        self._is_greedy = process.sampling.greedy
        if self._is_greedy:
            return self._greedy.draft(history, choice, process, noise)
        tree = GrowingTree(self._reader.begin(history))
        own = noise.stream(DRAFT_STREAM)

        def read(nodes: list[int]) -> Children:
            return self._read(tree, nodes, choice.width, history, process, own)

        limits = limits_of(choice, self._reader.n_leaves, self._reader.caps.max_nodes)
        drafted, self._places = grow_drawn(tree, read, limits)
        self._parents = drafted.parent.tolist()
        return replace(drafted, draft_probs=self._draft_probs())

    def _read(
        self, tree: GrowingTree, nodes: list[int], width: int, history: Ids, process: Process, noise: Noise
    ) -> Children:
        """Evaluate nodes and draw what may follow each of them."""
        rows = self._reader.read(tree, nodes)
        paths = [tree.path_tokens(n) if process.edits else () for n in nodes]
        dist = process.candidates(history, paths, rows.logits, rows.ids, max(N_CANDIDATES, width))
        dist = Dist(dist.ids, log_softmax(dist.logprob).astype(np.float32))
        self._dists.update(zip(nodes, zip(dist.ids, dist.logprob, strict=True), strict=True))
        tokens, probs = without_replacement(dist, noise, [len(history) * _KEYS + n for n in nodes], width)
        self._drawn.update(zip(nodes, zip(tokens.tolist(), probs.tolist(), strict=True), strict=True))
        with np.errstate(divide="ignore"):
            return Children(tokens.tolist(), np.log(self._chances.of(probs)).tolist())

    def _draft_probs(self) -> Dist:
        """What was read of each node of the cut tree; of the others, the leaves, nothing was drawn."""
        k = len(next(iter(self._dists.values()))[0])
        ids = np.zeros((len(self._places), k), np.int32)
        logprob: NDArray[np.float32] = np.full(ids.shape, -np.inf, np.float32)
        for i, node in enumerate(self._places):
            if node in self._dists:
                ids[i], logprob[i] = self._dists[node]
        return Dist(ids, logprob)

    def commit(self, history: Ids, verdict: Verdict) -> None:
        if self._is_greedy:
            self._greedy.commit(history, verdict)
            return
        for node, token in zip(verdict.path, verdict.tokens, strict=True):
            if n_children := self._parents.count(node):
                tokens, probs = self._drawn[self._places[node]]
                tokens = tokens[:n_children]
                self._chances.observe(probs[:n_children], tokens.index(token) if token in tokens else None)
        self._reader.keep(history, [self._places[n] for n in verdict.path])
        self._clear()

    def forget(self) -> None:
        self._greedy.forget()
        self._clear()

    def limit(self, window: int | None) -> None:
        self._reader.limit(window)

    def close(self) -> None:
        self._reader.close()
