"""What drafts and where the weights lie, with the tokens a second to expect: everything that changes speed much.

    tokens a second = tokens of the best tree / (drafter's waves + target's pass of that width + ROUND_MS)

Bytes follow from an arm, the context, cache types, windows and n_ubatch (search.py). Not covered: whether it fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgespec.memory.configuration import Placement
from edgespec.memory.methods import Method
from edgespec.settings import Settings
from edgespec.speculation.cost import Curve
from edgespec.speculation.policies import MAX_LEVELS, SMALL
from edgespec.speculation.regimes import regime
from edgespec.speculation.shapes import Trees, best_trees
from edgespec.types import MAX_NODES, PLAIN, Choice

# Rows that are tried where the user named none: every width up to 8, then landings of kernels that work on 4 rows at a
# time (docs/design.md section 8), up to where no curve here paid.
ROWS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 64)
MAX_DEPTH = 16
# The same where passes cost nearly alike at any width (speculation/regimes.py); the last ones only once timed.
WIDE_ROWS = (2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
MOST_UNTIMED = 256
# Most children of a node of a large tree (SpecExec's code: 16).
LARGE_WIDTH = 16
# --exact keeps f16 rows alike in passes of up to so many (docs/exact.md).
MAX_EXACT_ROWS = 32
# What a round takes besides passes: drawing, walking, bookkeeping (benchmarks/engine_time.py).
ROUND_MS = 0.4
# Growth stops by itself where its drafter is unsure, so the deepest of depths that are as good as this is taken.
DEEPER = 0.005


@dataclass(frozen=True)
class Arm:
    """method None: plain decoding; site: where the drafter lies."""

    method: Method | None
    choice: Choice
    placement: Placement
    site: Placement
    tokens_per_pass: float
    tokens_per_s: float


@dataclass(frozen=True, eq=False)
class Table:
    """Every choice of a method's rows, depth and width, as parallel arrays; depths of the same rows and width rise.

    rows, tokens  int64 [n], float64 [n]; waves int64 [n, k], passes of 1, 2, ... k rows that drafting takes
    starts        int64 [k], where each pair of rows and width begins
    """

    choices: tuple[Choice, ...]
    rows: NDArray[np.int64]
    tokens: NDArray[np.float64]
    waves: NDArray[np.int64]
    starts: NDArray[np.int64]

    def best(self, pass_ms: NDArray[np.float64], wave_ms: NDArray[np.float64]) -> list[tuple[Choice, float, float]]:
        """The best depth for each number of rows and width: the choice, its tokens and its tokens a second.

        pass_ms float64 [n], the target's pass of each choice; wave_ms float64 [k].
        """
        rates = 1e3 * self.tokens / (pass_ms + self.waves @ wave_ms + ROUND_MS)
        most = np.maximum.reduceat(rates, self.starts)
        limit = np.repeat((1 - DEEPER) * most, np.diff(self.starts, append=len(rates)))
        deepest = np.maximum.reduceat(np.where(rates >= limit, np.arange(len(rates)), 0), self.starts)
        return [
            (self.choices[i], tokens, rate)
            for i, tokens, rate in zip(
                deepest.tolist(), self.tokens[deepest].tolist(), rates[deepest].tolist(), strict=True
            )
        ]


def plain_rate(pass_ms: float) -> float:
    return 1e3 / (pass_ms + ROUND_MS)


def table(method: Method, asked: Settings, measured: Curve | None, streams: bool = False) -> Table:
    """Every choice that the user's words allow; where passes were timed, of the widths that were (cost.py says why), or
    up to the widest one where they cost nearly alike. streams: weights are read from a disk in every pass."""
    choices: list[Choice] = []
    tokens: list[float] = []
    waves: list[NDArray[np.int64]] = []
    starts: list[int] = []
    for width in _widths(method, asked):
        rows = _rows(asked, measured, streams, width)
        trees = _trees(method, asked, max(rows), width)
        for n in rows:
            starts.append(len(choices))
            for levels in _depths(method, asked, n, width):
                choices.append(Choice(method.name, n, levels, LARGE_WIDTH if n > SMALL and width > 1 else width))
                tokens.append(float(trees[levels].tokens[levels, n]))
                waves.append(method.passes(trees[levels].shape(n, levels)))
    return Table(
        tuple(choices),
        np.array([c.rows for c in choices], np.int64),
        np.array(tokens),
        np.array(waves, np.int64).reshape(len(choices), -1),
        np.array(starts, np.int64),
    )


def choice_of(table: Table, rows: int, width: int, depth: int) -> Choice:
    """The deepest choice of so many rows and children that is no deeper than `depth`, or one made up to it."""
    known = [c for c in table.choices if (c.rows, c.width) == (rows, width) and c.depth <= depth]
    return max(known, key=lambda c: c.depth) if known else PLAIN


def _widths(method: Method, asked: Settings) -> tuple[int, ...]:
    allowed = {"auto": (1, MAX_NODES), "chain": (1, 1), "tree": (2, MAX_NODES)}[asked.shape]
    return tuple(width for width in method.widths if allowed[0] <= width <= allowed[1])


def _rows(asked: Settings, measured: Curve | None, streams: bool, width: int) -> tuple[int, ...]:
    if asked.nodes is not None:
        return (asked.nodes,)
    timed = measured.rows if measured is not None and len(measured.rows) > 1 else ()
    widths, most = timed or ROWS, ROWS[-1]
    if width > 1 and (streams or (timed and measured is not None and regime(measured).wide)):
        widths, most = tuple(sorted({*WIDE_ROWS, *timed})), timed[-1] if timed else MOST_UNTIMED
    if asked.exact and asked.kv_type == "f16":
        most = min(most, MAX_EXACT_ROWS)
    return tuple(n for n in widths if 2 <= n <= most) or (2,)


def _trees(method: Method, asked: Settings, rows: int, width: int) -> Mapping[int, Trees]:
    """Best trees by depth; chances that depend on the depth make another table for each."""
    depths, chances = range(1, max(_depths(method, asked, rows, width)) + 1), method.by_rank(width)
    if chances.ndim > 1:
        return {depth: best_trees(chances, rows, depth, width) for depth in depths}
    return dict.fromkeys(depths, best_trees(chances, rows, depths[-1], width))


def _depths(method: Method, asked: Settings, rows: int, width: int) -> Sequence[int]:
    """A chain is as deep as it has rows; a tree may be any depth."""
    most = min(rows - 1, method.max_depth or rows)
    if asked.depth is not None:
        return (min(asked.depth, most),)
    if width == 1:
        return (most,)
    if rows > SMALL:
        return range(min(4, most), min(most, MAX_LEVELS) + 1, 4)
    return range(1, min(most, MAX_DEPTH) + 1)
