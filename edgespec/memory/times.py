"""Milliseconds of a pass by its rows, for any placement: from a measured curve where there is one, else from bytes.

A pass reads every weight once, so a lone row takes bytes over bandwidth, device by device; further rows cost what they
cost relative to a lone one on the same kind of device and weights. These priors only have to rank configurations until
the machine has been measured (engine/calibrate.py); then the curve replaces them, and they only carry it over to other
placements. Not covered: growth with depth, prompts, activations that travel between devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgespec.memory.configuration import Placement
from edgespec.memory.footprint import CPU
from edgespec.speculation.cost import Curve

# 1B shape, 2 cores, f16 (docs/design.md section 8): about 2.5 GB in 69 ms; 0.7 GB of Q4_0 in 19 ms is the same.
CPU_BYTES_PER_S = 36e9
# Assumed, not measured: a laptop's graphics card (vendors' sheets say 270 to 450 GB/s). That it is far above the
# processor's is what decides; a card measured here says so itself.
GPU_BYTES_PER_S = 300e9
# Assumed, not measured: a solid-state disk. That it is far below memory is what decides until passes were timed.
DISK, DISK_BYTES_PER_S = "disk", 1e9
# A 4.4 M drafter (9 MB of f16, 0.25 ms of reading) takes 0.6 ms a step (docs/design.md section 8).
PASS_MS = 0.35

# Times of a pass over those of a lone row. Processor: docs/design.md section 8, host B, 2 cores, 1B shape, by weights.
Prior = tuple[tuple[int, ...], tuple[float, ...]]
F16: Prior = (1, 2, 4, 6, 8, 16, 32), (69, 88, 97, 109, 141, 222, 403)
Q8_0: Prior = (1, 2, 4, 8, 16, 32), (33, 64, 84, 122, 203, 362)
Q4_0: Prior = (1, 2, 4, 8, 16, 32), (19, 35, 50, 91, 138, 270)
# Assumed: bound by bandwidth up to some dozen rows (docs/design.md section 8 says as much of f16 on two cores).
GPU: Prior = (1, 8, 32, 64, 128), (100, 110, 150, 220, 400)


@dataclass(frozen=True)
class Machine:
    """Bytes a second that passes read on a device, where known; the priors elsewhere."""

    bytes_per_s: tuple[tuple[str, float], ...] = ()

    def of(self, device: str) -> float:
        known = {CPU: CPU_BYTES_PER_S, DISK: DISK_BYTES_PER_S, **dict(self.bytes_per_s)}
        return known.get(device, GPU_BYTES_PER_S)


UNMEASURED = Machine()


@dataclass(frozen=True)
class Mixture:
    """Experts of a mixture: their bytes, how many there are, how many of them a token uses."""

    n_bytes: int
    n_experts: int
    n_used: int

    def share(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of the experts' bytes, what a pass reads when its rows choose independently."""
        return 1 - (1 - self.n_used / self.n_experts) ** rows.astype(np.float64)


@dataclass(frozen=True)
class Where:
    """A placement and the bytes of weights it puts on each device."""

    placement: Placement
    weights: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Measured:
    """A cost curve and where the weights lay when it was taken."""

    curve: Curve
    where: Where


@dataclass(frozen=True)
class ModelTimes:
    """What the time of a model's passes depends on.

    quantisation  llama.cpp's name: "Q4_K_M", "F16"
    n_layers      repeating layers
    table_bytes   the token table, of which a pass reads only a few rows unless it is the head as well
    tied          the head is the token table
    weight_bytes  of the whole file, as far as that is needed: for weights that are streamed
    """

    quantisation: str
    n_layers: int
    table_bytes: int = 0
    tied: bool = False
    mixture: Mixture | None = None
    measured: Measured | None = None
    weight_bytes: int = 0


def pass_ms(
    model: ModelTimes, where: Where, rows: Sequence[int] | NDArray[np.int64], machine: Machine
) -> NDArray[np.float64]:
    """float64 [len(rows)]: milliseconds of a pass of so many rows."""
    widths = np.asarray(rows, np.int64)
    if model.measured is None:
        return _prior_ms(model, where, widths, machine)
    measured = np.array([model.measured.curve.ms(int(n)) for n in widths])
    if where == model.measured.where:
        return measured
    carried = _prior_ms(model, where, widths, machine) / _prior_ms(model, model.measured.where, widths, machine)
    moved: NDArray[np.float64] = measured * carried
    return moved


def _prior_ms(model: ModelTimes, where: Where, rows: NDArray[np.int64], machine: Machine) -> NDArray[np.float64]:
    on = dict(where.weights)
    if where.placement.streamed:  # only a part of them counts as bytes
        on[CPU] = model.weight_bytes - sum(n_bytes for device, n_bytes in on.items() if device != CPU)
    if not model.tied or where.placement.n_gpu_layers > model.n_layers:
        on[CPU] = max(on.get(CPU, 0) - model.table_bytes, 0)
    experts = _experts(model.mixture, on, where.placement)
    total = np.full(len(rows), PASS_MS)
    one = np.ones(1, np.int64)
    for device, n_bytes in on.items():
        relative = _relative(GPU if device != CPU else _by_weights(model.quantisation), rows)
        n_experts = experts.get(device, 0)
        read, alone = np.full(len(rows), float(n_bytes)), float(n_bytes)
        if model.mixture is not None:
            read = n_bytes - n_experts * (1 - model.mixture.share(rows))
            alone = n_bytes - n_experts * (1 - float(model.mixture.share(one)[0]))
        # Bound by arithmetic or by reading, whichever takes longer (benchmarks/results/moe_curve.json), and no dearer
        # than as many passes of one row.
        ms = 1e3 * np.minimum(np.maximum(alone * relative, read), alone * rows) / machine.of(device)
        if device == CPU and where.placement.streamed:
            ms = np.maximum(ms, 1e3 * read / machine.of(DISK))
        total += ms
    return total


def _experts(mixture: Mixture | None, on: Mapping[str, int], placement: Placement) -> dict[str, int]:
    """Bytes of experts on each device: all on the processor where the placement says so, else as all weights lie."""
    if mixture is None:
        return {}
    if placement.experts_on_cpu:
        return {CPU: min(mixture.n_bytes, on.get(CPU, 0))}
    total = max(sum(on.values()), 1)
    return {device: mixture.n_bytes * n_bytes // total for device, n_bytes in on.items()}


def _by_weights(quantisation: str) -> Prior:
    """Types that are wide in memory are bound by reading, narrow ones by arithmetic: the nearest one measured."""
    name = quantisation.upper()
    if name.startswith(("F16", "F32", "BF16")):
        return F16
    return Q8_0 if name.startswith(("Q8", "Q6")) else Q4_0


def _relative(prior: Prior, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Straight between measured widths, in proportion beyond the last."""
    widths, times = prior
    beyond = np.maximum(rows / widths[-1], 1.0)
    found: NDArray[np.float64] = np.interp(rows, widths, times) / times[0] * beyond
    return found
