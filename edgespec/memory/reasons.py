"""The words of a plan: one line a decision with its reason, in numbers, and what to say where a model does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgespec.memory.configuration import Configuration
from edgespec.memory.footprint import CPU, Footprint
from edgespec.memory.problem import LEAST_CONTEXTS, MAX_DEFAULT_CONTEXT, USEFUL_CONTEXTS, Problem, Tier
from edgespec.memory.search import N_UBATCH, Candidate, Search, decoding_rate
from edgespec.memory.sizes import MIB, shown
from edgespec.memory.times import DISK
from edgespec.types import KV_TYPES, PlanLine

STREAMING = "streaming"
# Trees of more rows than any pass of weights in memory here paid for.
BIG = 32
SMALLER_KV = "a smaller cache type changes what the model says"


@dataclass(frozen=True)
class Decision:
    """What was decided, and what it was decided against.

    plain  the best that fits and does not draft; fast: the best speculative tokens a second, budget aside
    """

    chosen: Candidate
    tier: Tier
    plain: Candidate
    runner_up: Candidate | None
    why_not: str
    floor_bytes: int | None
    fast: float
    footprint: Footprint


def lines(problem: Problem, made: Decision) -> tuple[PlanLine, ...]:
    """In the order in which a reader asks."""
    return tuple(
        line
        for part in (_streamed, _memory, _placement, _context, _kv, _drafter, _rows, _draft_memory, _prompts)
        for line in part(problem, made)
    )


def warnings(problem: Problem, made: Decision) -> tuple[str, ...]:
    """What changes the text, or the user's own words that could not be followed."""
    found = []
    if made.tier.kv_type != problem.settings.kv_type:
        found.append(
            f"the cache is kept as {made.tier.kv_type}, which changes what the model says: {problem.settings.kv_type} "
            f"did not fit into {shown(problem.free_bytes)}; a larger --budget or --kv {made.tier.kv_type} settles it"
        )
    if problem.insists and made.chosen.method == "plain" and problem.usable:
        found.append(
            f"the drafter that was asked for does not fit into {shown(problem.free_bytes)} beside the model; "
            "this decodes plainly (raise --budget, or ask for a smaller --context)"
        )
    return tuple(found)


def why_not(loser: Candidate, chosen: Candidate, problem: Problem) -> str:
    """One sentence: room, speed, or bytes at equal speed."""
    name = named(loser.configuration)
    if loser.total_bytes > problem.free_bytes:
        return f"{name} needs {shown(loser.total_bytes)} and {shown(problem.free_bytes)} are there"
    if loser.tokens_per_s < chosen.tokens_per_s:
        return f"{name} comes to {loser.tokens_per_s:.1f} tokens/s against {chosen.tokens_per_s:.1f}"
    if problem.insists and loser.method == "plain":
        return f"{name} comes to {loser.tokens_per_s:.1f} tokens/s, but a drafter was asked for"
    if loser.total_bytes < chosen.total_bytes:
        faster = 100 * (loser.tokens_per_s / chosen.tokens_per_s - 1)
        return f"{name} is expected to be {faster:.0f} % faster, but has no room where a text allows a larger tree"
    more = loser.total_bytes - chosen.total_bytes
    return f"{name} is faster by no more than 1 % and needs {shown(more)} more"


def named(configuration: Configuration) -> str:
    """ "plain decoding", "model with 8 rows (tree)"."""
    choice = configuration.choice
    return "plain decoding" if choice.plain else f"{choice.drafter} with {choice.rows} rows ({_shape(configuration)})"


def described(configuration: Configuration) -> str:
    """The same with what its memory depends on."""
    said = [named(configuration), f"context {configuration.target.n_ctx}"]
    if (draft := configuration.draft) is not None:
        said.append(f"draft cache {draft.context.kv_type}")
        if draft.window is not None:
            said.append(f"the last {draft.window} tokens")
    return ", ".join(said)


