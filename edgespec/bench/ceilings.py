"""The card of ceilings that stands above every result: what this machine and this pair of models allow at most.

Plain decoding reads all weights once a token, so memory bandwidth over bytes a token bounds it. Speculation is bounded
by the tokens a pass of exact best-first trees accepts, at the best number of rows, over times measured alone.
Not covered: bandwidth of a graphics card's own memory, caches that hold a small model whole (it may pass the limit).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from edgespec.backends.base import Context
from edgespec.errors import BadSetting, Cancelled
from edgespec.gguf.header import Tensor, read_header
from edgespec.speculation.cost import Curve
from edgespec.speculation.drafters.ranking import N_CANDIDATES
from edgespec.speculation.policies import Children, Limits, grow
from edgespec.speculation.sampling import Noise, Process, log_softmax
from edgespec.speculation.tree import GrowingTree
from edgespec.types import Ids, Sampling, Span

BLOCK_BYTES = 1 << 29
# What a thread does with its part of the block; a decoder only reads, and which of these reads fastest is the
# processor's affair. The copy reads one half and writes the other: as many bytes in all.
READS: Mapping[str, Callable[[NDArray[np.float32]], Any]] = {
    "sum": np.sum,
    "or": lambda block: np.bitwise_or.reduce(block.view(np.uint64)),
    "copy": lambda block: np.copyto(block[: len(block) // 2], block[len(block) - len(block) // 2 :]),
}
# Looked up a row a token, not read through.
LOOKED_UP = ("per_layer_token_embd.weight", "position_embd.weight", "token_types.weight")
_PART = re.compile(r"-00001-of-(\d{5})\.gguf$")

ROWS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
# How far a ranking is trusted (speculation/drafters/agreement.py): held fixed, and the best in hindsight counts.
TAUS = (0.4, 0.5, 0.6, 0.85)
HIT_RATE = 0.95


@dataclass(frozen=True)
class Bandwidth:
    """Bytes a second that all threads together move; how names the fastest of READS, n_bytes the block it went over."""

    bytes_per_s: float
    how: str
    n_bytes: int
    n_threads: int


def bandwidth(
    n_threads: int,
    n_bytes: int = BLOCK_BYTES,
    budget_s: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Bandwidth:
    """The highest figure of READS in interleaved rounds over a block of n_bytes, or of a quarter of free memory.

    At least one round, then as many as budget_s allows (filling the block comes on top). Raises BadSetting.
    """
    if n_threads < 1:
        raise BadSetting(f"bandwidth is measured with 1 thread or more, not {n_threads}")
    n_each = min(n_bytes, psutil.virtual_memory().available // 4) // n_threads // 16 * 4  # an even number of floats
    if n_each < 4:
        raise BadSetting(f"a block of {n_bytes} bytes is too small for {n_threads} threads; use {16 * n_threads}")
    best = dict.fromkeys(READS, math.inf)
    with ThreadPoolExecutor(n_threads) as pool:
        blocks = list(pool.map(lambda _: np.ones(n_each, np.float32), range(n_threads)))
        end = clock() + budget_s
        while True:
            for how, read in READS.items():
                start = clock()
                list(pool.map(read, blocks))
                best[how] = min(best[how], clock() - start)
            if clock() >= end:
                break
    how = min(best, key=lambda name: best[name])
    return Bandwidth(4 * n_each * n_threads / max(best[how], 1e-9), how, 4 * n_each * n_threads, n_threads)


def bytes_per_token(path: Path) -> int:
    """Bytes of weights that decoding one token reads, by the file's tensor table, all parts of a split model.

    Everything but tables that are only looked up: the token embeddings where the output has a matrix of its own. Of
    experts, the share a token is routed to. The cache's own bytes are left out. Raises ModelNotFound, ModelUnusable.
    """
    header = read_header(path)
    tensors = [tensor for part in _parts(path) for tensor in read_header(part).tensors]
    own_output = any(tensor.name == "output.weight" for tensor in tensors)
    left_out = {*LOOKED_UP, "token_embd.weight"} if own_output else set(LOOKED_UP)
    architecture = header.metadata.get("general.architecture")
    n_experts = header.metadata.get(f"{architecture}.expert_count", 0)
    n_used = header.metadata.get(f"{architecture}.expert_used_count", 0)
    routed = float(n_used) / float(n_experts) if n_experts and n_used else 1.0

    def read_bytes(tensor: Tensor) -> int:
        return round(tensor.n_bytes * routed) if "_exps." in tensor.name else tensor.n_bytes

    return sum(read_bytes(tensor) for tensor in tensors if tensor.name not in left_out)


def _parts(path: Path) -> list[Path]:
    found = _PART.search(path.name)
    n = int(found[1]) if found else 1
    stem = path.name[: found.start()] if found else ""
    return [path, *(path.with_name(f"{stem}-{i:05d}-of-{n:05d}.gguf") for i in range(2, n + 1))]


def limit_tokens_per_s(memory: Bandwidth, n_bytes_per_token: int) -> float:
    """Plain tokens a second at most, where every token reads its bytes from memory."""
    return memory.bytes_per_s / n_bytes_per_token


@dataclass(frozen=True)
class Bound:
    """The most that speculation can reach: at how many rows, times plain decoding, and in tokens a second.

    rows 1 with a speed-up of 1: nothing beats plain decoding.
    """

    rows: int
    speedup: float
    tokens_per_second: float


def bound(
    curve: Curve,
    tokens_per_pass_by_rows: Mapping[int, float],
    draft_ms_by_rows: Mapping[int, float],
    depth: int | None = None,
) -> Bound:
    """Best of tokens a pass over (pass + draft) times a plain step, plain decoding included, behind `depth` tokens.

    draft_ms_by_rows: drafting a tree of so many rows, alone; its rows must be those of the other. A pass is padded
    where that is cheaper. Raises BadSetting.
    """
    wrong = sorted(tokens_per_pass_by_rows.keys() ^ draft_ms_by_rows.keys())
    if wrong:
        raise BadSetting(f"tokens a pass and draft times must be there for the same rows, but {wrong} lack one of them")
    plain_ms = curve.ms(1, depth)
    found = [Bound(1, 1.0, 1e3 / plain_ms)]
    for rows, n_tokens in tokens_per_pass_by_rows.items():
        ms = (curve.ms(curve.padded(rows, depth), depth) + draft_ms_by_rows[rows]) / n_tokens
        found.append(Bound(rows, plain_ms / ms, 1e3 / ms))
    return max(found, key=lambda b: b.speedup)


@dataclass(frozen=True)
class Recorded:
    """An answer the target gave: ids of prompt and answer, drawn under this sampling with its seed."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    sampling: Sampling


