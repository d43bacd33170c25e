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
from edgespec.gguf.vocabulary import read_vocabulary
from edgespec.memory.rows import best_for
from edgespec.memory.source import Source
from edgespec.speculation.usage import LEAST_RECENT, Usage
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
        self._original: Original | None = _original(draft)[0]  # None: nothing is to be done any more
        self._n_more = 0  # tokens to be said before rows are judged again
        self._key = learnt.key(target.path, self._original.path, "emitted")
        self.usage = Usage(self._original.n_vocab)
        found = tables.load(self._key)
        self.warning = found.warning
        if found.arrays is not None and not self.usage.take(found.arrays):
            self.warning = tables.discard(self._key, "it counts another vocabulary")

    def heard(self, tokens: Sequence[int]) -> None:
        """Tokens of an answer."""
        self.usage.observe(tokens)
        self._n_more -= len(tokens)

    def keep(self) -> str | None:
        """Save the counts; a warning where that failed."""
        return tables.save(self._key, self.usage.arrays())

    def tidy(self, agreement: Callable[[float], float], cancelled: Callable[[], bool] = lambda: False) -> str | None:
        """Trim again where too little of what was said lately is kept; a line about it, None where nothing was done.

        agreement: chance that the draft of the whole head is the target's draw, for the share of draws that this one
        has rows for. Cancelled in the middle, the old file stands, and it is tried again.
        """
        if self._original is None or self._n_more > 0 or not self._misses(self._original):
            return None
        try:
            said = self._judge(agreement, _stopping(cancelled))
        except _Stopped:
            return None
        except (EdgespecError, OSError, ValueError) as error:
            self._original = None
            return f"the drafter was not trimmed again: {error}"
        self._n_more = LEAST_RECENT
        return said

    def _misses(self, original: Original) -> bool:
        covered = self.usage.coverage(original.ids)
        return covered is not None and covered < LEAST_COVERAGE

    def _judge(self, agreement: Callable[[float], float], stop: Callable[[float], None]) -> str | None:
        """Once rows were cut, or the user told, nothing more is done in this process."""
        stop(0.0)
        original, follows = _original(self._draft)  # another process may have trimmed it since
        if not self._misses(original):
            return None
        covered, name = self.usage.coverage(original.ids) or 0.0, self._draft.path.name
        kept, expected = self._choice(original, min(agreement(covered), MOST_AGREEMENT), stop)
        if expected < covered + LEAST_GAIN:
            return None
        if not follows:
            self._original = None
            return (
                f"{name} holds {100 * covered:.1f} % of what was said here of late, and would hold "
                f"{100 * expected:.1f} % with other rows; trim it again (--keep auto lets idle time do that)"
            )
        trim(original.path, self._draft.path, kept, "tokens emitted here", stop)
        self._original = None
        return (
            f"{name} was trimmed again for what is said here: {len(kept.ids)} rows, with {100 * expected:.1f} % of the "
            f"last tokens among them instead of {100 * covered:.1f} %, from the next start on"
        )

    def _choice(self, original: Original, agreement: float, stop: Callable[[float], None]) -> tuple[Kept, float]:
        """Rows, and the share of what was said lately that they foresee; agreement: of the whole head."""
        vocabulary = read_vocabulary(original.path, read_header(original.path))
        stop(0.0)
        counts, least = whole(self.usage.counts), len(always_kept(vocabulary))
        coverage = expected_coverage(vocabulary, counts)

        def asked(k: int) -> float:
            stop(0.0)
            return coverage(k)

        k = best_for(self._target.shape, self._draft.shape, least, asked, agreement)
        kept = replace(keep_number(vocabulary, counts, k), follows=True)
        stop(0.0)
        return kept, foreseen(vocabulary, counts, len(kept.ids), self.usage.recent)


def whole(counts: NDArray[np.floating]) -> NDArray[np.int64]:
    """Decayed counts in whole numbers, one that is left of half a token among them."""
    found: NDArray[np.int64] = np.floor(counts + 0.5).astype(np.int64)
    return found


def _original(draft: Source) -> tuple[Original, bool]:
    """The whole drafter, and whether its rows may be chosen anew."""
    trim = inspect(draft.path).trim
    if trim is None:
        raise ModelUnusable(f"{draft.path} is no trimmed drafter by now; name it again with -d")
    return find_original(draft.path, read_header(draft.path), trim), trim.follows


def _stopping(cancelled: Callable[[], bool]) -> Callable[[float], None]:
    def look(_: float) -> None:
        if cancelled():
            raise _Stopped

    return look