def does_not_fit(search: Search) -> str:
    """What is missing and what would fit instead."""
    problem, asked = search.problem, search.problem.settings
    free, tier = problem.free_bytes, Tier(problem.default_context, asked.kv_type)
    needed = search.least_bytes(tier)
    says = f"{asked.model or 'the model'} needs {shown(needed)} with a context of {tier.n_ctx} tokens"
    had = f"{shown(free)} are {_bound(problem)}"
    if needed <= free:
        had = "no device has room for its part: " + ", ".join(
            f"{room.device} has {shown(room.free_bytes)}" for room in problem.rooms
        )
    for n_ctx in (*USEFUL_CONTEXTS, *LEAST_CONTEXTS) if asked.context else ():
        less = Tier(n_ctx, asked.kv_type)
        if n_ctx < tier.n_ctx and search.within(search.plain_arms, less, asked.budget):
            return f"{says}, but {had}; with --context {n_ctx} it needs {shown(search.least_bytes(less))}"
    smallest = Tier(tier.n_ctx, KV_TYPES[-1])
    if asked.kv is not None and search.within(search.plain_arms, smallest, asked.budget):
        needs = shown(search.least_bytes(smallest))
        return f"{says}, but {had}; with --kv {smallest.kv_type}, which changes what it says, it needs {needs}"
    shortest = problem.least_tier
    least = search.least_bytes(shortest)
    rooms = sum(room.free_bytes for room in problem.rooms)
    if free < least <= rooms:
        way = f"a budget of {-(-least // MIB)}MiB would do for {shortest.n_ctx} tokens"
    else:
        way = f"free {shown(max(least - rooms, MIB))} more for {shortest.n_ctx} tokens, or use a smaller model"
    return f"{says}, but {had}; {way}"


def _streamed(problem: Problem, made: Decision) -> Iterator[PlanLine]:
    """What to expect of a model that memory does not hold, in one line."""
    chosen = made.chosen
    if not chosen.configuration.placement.streamed:
        return
    rows = chosen.configuration.choice.rows
    trees = ", big trees" if rows > BIG else f", {rows} rows a pass" if rows > 1 else ""
    rate = decoding_rate(chosen)
    speed = f"about {rate:.{1 if rate >= 0.95 else 2}f} tokens/s"
    if problem.target.measured is None or not problem.target.measured.where.placement.streamed:
        speed += f" if the disk gives {problem.machine.of(DISK) / 1e9:g} GB/s"
    free = sum(room.free_bytes for room in problem.rooms)
    reason = f"{shown(problem.target.weight_bytes)} of weights do not fit beside the rest into {shown(free)}"
    yield PlanLine(STREAMING, f"streamed from disk{trees}, {speed}", reason)


def _memory(problem: Problem, made: Decision) -> Iterator[PlanLine]:
    reason = f"of {shown(problem.free_bytes)} {_bound(problem)}"
    if made.floor_bytes is not None:
        reason += f"; from {shown(made.floor_bytes)} on, speculation keeps 96 % of its speed"
    yield PlanLine("memory", shown(made.footprint.total_bytes), reason)


def _bound(problem: Problem) -> str:
    return "within the budget" if problem.settings.budget == problem.free_bytes else "free"


def _placement(problem: Problem, made: Decision) -> Iterator[PlanLine]:
    gpus = [room.device for room in problem.rooms if room.device != CPU]
    if not gpus:
        return
    placement, n_all = made.chosen.configuration.placement, problem.target.n_layers + 1
    if not placement.n_gpu_layers:
        yield PlanLine("placement", "processor", f"nothing of it is faster on {', '.join(gpus)} within its room")
        return
    experts = ", experts on the processor" if placement.experts_on_cpu else ""
    used = [g for g, share in zip(gpus, placement.tensor_split or (1.0,) * len(gpus), strict=True) if share]
    taken = ", ".join(
        f"{room.device} {shown(made.footprint.on(room.device))} of {shown(room.free_bytes)}"
        for room in problem.rooms
        if room.device in used
    )
    yield PlanLine("placement", f"{placement.n_gpu_layers} of {n_all} layers on {', '.join(used)}{experts}", taken)


