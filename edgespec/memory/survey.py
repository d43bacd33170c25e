"""What a plan is made from, gathered for a model on this machine: shapes of files, room by device, what passes cost.

Figures about the machine come from store/calibration.py, what answering taught from store/learnt.py; both fall back on
priors. Not covered: measuring passes (engine/calibrate.py), which needs a loaded model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from edgespec.backends.llama_cpp import devices, runtime
from edgespec.backends.llama_cpp.dimensions import dimensions
from edgespec.errors import BadSetting, DoesNotFit
from edgespec.memory.configuration import Configuration, Placement
from edgespec.memory.footprint import CPU, Footprint
from edgespec.memory.host import Host
from edgespec.memory.methods import Method, from_masks, from_model
from edgespec.memory.predict import Part, weights
from edgespec.memory.pressure import read_once
from edgespec.memory.problem import LEAST_CONTEXTS, Problem, Room
from edgespec.memory.search import N_UBATCH
from edgespec.memory.sizes import MIB, shown
from edgespec.memory.source import Source
from edgespec.memory.times import Measured, Mixture, ModelTimes, Where
from edgespec.settings import Settings
from edgespec.speculation.acceptance import Acceptance
from edgespec.speculation.cost import Curve, from_dict
from edgespec.speculation.places import ByPlace
from edgespec.store import calibration
from edgespec.types import KV_TYPES, ContextSpec

# What is left alone of free memory: other programs move too (pillars: max(64 MB, 5 %)).
MARGIN_BYTES, MARGIN_SHARE = 64 * MIB, 0.05
# By so much predictions may err: what was asked of them and a little more (benchmarks/results/predict.json).
ERROR_BYTES, ERROR_SHARE = 8 * MIB, 0.025
_ON_CPU = Placement()


@dataclass(frozen=True)
class Machine:
    """This machine as it was when it was looked at; host.beside_bytes is in the processor's room as well as in every
    prediction."""

    host: Host
    rooms: tuple[Room, ...]
    limit: str
    shared: bool

    @property
    def free_bytes(self) -> int:
        return sum(room.free_bytes for room in self.rooms)


def look(
    extra_buffers: bool, n_threads: int, program_bytes: int, weight_bytes: int, budget: int | None = None
) -> Machine:
    """Free bytes of the processor's memory (control groups included) and of every device, less a margin each.

    weight_bytes  of all models that may be loaded
    budget        who named one that can be had decided what is left to other programs: there is no margin then
    """
    found = devices.devices()
    reading = read_once()
    host = Host(
        repacks=devices.repacked_types() if extra_buffers else frozenset(),
        devices=tuple(device.name for device in found),
        n_threads=n_threads,
        program_bytes=program_bytes,
        margin_bytes=max(ERROR_BYTES, int(ERROR_SHARE * weight_bytes)),
    )
    margin = margin_bytes(reading.free_bytes)
    if budget is not None and budget <= reading.free_bytes + host.beside_bytes:
        margin = 0
    limit = f"{reading.limit} beside a margin of {shown(margin)}" if margin else reading.limit
    own = Room(CPU, max(reading.free_bytes - margin + host.beside_bytes, 0))
    rooms = (own, *(Room(device.name, less_margin(device.free_bytes)) for device in found))
    return Machine(host, rooms, limit, any(device.shared for device in found))


def free_of_devices(names: Sequence[str]) -> list[tuple[str, int]]:
    """Name and free bytes of these devices, for a Gauge; one that has gone has nothing free."""
    found = {device.name: device.free_bytes for device in devices.devices()}
    return [(name, found.get(name, 0)) for name in names]


def margin_bytes(free_bytes: int) -> int:
    return max(MARGIN_BYTES, int(MARGIN_SHARE * free_bytes))


def less_margin(free_bytes: int) -> int:
    return max(free_bytes - margin_bytes(free_bytes), 0)


@dataclass(frozen=True)
class Known:
    """What was measured and learnt: cost curves of target and drafter, acceptance of the pair.

    by_place   of the drafter filling in masks
    placement  of the target when its curve was taken; the drafter's was taken where the plan had put it
    """

    curve: Curve | None = None
    draft_curve: Curve | None = None
    acceptance: Acceptance = field(default_factory=Acceptance)
    placement: Placement = _ON_CPU
    draft_placement: Placement = _ON_CPU
    by_place: ByPlace = field(default_factory=ByPlace)


def curve_key(source: Source, settings: Settings, n_threads: int, placement: Placement, options: str = "") -> str:
    """Under what a model's cost curve is remembered; raises OSError."""
    return calibration.key(
        source.path,
        runtime=runtime.build_id(),
        machine=",".join(device.name for device in devices.devices()),
        kv_type=settings.kv_type,
        n_threads=n_threads,
        options=f"exact={settings.exact}, {placement}{', streamed' * placement.streamed}{options}, on text",
    )


def remembered_curve(key: str) -> Curve | None:
    """None where it was never measured, or written by another version."""
    known = calibration.load(key)
    try:
        return from_dict(known) if known is not None else None
    except BadSetting:
        return None


