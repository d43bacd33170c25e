"""Sources of drafts as a planner sees them: which ways to draft there are, what they yield, what they cost.

A method is a value, and a registry is a tuple of them. Not covered: drafting (speculation/drafters), trees by rows
(speculation/shapes.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgespec.memory.configuration import Configuration, DraftModel, Placement
from edgespec.memory.footprint import CPU
from edgespec.memory.times import UNMEASURED, Machine, ModelTimes, Where, pass_ms
from edgespec.speculation.policies import MAX_LEAVES, MOST_BEAMS, SMALL, n_beams_of
from edgespec.speculation.shapes import Shape
from edgespec.types import Choice, ContextSpec

TREE_WIDTH = 8
# Shares of the tokens a second that a leaner drafter keeps: assumed. QuantSpec (arXiv 2502.10424) reports acceptance
# above 90 % with 4-bit caches; windows lose what lies before them. Each is worth more than a tie (search.TIE), so that
# a drafter is made leaner only where room is short.
KV_KEPT = {"f16": 1.0, "q8_0": 0.985, "q4_0": 0.97}
WINDOW_KEPT: dict[int | None, float] = {None: 1.0, 1024: 0.97, 512: 0.95, 256: 0.92}


@dataclass(frozen=True)
class Variant:
    """A drafter for a given target and choice (None: no model drafts), and the share of speed that it keeps."""

    draft: DraftModel | None
    kept: float = 1.0


def _by_waves(shape: Shape) -> NDArray[np.int64]:
    """A small tree's inner nodes level by level; of a large one nearly all nodes are read, in full waves."""
    n_beams = n_beams_of(len(shape), TREE_WIDTH)
    waves = shape.waves(n_beams)
    if len(shape) > SMALL:
        waves = (n_beams,) * max(shape.depth, -(-len(shape) // n_beams))
    counts: NDArray[np.int64] = np.bincount(waves, minlength=MOST_BEAMS + 1)[1:]
    return counts


@dataclass(frozen=True)
class Method:
    """One source of drafts.

    name      what --method calls it, and Choice.drafter of its rounds
    by_rank   chances by rank for trees of a width, as speculation.acceptance.Acceptance.by_rank gives them, or by depth
              and rank
    sites     where what drafts may lie
    wave_ms   float64 [n]: milliseconds of a drafter's pass of 1, 2, ... n rows, at a site
    variants  ways to draft for a configuration that has its target, placement and choice, at a site: richest first,
              leanest last
    leaner    further steps down a ladder from a configuration of this method, each leaner than the one before
    passes    int64 [n]: how many passes of 1, 2, ... n rows it takes to draft a tree
    widths    most children of a node: 1 are chains
    max_depth tokens that can be drafted in a row; None: any number
    """

    name: str
    by_rank: Callable[[int], NDArray[np.float64]]
    sites: tuple[Placement, ...]
    wave_ms: Callable[[Placement], NDArray[np.float64]]
    variants: Callable[[Configuration, Placement], tuple[Variant, ...]]
    leaner: Callable[[Configuration], tuple[Configuration, ...]] = lambda configuration: ()
    passes: Callable[[Shape], NDArray[np.int64]] = _by_waves
    widths: tuple[int, ...] = (1, TREE_WIDTH)
    max_depth: int | None = None


def from_model(
    name: str,
    times: ModelTimes,
    weight_bytes: int,
    by_rank: Callable[[int], NDArray[np.float64]],
    devices: Sequence[str],
    machine: Machine = UNMEASURED,
) -> Method:
    """The method "model": a second model drafts, whole on one device (several would cost a wave its latency).

    name: the drafter's; devices: those there are, in the runtime's order.
    """
    return Method(
        "model",
        by_rank,
        tuple(_sites(devices, times)),
        lambda site: _wave_ms(site, devices, times, weight_bytes, MOST_BEAMS, machine),
        lambda base, site: _variants(base, lambda kv, window: _draft(name, base, site, kv, window)),
        _leaner,
    )


def from_masks(
    name: str,
    times: ModelTimes,
    weight_bytes: int,
    by_place: Callable[[int], NDArray[np.float64]],
    devices: Sequence[str],
    machine: Machine = UNMEASURED,
) -> Method:
    """The method "parallel": a model that was taught to fill in masks drafts a tree in one pass, a row a level.

    by_place: float64 [places, width], chances by depth and rank, of as many places as may be drafted.
    """
    n_places = len(by_place(1))

    def passes(shape: Shape) -> NDArray[np.int64]:
        return np.eye(n_places, dtype=np.int64)[shape.depth - 1] if shape.depth else np.zeros(n_places, np.int64)

    return Method(
        "parallel",
        by_place,
        tuple(_sites(devices, times)),
        lambda site: _wave_ms(site, devices, times, weight_bytes, n_places, machine),
        lambda base, site: _variants(base, lambda kv, window: _block_draft(name, base, site, kv, window)),
        _leaner,
        passes,
        max_depth=n_places,
    )


def _sites(devices: Sequence[str], times: ModelTimes) -> dict[Placement, str]:
    """Whole on the processor or on one device."""
    gpus = [device for device in devices if device != CPU]
    return {Placement(): CPU, **{_whole(i, len(gpus), times.n_layers): gpu for i, gpu in enumerate(gpus)}}


def _wave_ms(
    site: Placement, devices: Sequence[str], times: ModelTimes, weight_bytes: int, n: int, machine: Machine
) -> NDArray[np.float64]:
    where = Where(site, ((_sites(devices, times)[site], weight_bytes),))
    return pass_ms(times, where, range(1, n + 1), machine)


def _variants(base: Configuration, made: Callable[[str, int | None], DraftModel]) -> tuple[Variant, ...]:
    windows = [w for w in WINDOW_KEPT if w is None or w < base.target.n_ctx]
    return tuple(
        Variant(made(kv_type, window), kept * WINDOW_KEPT[window])
        for window in windows
        for kv_type, kept in KV_KEPT.items()
    )


def _whole(index: int, n_gpus: int, n_layers: int) -> Placement:
    split = tuple(float(i == index) for i in range(n_gpus)) if n_gpus > 1 else ()
    return Placement(n_layers + 1, split)


def _draft(name: str, base: Configuration, site: Placement, kv_type: str, window: int | None) -> DraftModel:
    """Rows of a wave, whatever the tree has: what of the text was left unread goes in front of them in silence."""
    choice, target = base.choice, base.target
    spec = ContextSpec(
        n_ctx=target.n_ctx,
        max_nodes=max(n_beams_of(choice.rows, choice.width), 2),
        max_leaves=1 if choice.width <= 1 else min(2 * choice.rows, MAX_LEAVES),
        kv_type=kv_type,
        n_ubatch=target.n_ubatch,
        n_threads=target.n_threads,
    )
    return DraftModel(name, spec, site, window)


def _block_draft(name: str, base: Configuration, site: Placement, kv_type: str, window: int | None) -> DraftModel:
    """A row for each level, all of them one path."""
    draft = _draft(name, base, site, kv_type, window)
    return replace(draft, context=replace(draft.context, max_nodes=max(base.choice.depth, 2), max_leaves=1))


def _leaner(configuration: Configuration) -> tuple[Configuration, ...]:
    """The drafter's cache at 4 bits, then windows of it."""
    draft = configuration.draft
    if draft is None:
        return ()
    draft = replace(draft, context=replace(draft.context, kv_type="q4_0"))
    limit = draft.window or configuration.target.n_ctx
    windows = [window for window in WINDOW_KEPT if window is not None and window < limit]
    return (
        replace(configuration, draft=draft),
        *(replace(configuration, draft=replace(draft, window=window)) for window in windows),
    )


def target_spec(base: ContextSpec, choice: Choice) -> ContextSpec:
    """The target's context with room for a choice's trees, which is what n_outputs_max and n_seq_max follow from."""
    return replace(
        base,
        max_nodes=max(choice.rows, 2),
        max_leaves=1 if choice.width <= 1 else min(choice.rows, MAX_LEAVES),
    )
