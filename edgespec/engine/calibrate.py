"""The clock behind speculation/cost.py: times passes of rising width in an opened context, within a budget.

Each width is timed in rounds that run there and back through a stage of widths, and the shortest time counts: what
disturbs a pass on a shared machine (a core taken away, a page read from disk) only ever adds to it, so the minimum of
passes apart in time is the pass undisturbed, where a median needs more than half of a few passes to be. Widths whose
two shortest times disagree are timed again. Figures come in the order of their worth and end with the budget: narrow
widths, wider ones, their growth with depth, the widest. A mixture's experts are chosen by the text, so its passes hold
stretches of real text, another one each time. Not covered: keeping the figures (store/calibration.py), the drafter's
passes, what `keep` costs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from edgespec.backends.base import Context
from edgespec.errors import BadSetting, Cancelled
from edgespec.speculation.cost import Curve
from edgespec.speculation.tree import chain
from edgespec.types import Ids, Span

SLOT = 0
# A disturbed pass may take longer than predicted; first use must stay under five seconds.
BUDGET_S = 4.5
# Stages in the order of their worth; a width of the next stage is not begun before this one was timed twice.
NARROW: tuple[tuple[int, ...], ...] = ((1, 2, 4), (8, 3, 6), (16, 5, 7, 12))
MIDDLE = (24, 32)
WIDE: tuple[tuple[int, ...], ...] = ((48, 64), (96, 128), (192, 256))
# Cached tokens that passes are timed behind, and how many more show the growth: fewer than MIN_DEEPER drown in noise.
SHORT, DEEPER, MIN_DEEPER = 128, 1024, 256
DEEP_WIDTHS = (1, 4, 16, 32, 64)
LEAST_CHUNK = 8
# Shares of the budget, and of what is left of it, that tokens in front of the passes may take.
SHORT_SHARE, DEEP_SHARE = 0.05, 0.4
# Two times agree when they are as near as this; a width whose shortest ones do not is timed up to N_MOST times.
AGREE, N_TIMES, N_MOST = 0.05, 5, 10
NOISE_LEAST, NOISE_MOST = 0.03, 0.10
# Where weights are streamed or copied in every pass: widths in the order of their worth, 1 once more for the noise. A
# next one may take DEARER times the dearest so far; beyond one that took RISES times one of a quarter its rows, none is
# tried.
FAR_APART = (64, 256, 16, 1, 128, 32, 512)
DEARER, RISES = 2.0, 1.6
WIDE_BUDGET_S = 60.0
# A cancel reaches into passes that take longer: asking costs a call for every node of the graph.
SLOW_MS = 1000.0
# So many more passes must fit into the budget where a first one only warms up.
FEW_MORE = 6
# A pass begins only if its predicted time, with this margin, fits into what is left.
MARGIN = 1.2


def measure(
    context: Context,
    n_vocab: int,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
    cancelled: Callable[[], bool] = lambda: False,
    text: Ids | None = None,
) -> Curve:
    """The cost curve of a context as it was opened, from slot 0, which is left as it was found.

    text: ids of a text whose consecutive tokens the passes hold, as varied as in use; None: random ids, which cost the
    same unless experts are chosen by the text.
    A lone row is timed whatever it takes; a curve of that width alone says that the model is too slow for the budget.
    Widths end at caps.max_nodes. Raises BadSetting where the state cannot be rolled back, Cancelled, and what the
    context raises.
    """
    start = context.length(SLOT)
    passes = _passes(context, n_vocab, budget_s, clock, cancelled, text)
    try:
        passes.add(1)  # warms up: what is not in memory yet is read now
        if passes.deepen(min(SHORT, (context.spec.n_ctx - start) // 2), SHORT_SHARE * budget_s):
            passes.times.clear()
            passes.add(1)
        for stage in NARROW:
            passes.stage(stage)
        passes.settle(2)
        passes.stage(MIDDLE)
        passes.settle(N_TIMES)
        depth = context.length(SLOT)
        slopes = passes.slopes()
        for stage in WIDE:
            passes.stage(stage)
        passes.settle(N_TIMES)
        return _curve(depth, passes.times, slopes)
    finally:
        context.truncate(SLOT, start)


def _passes(
    context: Context,
    n_vocab: int,
    budget_s: float,
    clock: Callable[[], float],
    cancelled: Callable[[], bool],
    text: Ids | None,
) -> _Passes:
    if context.caps.max_rollback is not None:
        raise BadSetting("passes cannot be timed on a model whose state cannot be rolled back; it decodes plainly")
    tokens = _random_ids(n_vocab) if text is None or len(text) < 2 else _stretches(text)
    return _Passes(context, tokens, clock, clock() + budget_s, cancelled)


def _random_ids(n_vocab: int) -> Callable[[int], Ids]:
    """So many random ids, others every time."""
    rng = np.random.default_rng(0)
    return lambda n: rng.integers(0, n_vocab, n).astype(np.int32)


def _stretches(text: Ids) -> Callable[[int], Ids]:
    """So many consecutive tokens of a text of 2 or more, each stretch where the last one ended; round at its end."""
    at = 0

    def next_stretch(n: int) -> Ids:
        nonlocal at
        stretch = text[(at + np.arange(n)) % len(text)]
        at = (at + (n if n % len(text) else n + 1)) % len(text)  # a stretch as long as the text would come again
        return stretch

    return next_stretch


def measure_wide(
    context: Context,
    n_vocab: int,
    budget_s: float = WIDE_BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
    cancelled: Callable[[], bool] = lambda: False,
    text: Ids | None = None,
) -> Curve:
    """The same where a pass takes seconds whatever its width: few widths, each timed once, in the order of their worth.

    A lone row is timed three times, the first of which warms up; what its other two differ by is the noise. Widths
    beyond the knee are left out. Where a pass is that slow, the first one counts, and the first wide one is timed
    whatever it takes: without it every row would seem to cost a pass. So is a lone one again that took longer.
    Raises what `measure` raises.
    """
    start = context.length(SLOT)
    passes = _passes(context, n_vocab, budget_s, clock, cancelled, text)
    try:
        passes.add(1)
        if FEW_MORE * passes.times[1][0] <= 1e3 * budget_s:
            passes.times.clear()
            passes.add(1)
        for width in FAR_APART:
            dearest = max(times[0] for times in passes.times.values())
            due = len(passes.times) == 1 or passes.affords(DEARER * dearest)
            if width <= context.caps.max_nodes and passes.could_matter(width) and due:
                passes.add(width)
        if passes.times[1][0] > min(times[0] for times in passes.times.values()):  # it found the file out of memory
            passes.add(1)
        shortest = {width: passes.times[width][0] for width in sorted(passes.times)}
        return Curve(start, tuple(shortest), tuple(shortest.values()), noise=noise(passes.times))
    finally:
        context.truncate(SLOT, start)


class _Passes:
    """Passes in slot 0 and their times: milliseconds by width, shortest first."""

    def __init__(
        self,
        context: Context,
        tokens: Callable[[int], Ids],
        clock: Callable[[], float],
        deadline: float,
        cancelled: Callable[[], bool],
    ) -> None:
        self._context, self._clock, self._deadline, self._cancelled = context, clock, deadline, cancelled
        self._tokens = tokens
        self._ms_per_token = math.inf
        self.times: dict[int, list[float]] = {}

    def _pass_ms(self, width: int) -> float:
        """One pass of a chain, dropped again."""
        if self._cancelled():
            raise Cancelled("stopped while timing passes")
        span = Span(SLOT, chain(self._tokens(width).tolist()), np.arange(width, dtype=np.int32))
        start = self._clock()
        slow = any(times[0] > SLOW_MS for times in self.times.values())
        self._context.evaluate([span], self._cancelled if slow else None)
        ms = max(1e3 * (self._clock() - start), 1e-6)
        self._context.keep(SLOT, [])
        self._ms_per_token = min(self._ms_per_token, ms / width)
        return ms

    def add(self, width: int) -> None:
        self.times[width] = sorted([*self.times.get(width, []), self._pass_ms(width)])

    def could_matter(self, width: int) -> bool:
        """Whether a pass of this width could be the one to choose. Between two that cost the same the wider one is; a
        wider one than all is not where the last rise was steep, since tokens rise slowly with the rows."""
        if width == 1:
            return True
        narrower = max(w for w in self.times if w < width)
        wider = min((w for w in self.times if w > width), default=None)
        if wider is not None:
            return self.times[wider][0] > (1 + AGREE) * self.times[narrower][0]
        before = max((w for w in self.times if w <= narrower // 4), default=narrower)
        return self.times[narrower][0] <= RISES * self.times[before][0]

    def affords(self, ms: float) -> bool:
        return self._clock() + MARGIN * ms / 1e3 <= self._deadline

    def _predicted(self, width: int) -> float:
        """Its shortest time so far, or that of the next narrower width in proportion."""
        known = max(w for w in self.times if w <= width)
        return self.times[known][0] * width / known

    def stage(self, widths: Sequence[int]) -> None:
        """There and back through the widths that can be timed twice; others are left out."""
        there: list[int] = []
        promised = 0.0
        for width in widths:
            n_missing = 2 - min(len(self.times.get(width, [])), 1)
            wanted = width <= self._context.caps.max_nodes
            if wanted and self.affords(promised + n_missing * self._predicted(width)):
                self.add(width)
                there.append(width)
                promised += self._predicted(width)
        for width in reversed(there):
            if self.affords(self._predicted(width)):
                self.add(width)

    def settle(self, n_times: int) -> None:
        """Further rounds through the widths that have fewer times than they should, as the budget allows."""
        while True:
            short = [w for w in sorted(self.times) if len(self.times[w]) < self._n_wanted(w, n_times)]
            affordable = [w for w in short if self.affords(self._predicted(w))]
            if not affordable:
                return
            for width in affordable:
                if self.affords(self._predicted(width)):
                    self.add(width)

    def _n_wanted(self, width: int, n_times: int) -> int:
        """More where the two shortest times disagree, or where a wider pass was clearly quicker."""
        times = self.times[width]
        if len(times) > 1 and times[1] > times[0] * (1 + AGREE):
            return N_MOST
        dearer = any(w > width and other[0] < times[0] * (1 - AGREE) for w, other in self.times.items())
        return n_times + n_times // 2 if dearer else n_times

    def deepen(self, n_most: int, budget_s: float) -> int:
        """Commit up to n_most tokens, as many as the time for one so far lets hope for; how many they were.

        The first tokens tell how much quicker prompts are read than lone rows, so a slow start is made up for.
        """
        done = 0
        while True:
            n = int(min(n_most - done, 1e3 * budget_s / self._ms_per_token))
            if n < LEAST_CHUNK:
                return done
            start = self._clock()
            self._context.prefill(SLOT, self._tokens(n), cancelled=self._cancelled)
            took_s = self._clock() - start
            self._ms_per_token = min(self._ms_per_token, max(1e3 * took_s / n, 1e-6))
            budget_s -= took_s
            done += n

    def slopes(self) -> dict[int, float]:
        """Milliseconds that a cached token more adds to a pass, by width; {} where the budget allows too little depth.

        Comes back to the present depth. Growth within the noise of the times counts as 0.
        """
        here = self._context.length(SLOT)
        share_s = DEEP_SHARE * (self._deadline - self._clock()) / MARGIN
        room = min(DEEPER, self._context.spec.n_ctx - here)
        if min(room, 1e3 * share_s / self._ms_per_token) < MIN_DEEPER:
            return {}
        n = self.deepen(room, share_s)
        deep: dict[int, list[float]] = {width: [] for width in DEEP_WIDTHS if width in self.times}
        for _ in range(N_TIMES):
            for width, times in deep.items():
                if self.affords(times[0] if times else 2 * self._predicted(width)):
                    deep[width] = sorted([*times, self._pass_ms(width)])
        self._context.truncate(SLOT, here)
        more = {w: times[0] - self.times[w][0] for w, times in deep.items() if len(times) == N_TIMES}
        least = noise(self.times)
        return {w: (ms if ms > least * self.times[w][0] else 0.0) / n for w, ms in more.items()}


def noise(times: dict[int, list[float]]) -> float:
    """How far the two shortest times of a width are apart, relative, in the middle of the widths and within reason."""
    apart = [ms[1] / ms[0] - 1 for ms in times.values() if len(ms) > 1]
    return float(np.clip(np.median(apart), NOISE_LEAST, NOISE_MOST)) if apart else NOISE_MOST


def _curve(depth: int, times: dict[int, list[float]], slopes: dict[int, float]) -> Curve:
    """Shortest times of the widths that were timed more than once, and of a lone row in any case."""
    shortest = {w: times[w][0] for w in sorted(times) if w == 1 or len(times[w]) > 1}
    return Curve(depth, tuple(shortest), tuple(shortest.values()), tuple(slopes), tuple(slopes.values()), noise(times))
