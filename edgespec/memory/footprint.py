"""Bytes by component and device: what a prediction, a measurement and a plan all speak of.

Components: "weights", "kv", "recurrent state", "compute", "scratch", "output", "vocabulary", "python", "runtime", the
same of a drafter with "draft " in front, "program" and "margin". Devices: "cpu" and the runtime's names ("CUDA0", ...).
Not covered: where the figures come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CPU = "cpu"
# Source of weights that are used as they lie in the file.
MAPPED = "tensor table: mapped as they are"
# Source of weights that pass through memory: the system takes their pages whenever it needs them.
STREAMED = "tensor table: the largest layer, read from the file in every pass"


@dataclass(frozen=True)
class Item:
    """source: where the figure comes from, a line of the runtime or of ours."""

    component: str
    device: str
    n_bytes: int
    source: str


@dataclass(frozen=True)
class Footprint:
    """A sum of items; several may share a component and a device."""

    items: tuple[Item, ...] = ()

    @property
    def total_bytes(self) -> int:
        return sum(item.n_bytes for item in self.items)

    def on(self, device: str) -> int:
        return sum(item.n_bytes for item in self.items if item.device == device)

    def of(self, component: str) -> int:
        return sum(item.n_bytes for item in self.items if item.component == component)

    @property
    def mapped_bytes(self) -> int:
        """Weights on the processor that lie in memory as pages of their file."""
        return sum(item.n_bytes for item in self.items if item.source == MAPPED and item.device == CPU)

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(self.items + other.items)


def joined(parts: Iterable[Footprint]) -> Footprint:
    return Footprint(tuple(item for part in parts for item in part.items))
