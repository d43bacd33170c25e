"""`edgespec probe`: what a model takes on this machine, component by component, and the plan for it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from edgespec.cli import options as o
from edgespec.cli import screen
from edgespec.errors import Cancelled
from edgespec.memory.report import DeviceReport, MemoryReport, ProbeReport
from edgespec.memory.sizes import shown
from edgespec.service.supervisor import Supervisor


@o.flat
def probe(
    loading: o.Loading,
    method: o.Method = "auto",
    shape: o.Shape = "auto",
    load: Annotated[bool, typer.Option("--load", help="load the model and weigh it too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")] = False,
) -> int:
    """Tell what a model takes here, and what was chosen for it; without -m, which known models this machine can run."""
    asked = loading.settings(method, shape)
    line = screen.ProgressLine()
    with Supervisor() as worker:
        try:
            report = worker.probe(asked, load, line.show)
        except KeyboardInterrupt:
            raise Cancelled("stopped while probing") from None
        finally:
            line.wipe()
    if as_json:
        print(json.dumps(result(report)))
    else:
        width = min(shutil.get_terminal_size().columns, 120)
        print("\n".join(text(report, width, asked.model is not None or load)))
        for warning in (w for model in report.models for w in model.warnings):
            print(f"edgespec: warning: {warning}", file=sys.stderr)
    return 0


def result(report: ProbeReport) -> dict[str, Any]:
    """The object of docs/memory.md: devices, and `memory` and `plan` of one model or `models` of all."""
    devices = [asdict(device) for device in report.devices]
    models = [_model(model) for model in report.models]
    return {"devices": devices, **models[0]} if len(models) == 1 else {"devices": devices, "models": models}


def _model(model: MemoryReport) -> dict[str, Any]:
    return {
        "model": model.model,
        "fits": not model.shortfall,
        "shortfall": model.shortfall or None,
        "memory": memory(model),
        "speculation": {
            "method": model.method,
            "tokens_per_second": model.tokens_per_s,
            "tokens_per_pass": model.tokens_per_pass,
            "speedup_vs_plain": model.speedup,
            "least_budget_bytes": model.least_bytes,
        },
        "alternatives": [asdict(alternative) for alternative in model.alternatives],
        "plan": [{"line": p.line, "value": p.value, "reason": p.reason} for p in model.lines],
        "warnings": list(model.warnings),
    }


def memory(model: MemoryReport) -> dict[str, Any]:
    """What is predicted, what the runtime says of it, and what was measured, in bytes."""
    items = [asdict(item) for item in model.predicted.items]
    devices = dict.fromkeys(item.device for item in model.predicted.items)
    measured = model.measured
    return {
        "budget_bytes": model.budget_bytes,
        "free_bytes": model.free_bytes,
        "program_bytes": model.program_bytes,
        "margin_bytes": model.margin_bytes,
        "predicted": {
            "total_bytes": model.predicted.total_bytes,
            "by_device": {device: model.predicted.on(device) for device in devices},
            "components": components(model),
            "items": items,
        },
        "runtime": {"components": dict(model.runtime)},
        "measured": None
        if measured is None
        else {
            "total_bytes": measured.total_bytes,
            "by_device": dict(measured.by_device),
            "components": dict(measured.components),
            "cells_in_use": measured.n_cells,
            "predicted_at_that_moment_bytes": measured.predicted_bytes,
        },
    }


def components(model: MemoryReport) -> dict[str, int]:
    names = dict.fromkeys(item.component for item in model.predicted.items)
    return {name: model.predicted.of(name) for name in names}


def text(report: ProbeReport, width: int, one: bool) -> list[str]:
    lines = [_device(device, width) for device in report.devices]
    if one:
        return [*lines, "", *_picture(report.models[0], width), "", *_plan(report.models[0], width)]
    return [*lines, "", *(_summary(model) for model in report.models)]


def _device(d: DeviceReport, width: int) -> str:
    name = f"{d.name:8} {d.description[: max(width - 60, 12)]}"
    free = f"{shown(d.free_bytes)} free of {shown(d.total_bytes)} {d.limit}"
    return f"{name}: {free}, others use {shown(d.used_bytes)}"


def _summary(model: MemoryReport) -> str:
    if model.shortfall:
        return f"{model.model:16} does not fit: {model.shortfall}"
    speed = f"{model.tokens_per_s:.0f} tokens/s expected, {model.method}"
    return (
        f"{model.model:16} {shown(model.predicted.total_bytes):>10}  {speed}{f' ({model.note})' if model.note else ''}"
    )


def _picture(model: MemoryReport, width: int) -> list[str]:
    """A waterfall: each component's bar begins where the one before ended; beside it the runtime's own figure."""
    parts, said = components(model), dict(model.runtime)
    total = max(model.predicted.total_bytes, 1)
    room = max(width - 58, 10)
    lines = [f"{'':20} {'predicted':>10} {'runtime':>10} {'measured':>10}"]
    weighed = dict(model.measured.components) if model.measured else {}
    at = 0
    for name, n_bytes in parts.items():
        start, end = room * at // total, room * (at + n_bytes) // total
        bar = " " * start + "█" * max(end - start, 0) if end > start else " " * start + "▏"
        told = [shown(found[name]) if name in found else "" for found in (said, weighed)]
        lines.append(f"{name:20} {shown(n_bytes):>10} {told[0]:>10} {told[1]:>10}  {bar}")
        at += n_bytes
    measured = shown(model.measured.total_bytes) if model.measured else ""
    lines.append(f"{'total':20} {shown(total):>10} {'':>10} {measured:>10}  {'─' * room}")
    if model.measured:
        off = model.measured.total_bytes / max(model.measured.predicted_bytes, 1) - 1
        lines.append(
            f"measured behind {model.measured.n_cells} tokens, where {shown(model.measured.predicted_bytes)} were "
            f"predicted ({off:+.1%})"
        )
    lines.append(
        f"the programs themselves take {shown(model.program_bytes)} more, and predictions may err by "
        f"{shown(model.margin_bytes)}"
    )
    return lines


def _plan(model: MemoryReport, width: int) -> list[str]:
    lines = [f"{p.line:14} {p.value:22} {p.reason}" for p in model.lines]
    if model.alternatives:
        lines += ["", "instead:"]
        lines += [f"  {shown(a.total_bytes):>10}  {a.what}: {a.why}" for a in model.alternatives]
    if model.least_bytes is not None:
        lines += ["", f"speculation pays from a budget of {shown(model.least_bytes)} on"]
    elif model.method == "plain":
        reason = next((p.reason for p in model.lines if p.line == "drafter"), "")
        lines += ["", f"no speculation: {reason}"]
    return lines
