"""A whole bench: card, samples, memory, bound, and the one object that `--json` prints.

Stopping half-way loses nothing: what was measured until then becomes the result. Not covered: printing (cli).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgespec import __version__
from edgespec.assemble import open_workbench
from edgespec.backends.llama_cpp import devices, runtime
from edgespec.bench.card import ceilings, speculation_bound
from edgespec.bench.figures import figures, share_cut
from edgespec.bench.measure import Cut, Event, Failure, Sample, Text, measure, n_answers
from edgespec.bench.memory import measure_memory
from edgespec.bench.questions import Question
from edgespec.errors import Cancelled, EdgespecError
from edgespec.settings import Settings
from edgespec.speculation.cost import Curve
from edgespec.types import Message, Sampling
from edgespec.workbench import Workbench

Report = Callable[[str, float], None]
MEMORY_TOKENS = 64


@dataclass(frozen=True)
class Asked:
    """What to measure.

    methods    settings by the name of each method, plain among them
    prompts    the prompt file's name, for the record
    max_tokens None: as long as the context lasts; system: instructions in front of every conversation
    """

    methods: Mapping[str, Settings]
    questions: Sequence[Question]
    prompts: str
    sampling: Sampling
    max_tokens: int | None
    n_repeats: int
    system: str | None = None


@dataclass
class Collected:
    """Everything measured so far."""

    samples: list[Sample] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    card: dict[str, Any] | None = None
    curve: Curve | None = None
    bound: dict[str, Any] | None = None
    memory: dict[str, dict[str, Any]] = field(default_factory=dict)
    stopped: bool = False

    def add(self, event: Event) -> None:
        place: Any = {Sample: self.samples, Cut: self.cuts, Text: self.texts, Failure: self.failures}[type(event)]
        place.append(event)


def run(asked: Asked, report: Report, cancelled: Callable[[], bool]) -> dict[str, Any]:
    """The result object; report(what, share done) on the way. A stop ends it early, `stopped` then says so.

    Raises what open_workbench raises, and Cancelled where nothing was measured yet.
    """
    found = Collected()
    with open_workbench(asked.methods, report, cancelled) as bench:
        try:
            _measured(bench, asked, found, report, cancelled)
        except Cancelled:
            if not found.samples:
                raise
            found.stopped = True
        described = _described(bench, asked)
        plan = [asdict(line) for line in bench.assistant.plan]
        choices = {name: asdict(choice) for name, choice in bench.choices.items()}
    if not found.stopped:
        try:
            _measure_memory(asked, found, report, cancelled)
        except Cancelled:
            found.stopped = True
    return {**described, **_result(asked, found), "choices": choices, "plan": plan}


def _measured(bench: Workbench, asked: Asked, found: Collected, report: Report, cancelled: Callable[[], bool]) -> None:
    report("measuring this machine", 0.0)
    try:
        found.card, found.curve = ceilings(bench, cancelled)
    except Cancelled:
        raise
    except (EdgespecError, OSError) as error:  # the answers can be measured without it
        found.failures.append(Failure("the card of ceilings", "none", 0, str(error)))
    n_all = n_answers(asked.questions, len(bench.choices), asked.n_repeats)
    n_done = 0
    names = list(bench.choices)
    events = measure(
        bench, names, asked.questions, asked.sampling, asked.max_tokens, asked.n_repeats, cancelled, asked.system
    )
    for event in events:
        found.add(event)
        n_done += isinstance(event, Sample | Cut | Failure)
        name = f" ({event.method}, {event.category})" if isinstance(event, Sample) else ""
        report(f"answering{name}", min(n_done / n_all, 1.0))
    if found.curve is not None:
        report("growing the best trees", 0.0)
        try:
            found.bound = speculation_bound(bench, found.curve, found.texts, asked.sampling, cancelled)
        except Cancelled:
            raise
        except EdgespecError as error:
            found.failures.append(Failure("the bound of speculation", "all", 0, str(error)))


def _measure_memory(asked: Asked, found: Collected, report: Report, cancelled: Callable[[], bool]) -> None:
    """A pass of its own for each method, in a process of its own."""
    turns = [Message("system", asked.system)] if asked.system else []
    turns.append(Message("user", asked.questions[0].turns[0]))
    n_tokens = min(asked.max_tokens or MEMORY_TOKENS, MEMORY_TOKENS)
    for i, (name, settings) in enumerate(asked.methods.items()):
        report(f"measuring memory ({name})", i / len(asked.methods))
        try:
            found.memory[name] = measure_memory(settings, turns, asked.sampling, n_tokens, cancelled)
        except Cancelled:
            raise
        except EdgespecError as error:
            found.failures.append(Failure(name, asked.questions[0].id, 0, f"in the memory pass: {error}"))


def _described(bench: Workbench, asked: Asked) -> dict[str, Any]:
    """What was measured, where and how."""
    s = bench.settings
    return {
        "model": bench.assistant.entry.name,
        "draft": bench.draft.name if bench.draft else None,
        "edgespec": __version__,
        "machine": {
            "cpu": runtime.cpu_name(),
            "cores": os.cpu_count(),
            **({"devices": found} if (found := [device.description for device in devices.devices()]) else {}),
            "system": f"{platform.system()} {platform.machine()}",
            "runtime": f"llama-cpp-python {runtime.version()}",
            "load_at_end": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        },
        "settings": {
            "prompts": asked.prompts,
            "n_prompts": len(asked.questions),
            "replayed": any(q.answers for q in asked.questions),
            "max_tokens": asked.max_tokens,
            "repeat": asked.n_repeats,
            "system": asked.system,
            "temperature": asked.sampling.temperature,
            "seed": asked.sampling.seed,
            "threads": s.threads,
            "kv": s.kv_type,
            "exact": s.exact,
            "context": bench.assistant.engine.n_ctx,
        },
        "warnings": [*bench.assistant.warnings, *_undrafted(bench, asked)],
    }


def _undrafted(bench: Workbench, asked: Asked) -> list[str]:
    """A sentence for each method that was asked to draft and decodes plainly."""
    return [
        f"{name} decodes plainly: {bench.whys[name]}"
        for name, settings in asked.methods.items()
        if bench.choices[name].plain and settings.method != "plain"
    ]


def _result(asked: Asked, found: Collected) -> dict[str, Any]:
    by_method = {name: [s for s in found.samples if s.method == name] for name in asked.methods}
    methods = {
        name: {**figures(samples, by_method["plain"]), "memory": found.memory.get(name)}
        for name, samples in by_method.items()
    }
    best = found.bound["speedup"] if found.bound else None
    for figure in methods.values():
        ratio = figure["ratio_to_plain"]
        figure["share_of_bound"] = ratio / best if ratio and best else None
    card = {**found.card, "speculation": found.bound} if found.card else None
    return {
        "ceilings": card,
        "cut_as_loops": share_cut(found.cuts),
        "methods": methods,
        "failures": [asdict(f) for f in found.failures],
        "stopped": found.stopped,
        "samples": [asdict(s) for s in found.samples],
    }
