"""What was decided for a loaded model and why: the plan's lines, its warnings, and how many threads it gets.

Not covered: deciding what is loaded (assemble).
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from edgespec.backends.llama_cpp import runtime
from edgespec.backends.llama_cpp.selftest import HostFacts
from edgespec.types import Choice, PlanLine, Settings

MAX_DEFAULT_CONTEXT = 4096
EXACT = "self-test: rows are the same at every width here"
NOT_EXACT = "self-test: rows depend on the width of a pass here, so decoding is plain"


@dataclass(frozen=True)
class Drafting:
    """The drafter's name, or "none", and why."""

    name: str
    why: str


def threads(asked: Settings) -> int:
    """Physical cores this process may use: hyper-threads share the units that the arithmetic needs."""
    available = runtime.n_cores()
    return asked.threads or min(available, max(psutil.cpu_count(logical=False) or available, 2))


def warnings(template: str | None, asked: Settings, facts: HostFacts, unused_gpu: str | None) -> tuple[str, ...]:
    """What the user should know before believing or timing an answer."""
    not_exact = f"--exact: {NOT_EXACT}" if asked.exact and not facts.exact else None
    return tuple(warning for warning in (template, not_exact, unused_gpu) if warning)


def plan(
    asked: Settings, quantisation: str, draft: Drafting, choice: Choice, n_ctx: int, facts: HostFacts
) -> tuple[PlanLine, ...]:
    given, repacked = "asked for", facts.extra_buffers
    shape = "plain" if choice.plain else "chain" if choice.width == 1 else "tree"
    rows_why = given if asked.nodes else "a fixed default until control measures it"
    lines = [
        PlanLine("weights", quantisation, "as the file has them"),
        PlanLine("context", str(n_ctx), given if asked.context else f"trained length, at most {MAX_DEFAULT_CONTEXT}"),
        PlanLine("kv", asked.kv, given if asked.kv != "f16" else "what the runtime computes in"),
        PlanLine("threads", str(threads(asked)), given if asked.threads else "one a core"),
        PlanLine("drafter", draft.name, draft.why),
        PlanLine("rows", f"{choice.rows} ({shape})", "nothing drafts" if choice.plain else rows_why),
        PlanLine(
            "extra buffers",
            "on" if repacked else "off",
            f"self-test: this host {'decodes' if repacked else 'dies'} with them",
        ),
    ]
    if asked.exact:
        lines.append(PlanLine("exact", "on" if facts.exact else "plain", EXACT if facts.exact else NOT_EXACT))
    else:
        rounding = "self-test: rows depend on the width of a pass here, so near ties may fall the other way"
        same = "self-test: rows are the same at every width here even without it"
        lines.append(PlanLine("exact", "off", rounding if facts.row_depends_on_width else same))
    return tuple(lines)
