"""The target's processed distribution, and the noise that turns it into a draw.

Order and meaning of the settings are llama.cpp's (its sampler chain: logit bias, penalties, top-k, top-p, min-p,
temperature). A draw is argmax(log target_probs + g) with Gumbel noise g(seed, position, id) from a counter-based
generator, computed only for the ids in question, so a drafter that adds the same g ranks that very draw first (Daliri,
Musco, Suresh, arXiv 2408.07978). Not covered: grammars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgespec.errors import DecodeFailed
from edgespec.types import Dist, Floats, Ids, Sampling

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_U64 = 2**64 - 1
_FULL_SORT_BELOW = 1024
# Columns looked at first where no top-k bounds them.
_FIRST_LOOK = 512


def top_k(rows: Floats, k: int) -> tuple[Ids, Floats]:
    """The k largest of each row, largest first, equal ones by lower id: ids int32 [m, k], values float32 [m, k].

    Raises DecodeFailed where a row is not a number.
    """
    ids = np.empty((len(rows), k), np.int32)
    values = np.empty((len(rows), k), np.float32)
    for i, row in enumerate(rows):
        ids[i] = at = [row.argmax()] if k == 1 else _best_columns(row, k)
        values[i] = row[at]
        _refuse_nan(values[i, 0])
    return ids, values


def _best_columns(row: Floats, k: int) -> NDArray[np.integer]:
    """Maxima of interleaved blocks first, then only the blocks that can matter: sorting or partitioning a row of 152k
    costs more than a small draft step."""
    n = len(row)
    if n <= _FULL_SORT_BELOW or k * 8 >= n:
        _refuse_nan(row.max())
        return np.asarray(np.argsort(-row, kind="stable")[:k])
    size = 1 << round(math.log2(n / k) / 2)  # a power of two divides most vocabularies, which leaves no tail
    n_blocks = n // size
    n_inside = size * n_blocks
    maxima = row[:n_inside].reshape(size, n_blocks).max(axis=0)
    _refuse_nan(maxima.max())
    floor = np.partition(maxima, n_blocks - k)[n_blocks - k]
    columns = (maxima >= floor).nonzero()[0]
    columns = (columns + np.arange(0, n_inside, n_blocks)[:, None]).ravel()
    if n > n_inside:
        columns = np.concatenate([columns, np.arange(n_inside, n)])
    values = row.take(columns)
    kept = (values >= floor).nonzero()[0]
    columns, values = columns.take(kept), values.take(kept)
    return np.asarray(columns[np.lexsort((columns, -values))[:k]])


def _refuse_nan(value: np.floating) -> None:
    if value != value:
        raise DecodeFailed(
            "the runtime returned a row that is not a number; the model file is probably damaged; download it again"
        )


def log_softmax(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Along the last axis; -inf stays -inf."""
    shifted = values - values.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


