"""What was decided for a loaded model and why: the plan's lines, its warnings, and how many threads it gets.

Not covered: the words about memory (memory/reasons.py), deciding what is loaded (planning).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import psutil

from edgespec.backends.llama_cpp import runtime
from edgespec.backends.llama_cpp.selftest import HostFacts
from edgespec.memory.reasons import STREAMING
from edgespec.settings import Settings
from edgespec.types import PlanLine

EXACT = "self-test: rows are the same at every width here"
REJECTION = "asked for; the same seed gives another text than with match, and another one for every shape of draft"
NOT_EXACT = "self-test: rows depend on the width of a pass here, so decoding is plain"


def threads(asked: Settings) -> int:
    """Physical cores this process may use: hyper-threads share the units that the arithmetic needs."""
    available = runtime.n_cores()
    return asked.threads or min(available, max(psutil.cpu_count(logical=False) or available, 2))


def warnings(template: str | None, asked: Settings, facts: HostFacts, unused_gpu: str | None) -> tuple[str, ...]:
    """What the user should know before believing or timing an answer."""
    not_exact = f"--exact: {NOT_EXACT}" if asked.exact and not facts.exact else None
    return tuple(warning for warning in (template, not_exact, unused_gpu) if warning)


def plan(
    asked: Settings, quantisation: str, planned: Sequence[PlanLine], why_plain: str, facts: HostFacts
) -> tuple[PlanLine, ...]:
    """planned: the planner's lines; why_plain: why nothing can draft whatever the room, or an empty string."""
    streams = any(line.line == STREAMING for line in planned)
    repacked = facts.extra_buffers and not streams
    why = f"self-test: this host {'decodes' if facts.extra_buffers else 'dies'} with them"
    lines = [PlanLine("weights", quantisation, "as the file has them")]
    for line in planned:
        lines.append(replace(line, reason=why_plain) if line.line == "drafter" and why_plain else line)
    lines += [
        PlanLine("threads", str(threads(asked)), "asked for" if asked.threads else "one a core"),
        PlanLine(
            "extra buffers",
            "on" if repacked else "off",
            "a rearranged copy of the weights could not give way" if streams else why,
        ),
    ]
    if asked.verify == "rejection":
        lines.append(PlanLine("verify", "rejection", REJECTION))
    if asked.exact:
        lines.append(PlanLine("exact", "on" if facts.exact else "plain", EXACT if facts.exact else NOT_EXACT))
    else:
        rounding = "self-test: rows depend on the width of a pass here, so near ties may fall the other way"
        same = "self-test: rows are the same at every width here even without it"
        lines.append(PlanLine("exact", "off", rounding if facts.row_depends_on_width else same))
    return tuple(lines)
