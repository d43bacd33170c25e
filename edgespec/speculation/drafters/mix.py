"""Several sources in one tree under one node budget: the best expected gain a node wins, whoever proposed it.

What sources say about a node is blended into chances (sources.py); where a drafter's row is there too, they are
evidence beside its scores (evidence.py), so that the same child proposed twice is one child, likelier. Growth is best
first by those chances (policies.py). A node whose next token the sources are sure of needs no row of the drafter, and
what they deem likely behind the first one is drafted for the drafter (staged drafting, as in CS Drafting,
arXiv 2312.11462): its first pass reads those rows too, which saves the passes that would have asked for them.
With shared noise g (docs/shared-noise.md) a candidate's score is log chance + g; the best one is the draw unless a
token that nobody named has a higher one, whose maximum is a Gumbel variable too: it stays below s with probability
exp(-rest * exp(-s)), rest being the chance that the draw is such a token.
Not covered: how many nodes pay (goodput.py), reading rows (reader.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgespec.speculation.drafters.agreement import Agreement
from edgespec.speculation.drafters.evidence import Evidence
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.drafters.sources import Blend, Guess, Source
from edgespec.speculation.policies import MAX_LEAVES, N_AHEAD, Children, grow, limits_of
from edgespec.speculation.sampling import Noise, Process, log_softmax
from edgespec.speculation.tree import GrowingTree
from edgespec.types import Choice, Ids, TokenTree, Verdict

# Candidates of a drafter's row that take part.
N_CANDIDATES = 20
# Part of the chances that is always left to tokens nobody named.
LEAST_REST = 0.01
# A copy of less than this blended chance does not do without a row: evidence learns where a row was read alone, so a
# source that was sure and always wrong would keep the drafter out for good.
LEAST_SURE = 0.4
# What sources say comes next is read ahead (N_AHEAD tokens at most) while it is likely as a whole.
LEAST_AHEAD = 0.25

Scores: TypeAlias = NDArray[np.floating]
Ranked: TypeAlias = tuple[list[int], list[float]]


@dataclass
class _Round:
    """What one draft works on, dropped at its commit.

    places  read positions by node, a source each; guesses by node, and their blend
    scored  by node: candidates, scores, and where a row was read the evidence that is in them
    ready   children by node, of those whose row was read
    """

    tree: GrowingTree
    history: Ids
    process: Process
    noise: Noise
    places: dict[int, tuple[Any, ...]]
    guesses: dict[int, list[Guess]] = field(default_factory=dict)
    blend: dict[int, dict[int, float]] = field(default_factory=dict)
    scored: dict[int, tuple[list[int], Scores, Scores | None]] = field(default_factory=dict)
    ready: dict[int, Ranked] = field(default_factory=dict)

    @property
    def greedy(self) -> bool:
        return self.process.sampling.greedy

    def gumbel(self, node: int, tokens: Ids) -> Scores:
        """The noise of these tokens as what follows a node."""
        position = len(self.history) - self.tree.root + self.tree.depth[node]
        noise: Scores = self.noise.gumbel([position], tokens[None])[0]
        return noise


class _Fit:
    """What is learnt of how sources and drafter agree with the target; one for greedy answers, one for sampled ones."""

    def __init__(self, trusts: Sequence[Sequence[float]]) -> None:
        self.blend, self.evidence = Blend(trusts), Evidence(trusts)
        self.of_sources, self.of_model = Agreement(), Agreement()


class MixDrafter:
    """Drafts from sources and, with a reader, from a model as well."""

    def __init__(self, sources: Sequence[Source], reader: Reader | None = None) -> None:
        self._sources, self._reader = tuple(sources), reader
        self.unlearn()
        self._round: _Round | None = None
        self._places: list[int] = []

    def draft(self, history: Ids, choice: Choice, process: Process, noise: Noise) -> TokenTree:
        reader = self._reader
        tree = GrowingTree(reader.begin(history) if reader else [int(history[-1])])
        start = tuple(source.follow(history) for source in self._sources)
        self._round = r = _Round(tree, history, process, noise, {tree.root: start})
        fit, width = self._fits[r.greedy], choice.width

        def read(nodes: list[int]) -> Children:
            for node in nodes:
                self._ask(r, node)
            unsure = {n for n in nodes if reader and not _sure(r, fit, n)}
            if asked := [n for n in nodes if n in unsure and n not in r.ready]:
                self._read_model(r, fit, asked, choice)
            every = [r.ready[n] if n in unsure else _by_sources(r, fit, n, width) for n in nodes]
            return Children([tokens for tokens, _ in every], [logprob for _, logprob in every])

        # What is read ahead may turn out to be one tip more.
        n_leaves = max(reader.n_leaves - 1, 1) if reader else min(choice.rows, MAX_LEAVES)
        limits = limits_of(choice, n_leaves, reader.caps.max_nodes if reader else 1)
        drafted, self._places = grow(tree, read, limits)
        return drafted

    def _ask(self, r: _Round, node: int) -> None:
        """What the sources say behind a node."""
        if node not in r.places:
            before, token = r.places[r.tree.parent[node]], r.tree.token[node]
            r.places[node] = tuple(s.step(p, token) for s, p in zip(self._sources, before, strict=True))
        r.guesses[node] = [s.guess(place) for s, place in zip(self._sources, r.places[node], strict=True)]
        r.blend[node] = self._fits[r.greedy].blend.mix(r.guesses[node])

    def _read_model(self, r: _Round, fit: _Fit, nodes: list[int], choice: Choice) -> None:
        """Children of these nodes by the drafter's rows, with what the sources said as evidence."""
        assert self._reader is not None
        if nodes == [r.tree.root] and self._reader.n_leaves > 1:
            n_most = min(N_AHEAD, self._reader.caps.max_nodes - 1)
            nodes = [*nodes, *self._ahead(r, fit, n_most, choice.depth)]
        rows = self._reader.read(r.tree, nodes)
        paths = [r.tree.path_tokens(n) if r.process.edits else () for n in nodes]
        dist = r.process.candidates(r.history, paths, rows.logits, rows.ids, max(N_CANDIDATES, choice.width))
        for i, node in enumerate(nodes):
            ids, score, evidence = fit.evidence.add(dist.ids[i], dist.logprob[i], r.guesses[node])
            if not r.greedy:
                score = score + r.gumbel(node, ids)
            r.scored[node] = ids.tolist(), score, evidence
            r.ready[node] = _best(ids, score, fit.of_model.logprob(score), choice.width)

    def _ahead(self, r: _Round, fit: _Fit, n_most: int, depth: int) -> list[int]:
        """What the sources draft for the drafter below the pending token: spare nodes, a chain of n_most at most."""
        found: list[int] = []
        node, log_chance = r.tree.root, 0.0
        while len(found) < min(n_most, depth - 1):
            tokens, logprob = _by_sources(r, fit, node, 1)
            log_chance += logprob[0] if logprob else -math.inf
            if log_chance < math.log(LEAST_AHEAD):
                break
            node = r.tree.spare(tokens[0], node)
            self._ask(r, node)
            found.append(node)
        return found

    def commit(self, history: Ids, verdict: Verdict) -> None:
        r = self._round
        if r is None:
            return
        fit = self._fits[r.greedy]
        path = [self._places[n] for n in verdict.path]
        for node, token in zip(path, verdict.tokens, strict=True):
            if node in r.guesses:
                fit.blend.observe(r.guesses[node], token)
            if node in r.scored:
                _observe(r, fit, node, token)
        if self._reader:
            self._reader.keep(history, path)
        self._round = None

    def unlearn(self) -> None:
        """Begin anew, as if nothing had been seen."""
        self._fits = {greedy: _Fit([s.trust for s in self._sources]) for greedy in (True, False)}

    def to_dict(self) -> dict[str, Any]:
        """What was learnt, as lists of numbers; `take` reads them back."""
        return {
            "greedy" if greedy else "sampled": {"blend": fit.blend.to_dict(), "evidence": fit.evidence.weights}
            for greedy, fit in self._fits.items()
        }

    def take(self, data: object) -> None:
        """Go on from what `to_dict` wrote; what makes no sense counts as nothing learnt."""
        for greedy, fit in self._fits.items():
            part = data.get("greedy" if greedy else "sampled") if isinstance(data, Mapping) else None
            if isinstance(part, Mapping):
                fit.blend.take(part.get("blend"))
                fit.evidence.take(part.get("evidence"))

    def forget(self) -> None:
        self._round = None
        if self._reader:
            self._reader.forget()

    def limit(self, window: int | None) -> None:
        if self._reader:
            self._reader.limit(window)

    def close(self) -> None:
        if self._reader:
            self._reader.close()


