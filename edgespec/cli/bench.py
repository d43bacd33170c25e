"""`edgespec bench`: methods side by side on prompts by category, as a table or as one JSON object, with plots."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgespec.cli import INTERRUPTED, screen
from edgespec.cli import options as o
from edgespec.errors import BadSetting

if TYPE_CHECKING:
    from edgespec.bench.run import Asked

_METHODS = "plain, auto, or NAME[:chain|:tree][@ROWS], with commas; chain and tree alone: the draft model's"
# Comparisons are of greedy answers that end, the same ones in every run, unless asked otherwise.
_ANSWERING = o.Answering(max_tokens=128, temperature=0.0, seed=0)


@dataclass(frozen=True)
class Measuring:
    """Flags of what is measured."""

    methods: Annotated[str, typer.Option("--methods", help=_METHODS)] = "plain,chain,tree"
    prompts: Annotated[Path | None, typer.Option("--prompts", help="a .jsonl file (default: eight of our own)")] = None
    replay: Annotated[
        Path | None, typer.Option("--replay", help="a .jsonl file with answers: verify along its text at real cost")
    ] = None
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="so many prompts, categories in turn")] = None
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="answer every prompt so many times")] = 1


@o.flat
def bench(
    measuring: Measuring,
    loading: o.Loading,
    answering: o.Answering = _ANSWERING,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="draw the result into FILE.svg or FILE.png")] = None,
) -> int:
    """Measure methods side by side: speed, acceptance, memory, and what would be possible at most."""
    from edgespec.bench import plots

    asked = _asked(measuring, loading, answering)
    if plot:
        plots.check(plot)
    result = _measured(asked)
    if as_json:
        print(json.dumps(result), flush=True)
    else:
        from edgespec.bench.tables import show

        show(result)
    code = _ending(result)
    if plot:  # last, so that a full disk costs nothing but the picture
        plots.draw(result, plot)
    return code


def _asked(measuring: Measuring, loading: o.Loading, answering: o.Answering) -> Asked:
    """Raises BadSetting before anything is loaded."""
    from edgespec.bench.methods import parse_methods
    from edgespec.bench.questions import BUNDLED, read_questions, spread
    from edgespec.bench.run import Asked

    replay = measuring.replay
    if measuring.prompts and replay:
        raise BadSetting("--prompts and --replay both name what is asked; leave one of them out")
    if replay and answering.temperature > 0:
        raise BadSetting("--replay follows text that was drawn without our noise; use it with --temperature 0")
    file = replay or measuring.prompts or BUNDLED
    return Asked(
        methods=parse_methods(measuring.methods, loading.settings()),
        questions=spread(read_questions(file, recorded=replay is not None), measuring.limit),
        prompts=file.name,
        sampling=answering.sampling(),
        max_tokens=answering.max_tokens,
        n_repeats=measuring.repeat,
        system=answering.system,
    )


def _measured(asked: Asked) -> dict[str, Any]:
    """The result, with a bar on a terminal; the first Ctrl-C ends the run and keeps what it has."""
    from edgespec.bench.run import run

    stopped: list[bool] = []
    with screen.Bar() as bar, screen.Interrupts(lambda: stopped.append(True)):
        return run(asked, bar.show, lambda: bool(stopped))


def _ending(result: dict[str, Any]) -> int:
    """Say what to know before believing the figures, what failed and what was left out; the exit code."""
    for warning in result["warnings"]:
        print(f"edgespec: warning: {warning}", file=sys.stderr)
    for failure in result["failures"]:
        where = f"prompt {failure['question']}" + (f", turn {failure['turn'] + 1}" if failure["turn"] else "")
        print(f"edgespec: {failure['method']} failed on {where}: {failure['error']}", file=sys.stderr)
    if result["stopped"]:
        print("edgespec: stopped; the figures are of what was measured until then", file=sys.stderr)
        return INTERRUPTED
    return 1 if result["failures"] else 0