def best_first_tokens_per_pass(
    context: Context,
    answers: Sequence[Recorded],
    rows: Sequence[int] = ROWS,
    *,
    width: int = 8,
    taus: Sequence[float] = TAUS,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[int, float]:
    """Tokens a pass of exact best-first trees over recorded answers, by the number of rows, without the target.

    context: of the drafter, slot 0, emptied afterwards; max_nodes and max_leaves must be max(rows), and its n_ctx hold
    prompt, answer and max(rows) more. A tree holds the likeliest nodes by the drafter's scores, grown one node at a
    time; smaller trees are the beginnings of larger ones, so each place of an answer is drafted for once. Of `taus`
    the best one in hindsight counts, for each number of rows. About 20 reads of the drafter a token of answer.
    Raises BadSetting, Cancelled, and what the context raises.
    """
    most = max(rows, default=0)
    if min(rows, default=0) < 1 or not any(a.answer for a in answers) or not all(a.prompt for a in answers):
        raise BadSetting("best-first trees need 1 row or more, prompts, and answers with tokens")
    had = min(context.caps.max_nodes, context.caps.max_leaves)
    if had < most:
        raise BadSetting(
            f"trees of {most} rows need a context of as many nodes and leaves, not {had}; open a wider one"
        )
    n_passes = {(tau, n): 0 for tau in taus for n in rows}
    try:
        for recorded in answers:
            ranks = []
            for place in _ranks(context, recorded, most, width, taus):
                ranks.append(place)
                if cancelled():
                    raise Cancelled("stopped")
            for tau, n in n_passes:
                n_passes[tau, n] += passes_of([sum(rank < n for rank in place[tau]) for place in ranks])
    finally:
        context.keep(0, [])
        context.truncate(0, 0)
    n_tokens = sum(len(a.answer) for a in answers)
    return {n: n_tokens / min(n_passes[tau, n] for tau in taus) for n in rows}


def passes_of(n_accepted: Sequence[int]) -> int:
    """Passes for a whole answer, where a pass at place i of it would have n_accepted[i] of its drafts accepted."""
    n_passes = at = 0
    while at < len(n_accepted):
        at += n_accepted[at] + 1
        n_passes += 1
    return n_passes


def _ranks(
    context: Context, recorded: Recorded, n_rows: int, width: int, taus: Sequence[float]
) -> Iterator[dict[float, list[int]]]:
    """For each place of the answer and each tau: where the tokens that follow stand in best-first order (root: 0)."""
    text = np.array([*recorded.prompt, *recorded.answer], np.int32)
    context.truncate(0, 0)
    limits = Limits(n_rows, n_rows, width, n_leaves=n_rows, n_beams=1, n_waves=n_rows, reach=1.0)
    scored: _Scored = {}
    for n in range(len(recorded.prompt), len(text)):
        context.prefill(0, text[context.length(0) : n - 1])
        place = _Place(context, text, n, recorded.sampling, width, scored)
        yield {tau: _ranks_of(place, text[n:].tolist(), limits, tau) for tau in taus}


def _ranks_of(place: _Place, following: Sequence[int], limits: Limits, tau: float) -> list[int]:
    growing = GrowingTree([place.pending])
    drafted, nodes = grow(growing, lambda wave: place.read([growing.path_tokens(n) for n in wave], tau), limits)
    place.drop()
    best_first = sorted(range(len(nodes)), key=lambda i: (-growing.score[nodes[i]], nodes[i]))
    rank = {node: i for i, node in enumerate(best_first)}
    found, at = [], 0
    for token in following:
        match = np.flatnonzero((drafted.parent == at) & (drafted.token == token))
        if not len(match):
            break
        at = int(match[0])
        found.append(rank[at])
    return found


# Candidates and scores after a text's first n tokens and what is drafted there that the text does not say.
_Scored = dict[tuple[int, tuple[int, ...]], tuple[Ids, NDArray[np.floating]]]


class _Place:
    """Scores of what may follow the first n tokens of a text; each path is read once for all taus and places."""

    def __init__(self, context: Context, text: Ids, n: int, sampling: Sampling, width: int, scored: _Scored) -> None:
        self._context, self._text, self._n, self._width, self._scored = context, text, n, width, scored
        self._process, self._noise = Process(sampling), Noise(sampling.seed)
        self.pending = int(text[n - 1])
        self.drop()

    def drop(self) -> None:
        """What was evaluated leaves the cache; its scores stay known."""
        self._context.keep(0, [])
        self._tree = GrowingTree([self.pending])
        self._node: dict[tuple[int, ...], int] = {}

    def read(self, paths: Sequence[Sequence[int]], tau: float) -> Children:
        """The best children of each path, best first, by a drafter trusted as far as tau says."""
        found = [self._children(tuple(path)) for path in paths]
        logprob = log_softmax(np.array([score for _, score in found]) / tau) + math.log(HIT_RATE)
        ids = np.array([ids for ids, _ in found])[:, : self._width]
        return Children(ids.tolist(), logprob[:, : self._width].tolist())

    def _children(self, path: tuple[int, ...]) -> tuple[Ids, NDArray[np.floating]]:
        """Candidates after a path and their scores; a path that goes the text's way belongs to a later place of it."""
        n_said = next((i for i, token in enumerate(path) if token != self._said(i)), len(path))
        key = (self._n + n_said, path[n_said:])
        if key not in self._scored:
            self._scored[key] = self._evaluate(path)
        return self._scored[key]

    def _said(self, ahead: int) -> int:
        """The token of the text so far ahead, -1 past its end."""
        at = self._n + ahead
        return int(self._text[at]) if at < len(self._text) else -1

    def _evaluate(self, path: tuple[int, ...]) -> tuple[Ids, NDArray[np.floating]]:
        missing = [path[:n] for n in range(len(path) + 1) if path[:n] not in self._node]
        for key in missing:
            self._node[key] = 0 if not key else self._tree.append(key[-1], self._node[key[:-1]], len(key), 0.0)
        nodes = [self._node[key] for key in missing]
        rows = self._context.evaluate([Span(0, self._tree.view(), nodes, n_silent=len(nodes) - 1)])
        n_most = max(N_CANDIDATES, self._width)
        dist = self._process.candidates(self._text[: self._n], [path], rows.logits, rows.ids, n_most)
        score: NDArray[np.floating] = dist.logprob[0]
        if not self._process.sampling.greedy:
            score = score + self._noise.gumbel([self._n + len(path)], dist.ids)[0]
        order = np.argsort(-score, kind="stable")
        return dist.ids[0][order], score[order]
