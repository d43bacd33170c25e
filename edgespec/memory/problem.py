"""What a plan is made from: what the user fixed, how much room there is, what can draft, how bytes are predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgespec.memory.configuration import Configuration, Placement
from edgespec.memory.footprint import CPU, Footprint
from edgespec.memory.methods import Method
from edgespec.memory.times import UNMEASURED, Machine, ModelTimes
from edgespec.settings import WITH_PROBABILITIES, Settings
from edgespec.types import KV_TYPES

MAX_DEFAULT_CONTEXT = 4096
# Shorter contexts that are tried where the user asked for none: useful ones for the sake of a drafter, the others only
# where nothing else fits.
USEFUL_CONTEXTS = (3072, 2048)
LEAST_CONTEXTS = (1536, 1024, 768, 512)


@dataclass(frozen=True)
class Room:
    """Bytes of a device that may be taken; "cpu" is the processor's memory."""

    device: str
    free_bytes: int


@dataclass(frozen=True)
class Tier:
    """What the user notices apart from speed."""

    n_ctx: int
    kv_type: str


@dataclass(frozen=True)
class Problem:
    """A model to plan for.

    predict  bytes of a configuration; its "draft ..." items depend on `draft` and `choice` alone, the others on
             anything but the details of `draft`; and bytes rise with context, rows, leaves, n_ubatch, window and width
             of a cache's type (the search leaves out what these rule out)
    rooms    by device, the processor's among them
    methods  what can draft; plain decoding is always there
    streams  weights need no room on the processor: they are read from the file in every pass
    """

    settings: Settings
    target: ModelTimes
    n_ctx_train: int
    rooms: tuple[Room, ...]
    methods: tuple[Method, ...]
    predict: Callable[[Configuration], Footprint]
    machine: Machine = UNMEASURED
    n_threads: int | None = None
    streams: bool = False

    @property
    def free_bytes(self) -> int:
        """What all devices and the budget leave together."""
        room = sum(room.free_bytes for room in self.rooms)
        return room if self.settings.budget is None else min(room, self.settings.budget)

    @property
    def insists(self) -> bool:
        """The user named a source of drafts, so that it drafts wherever it fits."""
        return self.settings.method not in ("auto", "plain") or self.settings.draft not in (None, "none")

    @property
    def usable(self) -> tuple[Method, ...]:
        """The methods that the user's words allow."""
        asked = self.settings
        if asked.method == "plain" or asked.draft == "none" or asked.nodes == 1:
            return ()
        fitting = [m for m in self.methods if asked.verify == "match" or m.name in WITH_PROBABILITIES]
        return tuple(m for m in fitting if asked.method in ("auto", m.name))

    @property
    def default_context(self) -> int:
        return self.settings.context or min(self.n_ctx_train, MAX_DEFAULT_CONTEXT)

    def contexts(self, shorter: tuple[int, ...]) -> tuple[int, ...]:
        """Those of `shorter` that may take the default's place; a context that the user asked for stays."""
        return () if self.settings.context else tuple(n for n in shorter if n < self.default_context)

    def tiers(self, kv_type: str) -> tuple[Tier, ...]:
        """Useful contexts, longest first."""
        return tuple(Tier(n, kv_type) for n in (self.default_context, *self.contexts(USEFUL_CONTEXTS)))

    def last_resorts(self) -> tuple[Tier, ...]:
        """Where nothing useful fits: shorter contexts first, since a smaller cache type changes what the model says;
        no such type where one was asked for."""
        short = [Tier(n, self.settings.kv_type) for n in self.contexts(LEAST_CONTEXTS)]
        smaller = KV_TYPES[1:] if self.settings.kv is None else ()
        useful = [tier for kv_type in smaller for tier in self.tiers(kv_type)]
        return (*short, *useful, *(Tier(n, kv_type) for kv_type in smaller for n in self.contexts(LEAST_CONTEXTS)))

    @property
    def least_tier(self) -> Tier:
        """What needs the fewest bytes of all that may be planned."""
        shortest = (self.default_context, *self.contexts(LEAST_CONTEXTS))[-1]
        return Tier(shortest, self.settings.kv or KV_TYPES[-1])

    def placements(self) -> tuple[Placement, ...]:
        """Every way to lay the target's weights, most layers on devices first."""
        gpus = [room for room in self.rooms if room.device != CPU]
        if not gpus:
            return (Placement(streamed=self.streams),)
        kinds = (False, True) if self.target.mixture is not None else (False,)
        layers = range(self.target.n_layers + 1, 0, -1)
        laid = [Placement(n, split, kind, self.streams) for n in layers for split in _splits(gpus) for kind in kinds]
        return (*laid, Placement(streamed=self.streams))


def _splits(gpus: list[Room]) -> list[tuple[float, ...]]:
    """Shares of the layers: by room, evenly, and all on one device."""
    if len(gpus) == 1:
        return [()]
    total = max(sum(room.free_bytes for room in gpus), 1)
    by_room = tuple(round(room.free_bytes / total, 3) for room in gpus)
    even = tuple(1.0 for _ in gpus)
    alone = [tuple(float(i == k) for i in range(len(gpus))) for k in range(len(gpus))]
    return list(dict.fromkeys([by_room, even, *alone]))