def _context(problem: Problem, made: Decision) -> Iterator[PlanLine]:
    n_ctx = made.tier.n_ctx
    if problem.settings.context:
        reason = "asked for"
    elif n_ctx < problem.default_context:
        what = "plain decoding" if made.chosen.method == "plain" else "a drafter"
        reason = f"{problem.default_context} tokens leave no room for {what} in {shown(problem.free_bytes)}"
    else:
        reason = f"trained length, at most {MAX_DEFAULT_CONTEXT}"
    yield PlanLine("context", str(n_ctx), reason)


def _kv(problem: Problem, made: Decision) -> Iterator[PlanLine]:
    asked = problem.settings.kv_type
    if made.tier.kv_type != asked:
        reason = f"{asked} does not fit into {shown(problem.free_bytes)}; {SMALLER_KV}"
    else:
        reason = "what the runtime computes in" if asked == "f16" else f"asked for; {SMALLER_KV}"
    yield PlanLine("kv", made.tier.kv_type, reason)


def _drafter(problem: Problem, made: Decision) -> Iterator[PlanLine]:
    chosen, plain = made.chosen, made.plain
    if chosen.method != "plain":
        draft = chosen.configuration.draft
        gain = f"{chosen.tokens_per_s / plain.tokens_per_s:.2f}x plain decoding expected"
        speeds = (
            f"{chosen.tokens_per_s:.1f} against {plain.tokens_per_s:.1f} tokens/s, {chosen.tokens_per_pass:.1f} a pass"
        )
        where = _place(problem, made) if draft else ""
        asked = "asked for; " if problem.insists else ""
        yield PlanLine("drafter", draft.name if draft else chosen.method, f"{asked}{gain} ({speeds}){where}")
        return
    if problem.settings.method == "plain" or problem.settings.draft == "none" or problem.settings.nodes == 1:
        reason = "plain decoding was asked for"
    elif not problem.usable:
        reason = "nothing that could draft is known for this model"
    elif made.floor_bytes is not None:
        reason = (
            f"speculation needs {shown(made.floor_bytes)} to keep 96 % of its speed, "
            f"and {shown(problem.free_bytes)} are there"
        )
    elif made.fast:
        reason = f"speculation would come to {made.fast:.1f} tokens/s, plain decoding to {plain.tokens_per_s:.1f}"
    else:
        reason = f"no drafter fits into {shown(problem.free_bytes)} beside the model"
    yield PlanLine("drafter", "none", reason)


def _place(problem: Problem, made: Decision) -> str:
    devices = {item.device for item in made.footprint.items if item.component == "draft weights" and item.n_bytes}
    return f", on {', '.join(sorted(devices))}" if len(problem.rooms) > 1 and devices else ""


def _rows(problem: Problem, made: Decision) -> Iterator[PlanLine]:
    choice = made.chosen.configuration.choice
    value = f"{choice.rows} ({_shape(made.chosen.configuration)})"
    reason = "asked for" if problem.settings.nodes and not choice.plain else made.why_not
    yield PlanLine("rows", value, reason)


def _draft_memory(problem: Problem, made: Decision) -> Iterator[PlanLine]:
    draft = made.chosen.configuration.draft
    if draft is None:
        return
    short = f"to fit into {shown(problem.free_bytes)}; it changes the drafts, never the text"
    full = draft.context.kv_type == "f16"
    yield PlanLine("draft kv", draft.context.kv_type, "there is room for it" if full else short)
    if draft.window is not None:
        yield PlanLine("draft window", str(draft.window), short)


def _prompts(problem: Problem, made: Decision) -> Iterator[PlanLine]:
    n_ubatch = made.chosen.configuration.target.n_ubatch
    reason = "as wide as pays" if n_ubatch == N_UBATCH[0] else "prompts hardly slower, and a smaller compute buffer"
    yield PlanLine("prompt batch", str(n_ubatch), reason)


def _shape(configuration: Configuration) -> str:
    choice = configuration.choice
    return "plain" if choice.plain else "chain" if choice.width == 1 else "tree"
