"""What `edgespec probe` tells, as values: devices, bytes by component, the plan and what it was chosen over.

Not covered: gathering it (probing), printing it (cli).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgespec.memory.footprint import Footprint
from edgespec.types import PlanLine


@dataclass(frozen=True)
class DeviceReport:
    """used_bytes: by other programs; limit: what bounds free_bytes, in words ("on this machine")."""

    name: str
    description: str
    total_bytes: int
    free_bytes: int
    used_bytes: int
    limit: str


@dataclass(frozen=True)
class Alternative:
    """tokens_per_s None: as a step down the ladder, whose speed was not worked out."""

    what: str
    total_bytes: int
    tokens_per_s: float | None
    why: str


@dataclass(frozen=True)
class MeasuredReport:
    """Of the plan's contexts opened whole, behind n_cells tokens of conversation, after a pass of full width.

    by_device   growth since before the load; predicted_bytes is the prediction for that very moment
    components  the runtime's own figures after loading
    """

    n_cells: int
    by_device: tuple[tuple[str, int], ...]
    predicted_bytes: int
    components: tuple[tuple[str, int], ...]

    @property
    def total_bytes(self) -> int:
        return sum(n_bytes for _, n_bytes in self.by_device)


@dataclass(frozen=True)
class MemoryReport:
    """Of one model.

    predicted      of a conversation that fills its context; the programs themselves take program_bytes more, and a
                   budget needs margin_bytes on top
    runtime        the runtime's own figures with nothing allocated, by component; () where it gives none
    least_bytes    the smallest budget at which speculation still pays; None where it never does
    shortfall      why it does not fit; then there is no plan, and predicted is of the weights alone
    """

    model: str
    note: str
    weight_bytes: int
    budget_bytes: int | None
    free_bytes: int
    program_bytes: int
    margin_bytes: int
    predicted: Footprint
    runtime: tuple[tuple[str, int], ...] = ()
    measured: MeasuredReport | None = None
    method: str = "plain"
    tokens_per_s: float = 0.0
    tokens_per_pass: float = 1.0
    speedup: float = 1.0
    least_bytes: int | None = None
    alternatives: tuple[Alternative, ...] = ()
    lines: tuple[PlanLine, ...] = ()
    warnings: tuple[str, ...] = ()
    shortfall: str = ""


@dataclass(frozen=True)
class ProbeReport:
    """models: the one asked for, or every known one, best first."""

    devices: tuple[DeviceReport, ...]
    models: tuple[MemoryReport, ...]
