"""The ladder down from a plan, in the order in which a plan gives things up (docs/design.md section 4).

Smaller tree, leaner drafter, a context that is still useful, no drafter, a context below that. Each rung keeps what the
ones before gave up, and needs fewer bytes. Not covered: when to step (engine), the words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edgespec.memory.arms import choice_of
from edgespec.memory.configuration import Configuration
from edgespec.memory.methods import TREE_WIDTH, target_spec
from edgespec.memory.problem import LEAST_CONTEXTS, USEFUL_CONTEXTS
from edgespec.memory.search import Candidate, Search
from edgespec.speculation.policies import SMALL
from edgespec.types import PLAIN

# Trees are halved down to this many rows; fewer hardly pay for a drafter's weights.
LEAST_ROWS = 3
# A step that frees less than this share of what is not weights is no help when memory gets short; the one to no drafter
# is there in any case.
LEAST_STEP = 0.01


def rungs(search: Search, chosen: Candidate) -> tuple[Configuration, ...]:
    """The plan's configuration first, then each step that frees something worth a step."""
    predict = search.problem.predict
    first = predict(chosen.configuration)
    kept, n_bytes = [chosen.configuration], first.total_bytes
    least = max(LEAST_STEP * (n_bytes - first.of("weights") - first.of("draft weights")), 1)
    for step in _steps(search, chosen.method, kept):
        step_bytes = predict(step).total_bytes
        if step_bytes <= n_bytes - (1 if step.choice.plain and not kept[-1].choice.plain else least):
            kept.append(step)
            n_bytes = step_bytes
    return tuple(kept)


def _steps(search: Search, method: str, kept: list[Configuration]) -> Iterator[Configuration]:
    """Candidates for the next rung, made from the last one kept."""
    if method != "plain":
        rows = kept[-1].choice.rows
        while rows > LEAST_ROWS:
            rows = max(rows // 2, LEAST_ROWS)
            yield _smaller(search, method, kept[-1], rows)
        own = next(m for m in search.problem.usable if m.name == method)
        yield from own.leaner(kept[-1])
    yield from _contexts(search, kept, USEFUL_CONTEXTS)
    if method != "plain":
        last = kept[-1]
        yield Configuration(target_spec(last.target, PLAIN), PLAIN, last.placement)
    yield from _contexts(search, kept, LEAST_CONTEXTS)


def _contexts(search: Search, kept: list[Configuration], shorter: tuple[int, ...]) -> Iterator[Configuration]:
    for n_ctx in search.problem.contexts(shorter):
        if n_ctx < kept[-1].target.n_ctx:
            yield _shorter(kept[-1], n_ctx)


def _smaller(search: Search, method: str, before: Configuration, rows: int) -> Configuration:
    """A tree of fewer rows with the drafter's context made for it."""
    old = before.choice
    width = min(old.width, TREE_WIDTH) if rows <= SMALL else old.width  # tables have no wider small trees
    choice = choice_of(search.tables[method], rows, width, min(old.depth, rows - 1))
    if choice.plain:  # a number of rows that the table has not
        choice = replace(old, rows=rows, depth=min(old.depth, rows - 1), width=width)
    base = replace(before, target=target_spec(before.target, choice), choice=choice, draft=None)
    if before.draft is None:
        return base
    own = next(m for m in search.problem.usable if m.name == method)
    for variant in own.variants(base, before.draft.placement):
        like = variant.draft
        if like and (like.context.kv_type, like.window) == (before.draft.context.kv_type, before.draft.window):
            return replace(base, draft=like)
    return replace(base, draft=before.draft)


def _shorter(before: Configuration, n_ctx: int) -> Configuration:
    """The same for a shorter conversation; a window that is no shorter than it goes."""
    target = replace(before.target, n_ctx=n_ctx)
    if before.draft is None:
        return replace(before, target=target)
    context = replace(before.draft.context, n_ctx=n_ctx)
    window = before.draft.window if before.draft.window and before.draft.window < n_ctx else None
    return replace(before, target=target, draft=replace(before.draft, context=context, window=window))
