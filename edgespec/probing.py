"""Probes: what a model would take here and what was chosen for it, with or without loading it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import psutil
from numpy.random import default_rng  # not np.random, whose code would be read, and weighed, with the model

from edgespec import explain
from edgespec.assemble import planner_for
from edgespec.backends.base import Context
from edgespec.backends.llama_cpp import devices, runtime
from edgespec.backends.llama_cpp.figures import Figures
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.selftest import HostFacts
from edgespec.errors import BackendError, Cancelled, DoesNotFit, EdgespecError
from edgespec.loading import Drafters, Loader, Report, placed
from edgespec.memory.configuration import Configuration, as_opened
from edgespec.memory.footprint import CPU, Footprint
from edgespec.memory.measure import Weighing, runtime_figures
from edgespec.memory.plan import Plan
from edgespec.memory.pressure import Gauge
from edgespec.memory.reasons import described
from edgespec.memory.report import Alternative, DeviceReport, MeasuredReport, MemoryReport, ProbeReport
from edgespec.planning import Planner
from edgespec.settings import Settings
from edgespec.speculation.tree import chain
from edgespec.store import registry
from edgespec.types import ContextSpec, Span

# How long a context may be filled with text before the pass that is weighed.
FILL_S = 8.0

_Cancelled = Callable[[], bool]


def probe(
    settings: Settings, load: bool, report: Report, cancelled: _Cancelled = lambda: False, beside_bytes: int = 0
) -> ProbeReport:
    """The model of the settings, or every known one where they name none.

    Raises what open_assistant raises; where every model is asked for, one that cannot be planned is told as such.
    """
    found = _devices()
    if settings.model is not None or load:
        return ProbeReport(found, (_model(settings, load, report, cancelled, beside_bytes),))
    models = []
    for name in registry.names():
        if cancelled():
            raise Cancelled("stopped")
        report(f"planning for {name}", 0.0)
        models.append(_known(replace(settings, model=name), report, beside_bytes))
    best = sorted(models, key=lambda m: (bool(m.shortfall), -m.weight_bytes, -m.tokens_per_s))
    return ProbeReport(found, tuple(best))


def _known(settings: Settings, report: Report, beside_bytes: int) -> MemoryReport:
    try:
        return _model(settings, False, report, lambda: False, beside_bytes)
    except EdgespecError as error:
        entry = registry.resolve(settings.model or "")
        return MemoryReport(entry.name, entry.note, 0, settings.budget, 0, 0, 0, Footprint(), shortfall=str(error))


def _model(settings: Settings, load: bool, report: Report, cancelled: _Cancelled, beside_bytes: int) -> MemoryReport:
    planner, facts, _ = planner_for(settings, report, beside_bytes)
    made = planner.plan()
    found = planner.report(made)
    return replace(
        found,
        runtime=_runtime(planner, facts, made),
        measured=_measured(planner, facts, made, report, cancelled) if load else None,
        alternatives=_alternatives(planner, made),
        lines=explain.plan(settings, planner.target.quantisation, made.lines, planner.why_plain, facts),
    )


def _devices() -> tuple[DeviceReport, ...]:
    gauge, memory = Gauge(), psutil.virtual_memory()
    reading = gauge.read()
    gauge.close()
    own = int(psutil.Process().memory_info().rss)
    used = max(int(memory.total - memory.available) - own, 0)
    cpu = DeviceReport(CPU, runtime.cpu_name(), int(memory.total), reading.free_bytes, used, reading.limit)
    others = (
        DeviceReport(d.name, d.description, d.total_bytes, d.free_bytes, d.total_bytes - d.free_bytes, "on the device")
        for d in devices.devices()
    )
    return (cpu, *others)


def _alternatives(planner: Planner, made: Plan) -> tuple[Alternative, ...]:
    """The runner-up, plain decoding, and the steps that would be taken if memory got short."""
    found = []
    if made.runner_up is not None:
        total = planner.forecast(made.runner_up).total_bytes
        found.append(Alternative(described(made.runner_up), total, made.runner_up_tokens_per_s, made.why_not))
    if made.method != "plain" and not (made.runner_up and made.runner_up.choice.plain):
        try:
            plain = planner.plan(replace(planner.asked, method="plain", draft=None))
        except DoesNotFit:
            plain = None
        if plain is not None:
            why = f"{plain.tokens_per_s:.1f} tokens/s against {made.tokens_per_s:.1f}"
            found.append(Alternative("plain decoding", plain.footprint.total_bytes, plain.tokens_per_s, why))
    for n, rung in enumerate(made.rungs[1:], 1):
        total = planner.forecast(rung).total_bytes
        found.append(Alternative(described(rung), total, None, f"step {n} down, if memory gets short"))
    return tuple(found)


def _runtime(planner: Planner, facts: HostFacts, made: Plan) -> tuple[tuple[str, int], ...]:
    """By component, nothing allocated; () where the runtime gives no figures."""
    c = as_opened(made.configuration, made.configuration.target.n_ctx)
    options = LoadOptions(facts.extra_buffers, facts.exact)
    asked = [("", planner.target, c.target, c.placement)]
    if c.draft is not None and planner.draft is not None:
        asked.append(("draft ", planner.draft, c.draft.context, c.draft.placement))
    found: list[tuple[str, int]] = []
    for role, source, spec, placement in asked:
        trees = not source.shape.recurrent
        try:
            figures = runtime_figures(source.path, placed(options, placement), [spec], trees)[0]
        except BackendError:
            return ()
        found += [(f"{role}weights", source.shape.weight_bytes), *_components(role, figures)]
    return tuple(found)


def _components(role: str, figures: Figures) -> list[tuple[str, int]]:
    found = [
        (f"{role}kv", figures.kv_bytes),
        (f"{role}recurrent state", figures.recurrent_bytes),
        (f"{role}compute", sum(figures.compute.values())),
        (f"{role}output", figures.output_bytes),
    ]
    return [(name, n_bytes) for name, n_bytes in found if n_bytes]


def _measured(planner: Planner, facts: HostFacts, made: Plan, report: Report, cancelled: _Cancelled) -> MeasuredReport:
    """Open the plan whole, fill it with text for a while, and weigh it after a pass of full width."""
    c = as_opened(made.configuration, made.configuration.target.n_ctx)
    loader = Loader(LoadOptions(facts.extra_buffers, facts.exact), report, cancelled)
    weighing = Weighing.begin()
    components: list[tuple[str, int]] = []
    with ExitStack() as stack:
        target = loader.model(planner.target.path, c.placement, stack)
        sources = {planner.draft.name: planner.draft} if planner.draft else {}
        drafters = Drafters(loader, sources, target, planner.target.name)
        stack.callback(drafters.close)
        opened = [("", target, c.target)]
        if c.draft is not None:
            opened.append(("draft ", drafters.get(c.draft.name, c.draft.placement), c.draft.context))
        n_cells = []
        for role, model, spec in opened:
            model.pieces()
            context = loader.context(model, spec)
            stack.callback(context.close)
            components += [(f"{role}weights", sum(model.buffers.values())), *_components(role, context.figures)]
            n_cells.append(_fill(context, model.n_vocab, FILL_S / len(opened), report, cancelled))
        growth = weighing.growth()
    predicted = _at(planner, c, n_cells)
    return MeasuredReport(min(n_cells), tuple(growth.items()), predicted, tuple(components))


def _fill(context: Context, n_vocab: int, seconds: float, report: Report, cancelled: _Cancelled) -> int:
    """Cells in use in the pass of full width that comes last: text for so many seconds, then rows and their lead."""
    spec, rng = context.spec, default_rng(0)
    width = context.caps.max_nodes + context.caps.max_silent
    room, start = max(spec.n_ctx - context.caps.max_silent, 0), time.monotonic()
    while context.length(0) < room and time.monotonic() - start < seconds:
        n = min(spec.n_ubatch, room - context.length(0))
        context.prefill(0, rng.integers(0, n_vocab, n).astype(np.int32), cancelled=cancelled)
        report("filling the context", context.length(0) / max(room, 1))
    n_silent = min(context.caps.max_silent, spec.n_ctx - context.length(0))
    tree = chain(rng.integers(0, n_vocab, n_silent + context.caps.max_nodes).tolist())
    context.evaluate([Span(0, tree, np.arange(len(tree), dtype=np.int32), n_silent=n_silent)])
    context.keep(0, [])
    return context.length(0) + min(width, len(tree))


def _at(planner: Planner, c: Configuration, n_cells: list[int]) -> int:
    """Predicted bytes when so many cells are in use, by context."""
    specs: list[ContextSpec] = [c.target, *([c.draft.context] if c.draft else [])]
    return planner.forecast.at(c, dict(zip(("", "draft "), n_cells[: len(specs)], strict=False)))
