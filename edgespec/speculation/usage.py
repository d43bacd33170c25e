"""Which tokens a target emits, older ones counting less: what a trimmed head should keep (VocabTrim, arXiv 2506.22694).

Not covered: prompts (a drafter need not say them), which rows follow from the counts (gguf/keep.py), files (store).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespec.types import Ids

# Tokens after which a count weighs half: last month's topic must not outvote today's.
HALF_LIFE = 200_000
# Coverage is that of the last so many tokens; of fewer than the least it says nothing.
N_RECENT, LEAST_RECENT = 10_000, 2_000
_FOLD = 1_000


class Usage:
    """Counts of one pair of models."""

    def __init__(self, n_vocab: int) -> None:
        self._counts: NDArray[np.float32] = np.zeros(n_vocab, np.float32)
        self._recent: Ids = np.zeros(0, np.int32)
        self._new: list[int] = []

    def observe(self, tokens: Sequence[int]) -> None:
        self._new += tokens
        if len(self._new) >= _FOLD:
            self._fold()

    def _fold(self) -> None:
        if self._new:
            new = np.array(self._new, np.int32)
            self._counts *= 0.5 ** (len(new) / HALF_LIFE)
            self._counts += np.bincount(new, minlength=len(self._counts))
            self._recent = np.concatenate([self._recent, new])[-N_RECENT:]
            self._new.clear()

    @property
    def counts(self) -> NDArray[np.float32]:
        """float32 [n_vocab], decayed."""
        self._fold()
        return self._counts

    @property
    def recent(self) -> Ids:
        """The last tokens, N_RECENT at most."""
        self._fold()
        return self._recent

    def coverage(self, ids: Ids) -> float | None:
        """Share of the last N_RECENT tokens that are among ids; None where fewer than LEAST_RECENT were seen."""
        self._fold()
        return float(np.isin(self._recent, ids).mean()) if len(self._recent) >= LEAST_RECENT else None

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For store.tables; `take` reads them back."""
        self._fold()
        seen = np.flatnonzero(self._counts).astype(np.int32)
        return {"ids": seen, "counts": self._counts[seen], "recent": self._recent}

    def take(self, arrays: Mapping[str, NDArray[Any]]) -> bool:
        """Go on from what `arrays` gave; False, with nothing changed, where it makes no sense for this vocabulary."""
        ids, counts, recent = (arrays.get(name) for name in ("ids", "counts", "recent"))
        if ids is None or counts is None or recent is None or ids.shape != counts.shape or recent.ndim != 1:
            return False
        n = len(self._counts)
        for tokens in (ids, recent):
            if tokens.dtype != np.int32 or (len(tokens) and not 0 <= tokens.min() <= tokens.max() < n):
                return False
        if counts.dtype != np.float32 or not np.isfinite(counts).all() or (counts < 0).any():
            return False
        self._counts[:] = 0
        self._counts[ids] = counts
        self._recent = recent[-N_RECENT:].copy()
        return True