class Noise:
    """Randomness as a pure function of (seed, position, id)."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def stream(self, number: int) -> Noise:
        """Another noise of the same seed, independent of this one and of every other number's."""
        return Noise(_mix(_mix(self._seed) ^ (number * _MIX_1)))

    def gumbel(self, positions: Sequence[int], ids: Ids) -> NDArray[np.float64]:
        """Gumbel(0, 1), one value an id of ids [m, k]; positions: a row each, the index in the conversation of the
        token to draw."""
        return np.asarray(-np.log(-np.log(self.uniform(positions, ids))))

    def uniform(self, positions: Sequence[int], ids: Ids) -> NDArray[np.float64]:
        """The values between 0 and 1, both excluded, that `gumbel` is made of."""
        keys = [_mix(_mix(self._seed) + (position + 1) * _GOLDEN) for position in positions]
        x = ids.astype(np.uint64) * np.uint64(_GOLDEN) + np.array(keys, np.uint64)[:, None]
        x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX_1)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX_2)
        return np.asarray(((x ^ (x >> np.uint64(31))) >> np.uint64(12)) * 2.0**-52 + 2.0**-53)


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

    def __call__(self, history: Ids, paths: Sequence[Sequence[int]], rows: Floats, ids: Ids | None = None) -> Dist:
        """The distributions after history + each path; at temperature 0 all of it lies on the best id.

        rows: float32 [m, k] logits, one a path; ids names the columns (None: the column is the id).
        """
        if self.sampling.greedy:
            columns, values = top_k(self._edited(history, paths, rows, ids), 1)
            return Dist(columns if ids is None else ids[columns], values - values)
        columns, scaled = self._scaled(history, paths, rows, ids)
        return Dist(columns if ids is None else ids[columns], log_softmax(scaled))

    def candidates(
        self, history: Ids, paths: Sequence[Sequence[int]], rows: Floats, ids: Ids | None, n_most: int
    ) -> Dist:
        """What a drafter ranks: the n_most likeliest ids of the same distributions, up to a constant a row, since it
        normalises by its own means; at temperature 0 the best ids by raw logit."""
        if self.sampling.greedy:
            columns, scaled = top_k(self._edited(history, paths, rows, ids), min(n_most, rows.shape[1]))
        else:
            columns, scaled = self._scaled(history, paths, rows, ids, n_most)
        return Dist(columns if ids is None else ids[columns], scaled)

    def _scaled(
        self, history: Ids, paths: Sequence[Sequence[int]], rows: Floats, ids: Ids | None, n_most: int | None = None
    ) -> tuple[Ids, Floats]:
        """Columns best first and logits over temperature, -inf where cut; n_most is a top-k besides the setting."""
        limits = [k for k in (self.sampling.top_k, n_most) if k]
        k = min(limits) if limits else None
        columns, values, log_total = self._ordered(self._edited(history, paths, rows, ids), k)
        scaled = values / np.float32(self.sampling.temperature)
        scaled[~self._kept(values, log_total)] = -np.inf
        return columns, scaled

    def _edited(self, history: Ids, paths: Sequence[Sequence[int]], rows: Floats, ids: Ids | None) -> Floats:
        """Rows with logit bias and penalties applied, copied only where there are any."""
        if not self.edits:
            return rows
        s, rows = self.sampling, rows.copy()

        def column(token: int) -> int:
            if ids is None:
                return token
            at = int(np.searchsorted(ids, token))  # a dictionary of a trimmed head's ids costs more than it saves
            return at if at < len(ids) and ids[at] == token else -1

        for row, path in zip(rows, paths, strict=True):
            for token, bias in s.logit_bias:
                at = column(token)
                if 0 <= at < len(row):
                    row[at] += bias
            recent = [*history[max(len(history) - s.penalty_last_n, 0) :].tolist(), *path]
            recent = recent[len(recent) - min(s.penalty_last_n, len(recent)) :]
            for token in set(recent):
                at = column(token)
                if at >= 0:
                    value = float(row[at])
                    value = value * s.repeat_penalty if value <= 0 else value / s.repeat_penalty
                    row[at] = value - recent.count(token) * s.frequency_penalty - s.presence_penalty
        return rows

    def _ordered(self, rows: Floats, k: int | None) -> tuple[Ids, Floats, NDArray[np.floating] | None]:
        """Columns and logits, best first, as many as the cuts can keep; and log of the whole mass, [m, 1], where top-k
        does not define it (None: the mass of the columns returned)."""
        s, n = self.sampling, rows.shape[1]
        if k:
            return (*top_k(rows, min(k, n)), None)
        best = rows.max(axis=1, keepdims=True)
        log_total = best + np.log(np.exp(rows - best).sum(axis=1, keepdims=True))
        columns, values = top_k(rows, min(_FIRST_LOOK, n))
        by_min_p = s.min_p > 0 and bool((values[:, -1:] < best + np.log(s.min_p)).all())
        by_top_p = s.top_p < 1 and bool((np.exp(values - log_total).sum(axis=1) >= s.top_p).all())
        if len(values[0]) < n and not by_min_p and not by_top_p:
            columns, values = top_k(rows, n)
        return columns, values, log_total

    def _kept(self, values: Floats, log_total: NDArray[np.floating] | None) -> NDArray[np.bool_]:
        """Which of the ordered columns top-p and min-p leave; the first always."""
        s = self.sampling
        weights = np.exp(values - values[:, :1])
        kept = weights >= s.min_p
        if s.top_p < 1:
            sums = weights.cumsum(axis=1)
            total = sums[:, -1:] if log_total is None else np.exp(log_total - values[:, :1])
            kept[:, 1:] &= sums[:, :-1] < s.top_p * total
        return np.asarray(kept)


def draw(dist: Dist, noise: Noise, position: int) -> int:
    """An exact draw from a distribution of one row; position is the index of the token being drawn."""
    if dist.ids.shape[1] == 1:
        return int(dist.ids[0, 0])
    return int(dist.ids[0, np.argmax(dist.logprob + noise.gumbel([position], dist.ids))])
