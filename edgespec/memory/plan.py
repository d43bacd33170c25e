"""The plan: the fastest configuration that fits, why, and the ladder down from it (after SpecMemo, arXiv 2506.01986).

In this order: the context and the cache type that were asked for; speculation that keeps 96 % of what it could reach; a
shorter context, if none was asked for; plain decoding; a context below 2048; a smaller cache type (docs/memory.md).
Not covered: bytes (predict.py), the words (reasons.py), what happens when memory gets short later (engine).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgespec.errors import DoesNotFit
from edgespec.memory import reasons
from edgespec.memory.configuration import Configuration
from edgespec.memory.footprint import Footprint
from edgespec.memory.ladder import rungs
from edgespec.memory.problem import Problem, Tier
from edgespec.memory.search import TIE, Candidate, Search
from edgespec.speculation.policies import SMALL
from edgespec.types import PlanLine

# Speculation is worth its bytes while it keeps so much of the best it could do here (SpecMemo's criterion).
KEEP = 0.96
# Large trees are given room for more rows where that is expected to cost no more than this share of the speed.
ROOM = 0.1


@dataclass(frozen=True)
class Plan:
    """What to run.

    tokens_per_s, tokens_per_pass  as predicted, the bonus token included; speedup over plain decoding in the same room
    runner_up    the best that was decided against: another method, or another number of rows; None without one;
                 runner_up_tokens_per_s what it would come to
    why_not      one sentence about it
    floor_bytes  the least that keeps 96 % of the best speculative speed; None where speculation never pays
    rungs        configurations to step down to when memory gets short, this one first, each smaller than the one before
    lines        decisions with their reasons; warnings are what the user should know before an answer
    """

    configuration: Configuration
    footprint: Footprint
    method: str
    tokens_per_s: float
    tokens_per_pass: float
    speedup: float
    runner_up: Configuration | None
    runner_up_tokens_per_s: float | None
    why_not: str
    floor_bytes: int | None
    rungs: tuple[Configuration, ...]
    lines: tuple[PlanLine, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """What one tier came to.

    fast   the best speculative speed within the rooms, budget aside; 0.0 without one
    floor  least bytes that keep KEEP of it; None where speculation does not pay here
    drafts the best configuration that fits and drafts, worth its bytes; forced: the best that drafts, where the user
           insists; plain: the best that does not draft
    """

    tier: Tier
    fast: float
    floor: int | None
    drafts: Candidate | None
    forced: Candidate | None
    plain: Candidate | None


def plan(problem: Problem) -> Plan:
    """The plan for a problem; raises DoesNotFit where not even plain decoding has room."""
    search = Search(problem)
    useful = [_look(search, tier) for tier in problem.tiers(problem.settings.kv_type)]
    floors = [finding.floor for finding in useful if finding.floor is not None]
    floor = min(floors, default=None)
    found = next((f for f in useful if f.drafts or (f.plain and f.floor is None and not problem.insists)), None)
    found = found or next((f for f in useful if f.forced), None) or next((f for f in useful if f.plain), None)
    if found is None:
        resorts = (_look(search, tier) for tier in problem.last_resorts())
        found = next((f for f in resorts if f.plain), None)
    if found is None:
        raise DoesNotFit(reasons.does_not_fit(search))
    return _decided(search, found, floor)


def _look(search: Search, tier: Tier) -> Finding:
    """The best of a tier, drafting and plain, within rooms and budget."""
    budget, insists = search.problem.settings.budget, search.problem.insists
    drafting = search.within(search.arms, tier, None)
    plain = search.within(search.plain_arms, tier, None)
    fast = max((c.tokens_per_s for c in drafting), default=0.0)
    pays = fast > (1 + TIE) * max((c.tokens_per_s for c in plain), default=0.0)
    floor, drafts, forced = None, [], []
    if pays:
        enough = search.within(search.arms, tier, None, at_least=KEEP * fast, tie=None)
        floor = min(c.total_bytes for c in enough)
    if pays or insists:
        drafts = drafting if budget is None else search.within(search.arms, tier, budget, at_least=KEEP * fast)
    if insists and not drafts:
        forced = search.within(search.arms, tier, budget)
    if budget is not None:
        plain = search.within(search.plain_arms, tier, budget)
    return Finding(tier, fast, floor, _roomy(search, tier, _leanest(drafts)), _leanest(forced), _leanest(plain))


def _roomy(search: Search, tier: Tier, best: Candidate | None) -> Candidate | None:
    """Where large trees pay and each round is cut to what its own tree is worth (auto), the largest of those that are
    nearly as fast: which one is best depends on the text."""
    settings = search.problem.settings
    if best is None or settings.method != "auto":
        return best
    near = search.within(search.arms, tier, settings.budget, at_least=(1 - ROOM) * best.tokens_per_s, tie=None)
    large = [c for c in near if c.configuration.choice.rows > max(SMALL, best.configuration.choice.rows)]
    return max(large, key=lambda c: (c.configuration.choice.rows, c.tokens_per_s, -c.total_bytes), default=best)


def _leanest(equals: Sequence[Candidate]) -> Candidate | None:
    """Of equally fast ones the one with the fewest bytes, then the fastest."""
    return min(equals, key=lambda c: (c.total_bytes, -c.tokens_per_s), default=None)


def _decided(search: Search, found: Finding, floor: int | None) -> Plan:
    problem = search.problem
    chosen, drafts = found.plain, found.drafts or found.forced
    if drafts and (problem.insists or not chosen or drafts.tokens_per_s > (1 + TIE) * chosen.tokens_per_s):
        chosen = drafts
    assert chosen is not None  # a tier without anything that fits is passed over
    plain = found.plain or chosen
    runner_up, why_not = _runner_up(search, found, chosen)
    footprint = problem.predict(chosen.configuration)
    decision = reasons.Decision(chosen, found.tier, plain, runner_up, why_not, floor, found.fast, footprint)
    return Plan(
        configuration=chosen.configuration,
        footprint=footprint,
        method=chosen.method,
        tokens_per_s=chosen.tokens_per_s,
        tokens_per_pass=chosen.tokens_per_pass,
        speedup=chosen.tokens_per_s / plain.tokens_per_s,
        runner_up=runner_up.configuration if runner_up else None,
        runner_up_tokens_per_s=runner_up.tokens_per_s if runner_up else None,
        why_not=why_not,
        floor_bytes=floor,
        rungs=rungs(search, chosen),
        lines=reasons.lines(problem, decision),
        warnings=reasons.warnings(problem, decision),
    )


def _runner_up(search: Search, found: Finding, chosen: Candidate) -> tuple[Candidate | None, str]:
    """The best of another kind that fits, else that would fit without a budget, and why it lost."""
    kind = (chosen.method, chosen.configuration.choice.rows)
    others = [a for a in search.arms if a.method and (a.method.name, a.choice.rows) != kind]
    plain = [] if chosen.method == "plain" else search.plain_arms
    for budget in (search.problem.settings.budget, None):
        pool = search.within(others, found.tier, budget) + search.within(plain, found.tier, budget)
        if pool:
            best = max(pool, key=lambda c: (c.tokens_per_s, -c.total_bytes))
            return best, reasons.why_not(best, chosen, search.problem)
    return None, "nothing else was possible"
