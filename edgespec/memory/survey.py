"""What a plan is made from, gathered for a model on this machine: shapes of files, room by device, what passes cost.

Figures about the machine come from store/calibration.py, what answering taught from store/learnt.py; both fall back on
priors. Not covered: measuring passes (engine/calibrate.py), which needs a loaded model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgespec.backends.llama_cpp import devices, runtime
from edgespec.backends.llama_cpp.dimensions import dimensions
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.errors import BackendError, BadSetting, DoesNotFit
from edgespec.gguf.inspect import inspect
from edgespec.gguf.shape import Shape, read_shape
from edgespec.memory.configuration import Configuration, Placement, as_opened
from edgespec.memory.fitted import Surface, surface
from edgespec.memory.footprint import CPU, Footprint, Item
from edgespec.memory.host import Host
from edgespec.memory.methods import Method, from_model
from edgespec.memory.predict import Part, predict, weights
from edgespec.memory.pressure import read_once
from edgespec.memory.problem import Problem, Room
from edgespec.memory.sizes import MIB, shown
from edgespec.memory.times import Measured, Mixture, ModelTimes, Where
from edgespec.settings import Settings
from edgespec.speculation.acceptance import Acceptance
from edgespec.speculation.cost import Curve, from_dict
from edgespec.store import calibration
from edgespec.types import ContextSpec

# What is left alone of free memory: other programs move too (pillars: max(64 MB, 5 %)).
MARGIN_BYTES, MARGIN_SHARE = 64 * MIB, 0.05
# By so much predictions may err: what was asked of them and a little more (benchmarks/results/predict.json).
ERROR_BYTES, ERROR_SHARE = 8 * MIB, 0.025


@dataclass(frozen=True)
class Source:
    """A model's file as a planner sees it."""

    name: str
    path: Path
    quantisation: str
    n_ctx_train: int
    shape: Shape


def read_source(name: str, path: Path) -> Source:
    """Raises what gguf.inspect and gguf.shape raise."""
    file, shape = inspect(path), read_shape(path)
    if not file.n_ctx_train:
        raise BadSetting(f"{path} does not say for how long a context it was trained; get a complete .gguf file")
    return Source(name, path, file.quantisation, file.n_ctx_train, shape)


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
    budget        who named one decided what is left to other programs: there is no margin to the processor's memory
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
    margin = margin_bytes(reading.free_bytes) if budget is None else 0
    limit = f"{reading.limit} beside a margin of {shown(margin)}" if margin else reading.limit
    own = Room(CPU, max(reading.free_bytes - margin + host.beside_bytes, 0))
    rooms = (own, *(Room(device.name, less_margin(device.free_bytes)) for device in found))
    return Machine(host, rooms, limit, any(device.shared for device in found))


def free_of_devices() -> list[tuple[str, int]]:
    """Name and free bytes of every device, for a Gauge."""
    return [(device.name, device.free_bytes) for device in devices.devices()]


def margin_bytes(free_bytes: int) -> int:
    return max(MARGIN_BYTES, int(MARGIN_SHARE * free_bytes))


def less_margin(free_bytes: int) -> int:
    return max(free_bytes - margin_bytes(free_bytes), 0)


@dataclass(frozen=True)
class Known:
    """What was measured and learnt: cost curves of target and drafter, acceptance of the pair."""

    curve: Curve | None = None
    draft_curve: Curve | None = None
    acceptance: Acceptance = field(default_factory=Acceptance)


def curve_key(source: Source, settings: Settings, n_threads: int, options: str = "") -> str:
    """Under what a model's cost curve is remembered; raises OSError."""
    return calibration.key(
        source.path,
        runtime=runtime.build_id(),
        machine=",".join(device.name for device in devices.devices()),
        kv_type=settings.kv_type,
        n_threads=n_threads,
        options=f"exact={settings.exact}{options}",
    )


def remembered_curve(key: str) -> Curve | None:
    """None where it was never measured, or written by another version."""
    known = calibration.load(key)
    try:
        return from_dict(known) if known is not None else None
    except BadSetting:
        return None


