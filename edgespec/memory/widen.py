"""A plan with room for what sources draft: rows that copies fill, and the tables that they are copied from.

A plan is made for the trees that pay on average. A copy of earlier text carries many more tokens a pass, now and then,
so the widest rung has room for it where memory allows; every rung keeps the tables once they are there.
Not covered: what sources are (speculation/drafters), deciding each round (speculation/goodput.py).
"""

from __future__ import annotations

from dataclasses import replace

from edgespec.memory.configuration import Configuration
from edgespec.memory.footprint import Footprint
from edgespec.memory.methods import Method, target_spec
from edgespec.memory.plan import Plan
from edgespec.memory.problem import Problem
from edgespec.memory.sizes import shown
from edgespec.speculation.spare_rows import LOOKAHEAD_SAMPLED, pays
from edgespec.types import Choice, PlanLine

# Rows of the widest pass: a copy of 16 costs 3.2 plain steps on f16 (docs/design.md section 8) and can carry 16 tokens.
ROWS, WIDTH = 16, 8


def with_sources(problem: Problem, made: Plan, named: str | None) -> Plan:
    """The plan with sources, or as it was where they do not fit.

    named: the source that was asked for by --method, which drafts always; None: the controller decides.
    """
    asked, c = problem.settings, made.configuration
    rows = asked.nodes or max(ROWS, c.choice.rows)
    width = 1 if asked.shape == "chain" else WIDTH
    depth, width = min(asked.depth or rows - 1, rows - 1), max(width, c.choice.width)
    wide = _widened(problem, c, Choice(named or "lookup", rows, depth, width), named)
    wide = replace(wide, expected=0.0 if c.choice.plain else made.speedup)
    footprint = problem.predict(wide)
    if not _fits(problem, footprint):
        return made
    leaner = [r for r in made.rungs if problem.predict(r).total_bytes < footprint.total_bytes]
    rungs = (wide, *(_with_choice(replace(r, sources=True, expected=wide.expected), named) for r in leaner))
    more = footprint.total_bytes - made.footprint.total_bytes
    if named == "lookahead" and problem.target.measured is not None:
        what = pays(problem.target.measured.curve, LOOKAHEAD_SAMPLED).reason
    else:
        what = f"{named}, asked for" if named else f"copies of up to {rows} rows from earlier text, recycled rows"
    line = PlanLine("lookahead" if named == "lookahead" else "sources", "on", f"{what}; {shown(more)} more")
    lines = [replace(x, value=shown(footprint.total_bytes)) if x.line == "memory" else x for x in made.lines]
    if named:
        lines = [
            PlanLine("drafter", named, "asked for") if x.line == "drafter" and x.value == "none" else x for x in lines
        ]
    at = next((i + 1 for i, x in enumerate(lines) if x.line == "rows"), len(lines))
    return replace(
        made,
        configuration=wide,
        footprint=footprint,
        method=named or made.method,
        rungs=rungs,
        lines=(*lines[:at], line, *lines[at:]),
    )


def _widened(problem: Problem, c: Configuration, choice: Choice, named: str | None) -> Configuration:
    target = target_spec(c.target, choice)
    if c.choice.plain or c.draft is None:
        return replace(c, target=target, choice=choice if named else c.choice, sources=True)
    drafts = replace(c.choice, rows=choice.rows, depth=choice.depth, width=choice.width)
    base = replace(c, target=target, choice=drafts, draft=None)
    draft = replace(c, target=target, choice=drafts, sources=True)
    for variant in _method(problem, c.choice.drafter).variants(base, c.draft.placement):
        like = variant.draft
        if like and (like.context.kv_type, like.window) == (c.draft.context.kv_type, c.draft.window):
            draft = replace(draft, draft=like)
            break
    return replace(draft, choice=replace(drafts, drafter=named)) if named else draft


def _with_choice(rung: Configuration, named: str | None) -> Configuration:
    """A leaner rung that drafts as was asked for: with a drafter if that takes part, else in what rows it has."""
    if named is None or (rung.choice.plain and named == "mix"):
        return rung
    if not rung.choice.plain:
        return replace(rung, choice=replace(rung.choice, drafter=named))
    rows = rung.target.max_nodes
    return replace(rung, choice=Choice(named, rows, rows - 1, WIDTH if rung.target.max_leaves > 1 else 1))


def _method(problem: Problem, name: str) -> Method:
    return next(m for m in problem.methods if m.name == name)


def _fits(problem: Problem, footprint: Footprint) -> bool:
    rooms = all(footprint.on(room.device) <= room.free_bytes for room in problem.rooms)
    return rooms and footprint.total_bytes <= problem.free_bytes
