"""Keeps a trimmed drafter fitting to what is said: counts accepted tokens, and trims again while nobody waits.

Only a head whose rows were left to what pays (--keep auto) is trimmed again; of another one it is said that it no
longer fits, since its rows are the user's choice. Counts are kept for a pair of models, and shared by all that was
trimmed from one drafter. What is trimmed again takes effect at the next start: the process that runs goes on with the
rows it has mapped. Not covered: the first trimming, which is the user's (edgespec trim), when there is time (service).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgespec.errors import EdgespecError, ModelUnusable
from edgespec.gguf.header import read_header
from edgespec.gguf.inspect import inspect
from edgespec.gguf.keep import Kept, always_kept, expected_coverage, foreseen, keep_number
from edgespec.gguf.original import Original, find_original
from edgespec.gguf.trim import trim
from edgespec.gguf.vocabulary import Vocabulary, read_vocabulary
from edgespec.memory.rows import DEPTH, best_rows, sizes_of
from edgespec.memory.source import Source
from edgespec.speculation.usage import Usage
from edgespec.store import learnt, tables

# Less of what was said lately than this is foreseen: trim again, if that foresees so much more.
LEAST_COVERAGE, LEAST_GAIN = 0.98, 0.02
# Chances are never sure.
MOST_AGREEMENT = 0.98


class _Stopped(Exception):
    """Somebody waits."""


class Retrimming:
    """Of one target and trimmed drafter; warning: why what was counted before could not be used, or None."""

    def __init__(self, target: Source, draft: Source) -> None:
        """Raises OSError where a file cannot be read, and what finding the drafter's original raises."""
        self._target, self._draft = target, draft
        self._original: Original | None = _original(draft)
        self._key = learnt.key(target.path, self._original.path, "emitted")
        self.usage = Usage(self._original.n_vocab)
        found = tables.load(self._key)
        self.warning = found.warning
        if found.arrays is not None and not self.usage.take(found.arrays):
            self.warning = tables.discard(self._key, "it counts another vocabulary")

    def heard(self, tokens: Sequence[int]) -> None:
        """Tokens of an answer."""
        self.usage.observe(tokens)

    def keep(self) -> str | None:
        """Save the counts; a warning where that failed."""
        return tables.save(self._key, self.usage.arrays())

    def tidy(self, agreement: float, cancelled: Callable[[], bool] = lambda: False) -> str | None:
        """Trim again where too little of what was said lately is kept; a line about it, None where nothing was done.

        agreement: chance that this head's draft is the target's draw. Cancelled in the middle, the old file stands.
        """
        if self._original is None:
            return None
        covered = self.usage.coverage(self._original.ids)
        if covered is None or covered >= LEAST_COVERAGE:
            return None
        stop = _stopping(cancelled)
        try:
            stop(0.0)
            original = _original(self._draft)  # it may have been replaced since the start
            follows, name = self._follows(), self._draft.path.name
            kept, expected = self._choice(original, min(agreement / max(covered, agreement), MOST_AGREEMENT))
            if expected < covered + LEAST_GAIN:
                return None
            if not follows:
                self._original = None
                return (
                    f"{name} holds {100 * covered:.1f} % of what was said here of late, and would hold "
                    f"{100 * expected:.1f} % with other rows; trim it again (--keep auto lets idle time do that)"
                )
            trim(original.path, self._draft.path, kept, "tokens emitted here", stop)
        except _Stopped:
            return None
        except (EdgespecError, OSError, ValueError) as error:
            self._original = None  # not tried again in this process
            return f"the drafter was not trimmed again: {error}"
        self._original = replace(original, ids=kept.ids)
        return (
            f"{name} was trimmed again for what is said here: {len(kept.ids)} rows, with {100 * expected:.1f} % of the "
            f"last tokens among them instead of {100 * covered:.1f} %, from the next start on"
        )

    def _follows(self) -> bool:
        trim = inspect(self._draft.path).trim
        return trim is not None and trim.follows

    def _choice(self, original: Original, agreement: float) -> tuple[Kept, float]:
        """Rows, and the share of what was said lately that they foresee; agreement: of the whole head."""
        vocabulary = read_vocabulary(original.path, read_header(original.path))
        counts = whole(self.usage.counts)
        kept = keep_number(vocabulary, counts, self._best(vocabulary, counts, agreement))
        return replace(kept, follows=True), foreseen(vocabulary, counts, len(kept.ids), self.usage.recent)

    def _best(self, vocabulary: Vocabulary, counts: NDArray[np.int64], agreement: float) -> int:
        sizes = sizes_of(self._target.shape, self._draft.shape)
        least = len(always_kept(vocabulary))
        return best_rows(least, len(vocabulary), expected_coverage(vocabulary, counts), sizes, agreement, DEPTH)


def whole(counts: NDArray[np.floating]) -> NDArray[np.int64]:
    """Decayed counts in whole numbers, one that is left of half a token among them."""
    found: NDArray[np.int64] = np.floor(counts + 0.5).astype(np.int64)
    return found


def _original(draft: Source) -> Original:
    trim = inspect(draft.path).trim
    if trim is None:
        raise ModelUnusable(f"{draft.path} is no trimmed drafter by now; name it again with -d")
    return find_original(draft.path, read_header(draft.path), trim)


def _stopping(cancelled: Callable[[], bool]) -> Callable[[float], None]:
    def look(_: float) -> None:
        if cancelled():
            raise _Stopped

    return look