class Forecast:
    """Bytes of configurations of a target and its drafters, each part worked out once."""

    def __init__(self, machine: Machine, target: Source, drafts: Mapping[str, Source], options: LoadOptions) -> None:
        """options: as the target is loaded, its layers aside."""
        self._machine, self._target, self._drafts, self._options = machine, target, drafts, options
        self._parts: dict[tuple[str, ContextSpec, Placement], Footprint] = {}
        self._surfaces: dict[tuple[str, Placement], Surface | None] = {}
        self._beside = Footprint(
            (
                Item("program", CPU, machine.host.program_bytes, "measured: the processes"),
                Item("margin", CPU, machine.host.margin_bytes, "predictions err by so much"),
            )
        )

    def __call__(self, configuration: Configuration) -> Footprint:
        """Of a configuration for its whole context, everything opened; raises BadSetting."""
        c = as_opened(configuration, configuration.target.n_ctx)
        found = self._beside + self._part("", self._target, c.target, c.placement)
        if c.draft is None:
            return found
        draft = self._drafts[c.draft.name]
        return found + self._part("draft ", draft, c.draft.context, c.draft.placement)

    def bytes_of(self, configuration: Configuration) -> int:
        """Of a configuration exactly as it is written, for a ladder."""
        parts = [self._part("", self._target, configuration.target, configuration.placement)]
        if (d := configuration.draft) is not None:
            parts.append(self._part("draft ", self._drafts[d.name], d.context, d.placement))
        return sum(part.total_bytes for part in parts)

    def at(self, opened: Configuration, n_used: Mapping[str, int]) -> int:
        """Of a configuration as it is written, when so many cells are in use: by role ("" for the
        target, "draft ")."""
        parts = [Part(self._target.shape, opened.target, opened.placement, "", n_used=n_used.get(""))]
        if (d := opened.draft) is not None:
            shape = self._drafts[d.name].shape
            parts.append(Part(shape, d.context, d.placement, "draft ", n_used=n_used.get("draft ")))
        names = [self._target, *([self._drafts[d.name]] if d else [])]
        computed = [
            replace(part, compute=self._compute(source, part.spec, part.placement))
            for part, source in zip(parts, names, strict=True)
        ]
        return sum(predict(part, self._machine.host).total_bytes for part in computed)

    def _part(self, role: str, source: Source, spec: ContextSpec, placement: Placement) -> Footprint:
        key = role + source.name, spec, placement
        if key not in self._parts:
            compute = self._compute(source, spec, placement)
            part = Part(source.shape, spec, placement, role, compute)
            self._parts[key] = predict(part, self._machine.host)
        return self._parts[key]

    def _compute(self, source: Source, spec: ContextSpec, placement: Placement) -> dict[str, int] | None:
        """From the runtime where no formula covers it; None: the formula, or a guess where the runtime gives none."""
        if source.shape.llama_like and not placement.n_gpu_layers:
            return None
        key = source.name, placement
        if key not in self._surfaces:
            options = replace(
                self._options,
                n_gpu_layers=placement.n_gpu_layers,
                tensor_split=placement.tensor_split,
                experts_on_cpu=placement.experts_on_cpu,
            )
            base = ContextSpec(512, n_threads=spec.n_threads, exact=spec.exact)
            try:
                self._surfaces[key] = surface(source.path, source.shape, options, base)
            except BackendError:
                self._surfaces[key] = None
        fitted = self._surfaces[key]
        return fitted(spec) if fitted else None


def times(source: Source, curve: Curve | None, host: Host) -> ModelTimes:
    """curve: of the model on the processor or wherever all of it went."""
    shape = source.shape
    mixture = None
    if shape.expert_bytes and shape.n_expert:
        mixture = Mixture(shape.expert_bytes, shape.n_expert, max(shape.n_expert_used, 1))
    measured = None
    if curve is not None:
        placement = Placement(len(shape.layers) + 1) if host.devices else Placement()
        measured = Measured(curve, where(source, placement, host))
    return ModelTimes(source.quantisation, len(shape.layers), shape.embedding.n_bytes, shape.tied, mixture, measured)


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
) -> Problem:
    """Raises BadSetting for a context beyond what the model was trained for and for more rows than a pass may have,
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
    _check_weights(settings, machine, target)
    methods: tuple[Method, ...] = ()
    if draft is not None:
        _check_rows(settings, trees=not target.shape.recurrent)
        wave = times(draft, known.draft_curve, machine.host)
        n_bytes = draft.shape.weight_bytes

        def by_rank(width: int) -> NDArray[np.float64]:
            return known.acceptance.by_rank(greedy=False, width=width)

        methods = (from_model(draft.name, wave, n_bytes, by_rank, machine.host.devices),)
    return Problem(
        settings=settings,
        target=times(target, known.curve, machine.host),
        n_ctx_train=target.n_ctx_train,
        rooms=machine.rooms,
        methods=methods,
        predict=forecast,
        n_threads=machine.host.n_threads,
    )


def _check_rows(settings: Settings, trees: bool) -> None:
    """Raises BadSetting where no pass can have the rows that were asked for, whether or not it pays to draft."""
    if settings.nodes is None or settings.method == "plain" or settings.draft == "none":
        return
    asked = ContextSpec(1, max_nodes=settings.nodes, kv_type=settings.kv_type, exact=settings.exact)
    if (most := dimensions(asked, trees).max_nodes) < settings.nodes:
        raise BadSetting(
            f"--nodes {settings.nodes} is more than the {most} rows a pass may have here; use {most} or less"
        )


def _check_weights(settings: Settings, machine: Machine, target: Source) -> None:
    needed = target.shape.weight_bytes
    beside = machine.host.beside_bytes
    had = machine.free_bytes if settings.budget is None else min(settings.budget, machine.free_bytes)
    if needed + beside > had:
        within = settings.budget == had
        what = f"the budget is {shown(had)}" if within else f"{shown(had)} are free {machine.limit}"
        more = (
            f"raise --budget above {shown(needed + beside)}" if within else f"free {shown(needed + beside - had)} more"
        )
        way = f"use a model of at most {shown(had - beside)}" if had > beside + MIB else "use another machine"
        raise DoesNotFit(
            f"the weights of {target.name} alone take {shown(needed)} and the programs {shown(beside)}, and {what}; "
            f"{more}, or {way}"
        )
