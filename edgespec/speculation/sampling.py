"""The target's processed distribution, and the noise that turns it into a draw.

Order and meaning of the settings are llama.cpp's (its sampler chain: logit bias, penalties, top-k, top-p, min-p,
temperature). A draw is argmax(log target_probs + g) with Gumbel noise g(seed, position, id) from a counter-based generator,
computed only for the ids in question, so a drafter that adds the same g ranks that very draw first (Daliri, Musco,
Suresh, arXiv 2408.07978). Not covered: grammars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgespec.errors import DecodeFailed
from edgespec.types import Floats, Ids, Sampling

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_U64 = 2**64 - 1
_FULL_SORT_BELOW = 1024


@dataclass(frozen=True)
class Dist:
    """What may come next: ids int32 [k], likeliest first, and their log-probabilities float32 [k]."""

    ids: Ids
    logprob: Floats


def top_k(row: Floats, k: int) -> tuple[Ids, Floats]:
    """The k largest of a row, largest first, equal ones by lower id: (ids int32 [k], values float32 [k]).

    Maxima of interleaved blocks first, then only the blocks that can matter: sorting or partitioning a row of 152k
    costs more than a small draft step.
    """
    n = len(row)
    if k == 1:
        best = int(row.argmax())
        ids, values = np.array([best], np.int32), row[best : best + 1]
    elif n <= _FULL_SORT_BELOW or k * 8 >= n:
        ids = np.argsort(-row, kind="stable")[:k].astype(np.int32)
        values = row[ids]
    else:
        size = int((n / k) ** 0.5)
        n_blocks = n // size
        maxima = row[: size * n_blocks].reshape(size, n_blocks).max(axis=0)
        floor = np.partition(maxima, n_blocks - k)[n_blocks - k]
        columns = np.flatnonzero(maxima >= floor)
        candidates = (columns + np.arange(0, size * n_blocks, n_blocks)[:, None]).ravel()
        if n > size * n_blocks:
            candidates = np.concatenate([candidates, np.arange(size * n_blocks, n)])
        values = row[candidates]
        kept = values >= floor
        candidates, values = candidates[kept], values[kept]
        order = np.lexsort((candidates, -values))[:k]
        ids, values = candidates[order].astype(np.int32), values[order]
    if values[0] != values[0]:
        raise DecodeFailed("the runtime returned a row that is not a number; the model file is probably damaged")
    return ids, values


def log_softmax(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Along the last axis; -inf stays -inf."""
    shifted = values - values.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


class Noise:
    """Gumbel(0, 1) noise as a pure function of (seed, position, id)."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def gumbel(self, position: int, ids: Ids) -> NDArray[np.float64]:
        """One value an id; position is the index of the token being drawn in the whole conversation."""
        key = _mix(_mix(self._seed) + (position + 1) * _GOLDEN)
        x = ids.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(key)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX_1)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX_2)
        uniform = ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53 + 2.0**-54
        return np.asarray(-np.log(-np.log(uniform)))


def _mix(x: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (x + _GOLDEN) & _U64
    x = ((x ^ (x >> 30)) * _MIX_1) & _U64
    x = ((x ^ (x >> 27)) * _MIX_2) & _U64
    return x ^ (x >> 31)


class Process:
    """The sampling settings as a function of (history, path, row); holds no state between calls."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.edits = bool(sampling.logit_bias) or (
            sampling.penalty_last_n > 0
            and (sampling.repeat_penalty, sampling.presence_penalty, sampling.frequency_penalty) != (1, 0, 0)
        )

    def __call__(self, history: Ids, path: Sequence[int], row: Floats, ids: Ids | None = None) -> Dist:
        """The distribution after history + path; at temperature 0 all of it lies on the best id.

        row: float32 [k] logits; ids names its columns (None: the column is the id).
        """
        if self.sampling.greedy:
            columns, values = top_k(self._edited(history, path, row, ids), 1)
            return Dist(columns if ids is None else ids[columns], values - values)
        return self._cut(self._edited(history, path, row, ids), ids)

    def candidates(
        self, history: Ids, path: Sequence[int], row: Floats, ids: Ids | None, n_greedy: int
    ) -> Dist:
        """What a drafter ranks: the same distribution, but at temperature 0 the n_greedy best ids by raw logit."""
        if not self.sampling.greedy:
            return self(history, path, row, ids)
        columns, values = top_k(self._edited(history, path, row, ids), min(n_greedy, len(row)))
        return Dist(columns if ids is None else ids[columns], values)

    def _edited(self, history: Ids, path: Sequence[int], row: Floats, ids: Ids | None) -> Floats:
        if not self.edits:
            return row
        s, row = self.sampling, row.copy()
        columns = None if ids is None else {int(t): c for c, t in enumerate(ids)}
        for token, bias in s.logit_bias:
            at = token if columns is None else columns.get(token, -1)
            if 0 <= at < len(row):
                row[at] += bias
        recent = [*history[len(history) - max(s.penalty_last_n - len(path), 0) :].tolist(), *path]
        recent = recent[-s.penalty_last_n :] if s.penalty_last_n else []
        for token in set(recent):
            at = token if columns is None else columns.get(token, -1)
            if at >= 0:
                value = float(row[at])
                value = value * s.repeat_penalty if value <= 0 else value / s.repeat_penalty
                row[at] = value - recent.count(token) * s.frequency_penalty - s.presence_penalty
        return row

    def _cut(self, row: Floats, ids: Ids | None) -> Dist:
        s = self.sampling
        if s.top_k:
            columns, values = top_k(row, min(s.top_k, len(row)))
            probs = _softmax(values) if s.top_p < 1 else None
        elif s.top_p < 1 or s.min_p == 0:
            columns, values = top_k(row, len(row))
            probs = _softmax(values) if s.top_p < 1 else None
        else:
            within = np.flatnonzero(row >= row.max() + np.log(s.min_p)).astype(np.int32)
            order = np.lexsort((within, -row[within]))
            columns, values, probs = within[order], row[within[order]], None
        n = len(values)
        if probs is not None:
            n = min(n, int(np.searchsorted(np.cumsum(probs), s.top_p)) + 1)
        if s.min_p > 0:
            floor = values[0] + np.log(s.min_p)
            n = max(1, min(n, int(np.searchsorted(-values, -floor, side="right"))))
        logprob = log_softmax(values[:n] / np.float32(s.temperature)).astype(np.float32)
        return Dist(columns[:n] if ids is None else ids[columns[:n]], logprob)


def _softmax(values: Floats) -> NDArray[np.floating]:
    weights = np.exp(values - values[0])
    return weights / weights.sum()


def draw(dist: Dist, noise: Noise, position: int) -> int:
    """An exact draw from the distribution."""
    if len(dist.ids) == 1:
        return int(dist.ids[0])
    return int(dist.ids[np.argmax(dist.logprob + noise.gumbel(position, dist.ids))])