def _sure(r: _Round, fit: _Fit, node: int) -> bool:
    """Whether the sources know what follows a node, and were right of late where they said so."""
    return fit.evidence.sure(r.guesses[node]) and max(r.blend[node].values(), default=0.0) >= LEAST_SURE


def _by_sources(r: _Round, fit: _Fit, node: int, width: int) -> Ranked:
    """Children best first with their log-chances to be the draw, as the sources alone see them."""
    chances = r.blend[node]
    if not chances:
        return [], []
    if r.greedy:
        tokens = sorted(chances, key=lambda token: -chances[token])[:width]
        return tokens, [math.log(max(chances[token], 1e-12)) for token in tokens]
    ids = np.array(list(chances), np.int32)
    score = np.log(np.maximum(list(chances.values()), 1e-12)) + r.gumbel(node, ids)
    r.scored[node] = ids.tolist(), score, None
    rest = max(1.0 - sum(chances.values()), LEAST_REST)
    return _best(ids, score, fit.of_sources.logprob(score) - rest * math.exp(-float(score.max())), width)


def _best(ids: Ids, score: Scores, logprob: Scores, width: int) -> Ranked:
    best = np.argsort(-score, kind="stable")[:width]
    return ids[best].tolist(), logprob[best].tolist()


def _observe(r: _Round, fit: _Fit, node: int, token: int) -> None:
    """The draw behind a node that was ranked."""
    tokens, score, evidence = r.scored[node]
    drawn = tokens.index(token) if token in tokens and score[tokens.index(token)] > -np.inf else None
    if evidence is None:
        if drawn is not None:  # what no source named is the blend's affair
            fit.of_sources.observe(score, drawn)
        return
    if drawn is not None:
        fit.evidence.observe(
            r.guesses[node], evidence, np.exp(log_softmax(score / fit.of_model.tau)).astype(np.float64), drawn
        )
    fit.of_model.observe(score, drawn)
