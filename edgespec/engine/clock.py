"""Where a round's time goes: a context that notes how long the runtime took, and lets a cancel reach any prefill."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from edgespec.backends.base import Context, Progress, State
from edgespec.types import Caps, ContextSpec, Ids, Rows, Span


class TimedContext:
    """Passes every call on.

    ms         sum of the runtime's milliseconds
    cancelled  asked in prefills that bring no check of their own
    """

    def __init__(self, inner: Context) -> None:
        self._inner = inner
        self.ms = 0.0
        self.cancelled: Callable[[], bool] | None = None

    @property
    def caps(self) -> Caps:
        return self._inner.caps

    @property
    def spec(self) -> ContextSpec:
        return self._inner.spec

    def exchange(self, inner: Context) -> None:
        """Stand for another context from now on; whoever holds this one notices nothing. The old one is not closed."""
        self._inner = inner

    def length(self, slot: int) -> int:
        return self._inner.length(slot)

    def prefill(
        self,
        slot: int,
        tokens: Sequence[int] | Ids,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        start = time.perf_counter()
        try:
            self._inner.prefill(slot, tokens, progress, cancelled or self.cancelled)
        finally:
            self.ms += 1e3 * (time.perf_counter() - start)

    def evaluate(self, spans: Sequence[Span], cancelled: Callable[[], bool] | None = None) -> Rows:
        start = time.perf_counter()
        try:
            return self._inner.evaluate(spans, cancelled)
        finally:
            self.ms += 1e3 * (time.perf_counter() - start)

    def keep(self, slot: int, path: Sequence[int]) -> None:
        start = time.perf_counter()
        self._inner.keep(slot, path)
        self.ms += 1e3 * (time.perf_counter() - start)

    def truncate(self, slot: int, length: int) -> None:
        self._inner.truncate(slot, length)

    def export_state(self, slot: int) -> State:
        return self._inner.export_state(slot)

    def import_state(self, slot: int, blob: State) -> None:
        self._inner.import_state(slot, blob)

    def close(self) -> None:
        self._inner.close()