def times(source: Source, curve: Curve | None, placement: Placement, host: Host) -> ModelTimes:
    """placement: where the weights lay when the curve was taken."""
    shape = source.shape
    mixture = None
    if shape.expert_bytes and shape.n_expert:
        mixture = Mixture(shape.expert_bytes, shape.n_expert, max(shape.n_expert_used, 1))
    measured = None
    if curve is not None:
        measured = Measured(curve, where(source, placement, host))
    return ModelTimes(
        source.quantisation,
        len(shape.layers),
        shape.embedding.n_bytes,
        shape.tied,
        mixture,
        measured,
        shape.weight_bytes,
    )


def where(source: Source, placement: Placement, host: Host) -> Where:
    """Bytes of its weights by device."""
    lies = weights(Part(source.shape, ContextSpec(1), placement), host)
    names = dict.fromkeys(item.device for item in lies.items)
    return Where(placement, tuple((device, lies.on(device)) for device in names))


def problem(
    settings: Settings,
    machine: Machine,
    target: Source,
    draft: Source | None,
    known: Known,
    forecast: Callable[[Configuration], Footprint],
    streams: bool = False,
) -> Problem:
    """streams: the target's weights are read from its file in every pass, since there is no room for them.

    Raises BadSetting for a context beyond what the model was trained for and for more rows than a pass may have,
    DoesNotFit for a budget below the weights.

    On a machine whose device shares the processor's memory, what is free of that bounds both together.
    """
    if settings.context is not None and settings.context > target.n_ctx_train:
        raise BadSetting(
            f"--context {settings.context} is beyond the {target.n_ctx_train} tokens this model was trained for; "
            f"use {target.n_ctx_train} or less"
        )
    if machine.shared:
        own = next(room.free_bytes for room in machine.rooms if room.device == CPU)
        settings = replace(settings, budget=min(settings.budget or own, own))
    if not streams:
        _check_weights(settings, machine, target, forecast)
    methods: tuple[Method, ...] = ()
    if draft is not None:
        check_rows(settings, trees=not target.shape.recurrent)
        methods = _methods(draft, machine, known)
    return Problem(
        settings=settings,
        target=times(target, known.curve, known.placement, machine.host),
        n_ctx_train=target.n_ctx_train,
        rooms=machine.rooms,
        methods=methods,
        predict=forecast,
        n_threads=machine.host.n_threads,
        streams=streams,
    )


def _methods(draft: Source, machine: Machine, known: Known) -> tuple[Method, ...]:
    """What a drafter's file can do."""
    wave = times(draft, known.draft_curve, known.draft_placement, machine.host)
    name, n_bytes, devices = draft.name, draft.shape.weight_bytes, machine.host.devices
    chain = from_model(name, wave, n_bytes, lambda width: known.acceptance.by_rank(False, width), devices)
    if draft.mask_token_id is None:
        return (chain,)
    return chain, from_masks(name, wave, n_bytes, lambda width: known.by_place.by_rank(False, width), devices)


def check_rows(settings: Settings, trees: bool) -> None:
    """Raises BadSetting where no pass can have the rows that were asked for, whether or not it pays to draft."""
    if settings.nodes is None or settings.method == "plain" or settings.draft == "none":
        return
    asked = ContextSpec(1, max_nodes=settings.nodes, kv_type=settings.kv_type, exact=settings.exact)
    if (most := dimensions(asked, trees).max_nodes) < settings.nodes:
        raise BadSetting(
            f"--nodes {settings.nodes} is more than the {most} rows a pass may have here; use {most} or less"
        )


def _check_weights(
    settings: Settings, machine: Machine, target: Source, forecast: Callable[[Configuration], Footprint]
) -> None:
    """Raises DoesNotFit where no setting could make the model fit, before anything is searched."""
    needed, beside = target.shape.weight_bytes, machine.host.beside_bytes
    had = machine.free_bytes if settings.budget is None else min(settings.budget, machine.free_bytes)
    if needed + beside <= had:
        return
    n_ctx = settings.context or min(target.n_ctx_train, LEAST_CONTEXTS[-1])
    leanest = ContextSpec(n_ctx, 1, 2, 1, settings.kv or KV_TYPES[-1], N_UBATCH[-1], machine.host.n_threads)
    enough = forecast(Configuration(leanest)).total_bytes
    within = settings.budget == had
    what = f"the budget is {shown(had)}" if within else f"{shown(had)} are free {machine.limit}"
    more = f"raise --budget to {_whole_mib(enough)}" if within else f"free {shown(enough - had)} more"
    way = f"use a model of at most {shown(had - beside)}" if had > beside + MIB else "use another machine"
    raise DoesNotFit(
        f"the weights of {target.name} alone take {shown(needed)} and the programs {shown(beside)}, and {what}; "
        f"{more}, or {way}"
    )


def _whole_mib(n_bytes: int) -> str:
    return f"{-(-n_bytes // MIB)}MiB"
