"""The composition root: settings in, something that answers out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace

from edgespec import explain
from edgespec.assistant import Assistant
from edgespec.backends.base import Context
from edgespec.backends.llama_cpp import build as runtime_build
from edgespec.backends.llama_cpp import runtime
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.backends.llama_cpp.selftest import HostFacts, host_facts, rows_agree
from edgespec.candidates import insists
from edgespec.chat.answer import Chat
from edgespec.engine.ladder import Ladder
from edgespec.engine.loop import Engine
from edgespec.errors import EdgespecError
from edgespec.loading import Drafters, Loader, Report, draws_for
from edgespec.memory.measure import Weighing
from edgespec.memory.plan import Plan
from edgespec.memory.pressure import read_once
from edgespec.memory.reasons import described
from edgespec.opening import Opening, begin_at
from edgespec.planning import Planner
from edgespec.retrimming import Retrimming
from edgespec.settings import Settings
from edgespec.speculation.controllers import Controller
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.store import paths
from edgespec.store.registry import Entry, resolve
from edgespec.types import ContextSpec, PlanLine
from edgespec.workbench import Workbench

DEFAULT_MODEL = "demo"
Cancelled = Callable[[], bool]


def open_assistant(
    settings: Settings | None = None,
    report: Report = lambda _what, _done: None,
    cancelled: Cancelled = lambda: False,
    rung: int = 0,
    beside_bytes: int = 0,
) -> Assistant:
    """Resolve, check, plan, load and wire; report(what, share done) on the way.

    rung          how many steps down its plan's ladder to begin; at most the last one with the plan's context
    beside_bytes  what other processes of ours take of the budget
    Raises BadSetting, ModelNotFound, ModelUnusable, DrafterUnusable, DoesNotFit, Cancelled.
    """
    return _open({"": settings or Settings()}, report, cancelled, rung, beside_bytes).assistant


def open_workbench(
    methods: Mapping[str, Settings],
    report: Report = lambda _what, _done: None,
    cancelled: Cancelled = lambda: False,
) -> Workbench:
    """The same with room for every one of `methods`, which differ in method, shape, nodes and depth only; the first one
    is in use. Raises what open_assistant raises."""
    return _open(methods, report, cancelled, 0, 0)


def planner_for(settings: Settings, report: Report, beside_bytes: int = 0) -> tuple[Planner, HostFacts, Entry]:
    """A planner with nothing loaded. Raises what open_assistant raises."""
    entry = resolve(DEFAULT_MODEL if settings.model is None else settings.model)
    facts = host_facts(
        resolve(DEFAULT_MODEL).path,
        paths.cache_dir(),
        lambda what: report(what, 0.0),
        lambda: read_once().free_bytes,
    )
    return Planner(settings, entry, facts, beside_bytes), facts, entry


def _open(
    methods: Mapping[str, Settings], report: Report, cancelled: Cancelled, rung: int, beside_bytes: int
) -> Workbench:
    asked = _leading(methods)
    planner, facts, entry = planner_for(asked, report, beside_bytes)
    loader = Loader(LoadOptions(facts.extra_buffers, facts.exact), report, cancelled)
    first = planner.plan()
    weighing = Weighing.begin()
    with ExitStack() as stack:
        target = loader.model(planner.target.path, first.configuration.placement, stack)
        facts = _tried_on(target, asked, facts, planner, report)
        sources = {planner.draft.name: planner.draft} if planner.draft else {}
        drafters = Drafters(loader, sources, target, entry.name)
        stack.callback(drafters.close)
        opening = Opening(planner, target, drafters, first, report, cancelled)
        if not rung:  # what just died may have died of it
            opening.time_passes()
        plans, ladder = opening.settle(methods, rung)

        retrimming = _retrimming(planner, drafters) if asked.remember and len(methods) == 1 else None

        keep, tidy = _for_later(opening, planner, retrimming)
        stack.callback(keep)
        engine = Engine(ladder.setup, ladder=ladder, n_ctx_train=target.n_ctx_train, draws=draws_for(asked.verify))
        stack.callback(engine.close)
        chat = Chat(target, engine, retrimming.heard) if retrimming else Chat(target, engine)
        name = next(iter(methods))
        made = plans[name]
        lines = explain.plan(methods[name], planner.target.quantisation, made.lines, planner.why_plain, facts)
        unused = runtime_build.unused_gpu_warning(runtime.supports_gpu())
        warned = (
            *explain.warnings(chat.warning, asked, facts, unused),
            *made.warnings,
            *opening.warnings,
            *(planner.passed_over if planner.draft else ()),
            *((retrimming.warning,) if retrimming and retrimming.warning else ()),
        )
        assistant = Assistant(
            entry=entry,
            chat=chat,
            engine=engine,
            plan=(*lines, *_head_line(planner), *opening.lines, _ladder_line(made, ladder)),
            warnings=(*warned, *_stepped_down(made, ladder, rung)),
            owned=stack.pop_all(),
            memory=planner.report(made),
            n_rungs=1 + begin_at(made.rungs, len(made.rungs)),
            weighing=weighing,
            keep=keep,
            tidy=tidy,
        )
    return _workbench(methods, assistant, planner, opening, plans, target, drafters)


def _for_later(
    opening: Opening, planner: Planner, retrimming: Retrimming | None
) -> tuple[Callable[[], str | None], Callable[[Cancelled], str | None]]:
    """What saves what answers taught, and what can be done while nobody waits; both return a line for the user."""

    def keep() -> str | None:
        warned = (opening.keep(), planner.save_learnt(), retrimming.keep() if retrimming else None)
        return "; ".join(filter(None, warned)) or None

    def tidy(awaited: Cancelled) -> str | None:
        return retrimming.tidy(planner.known.acceptance.agreement, awaited) if retrimming else None

    return keep, tidy


def _workbench(
    methods: Mapping[str, Settings],
    assistant: Assistant,
    planner: Planner,
    opening: Opening,
    plans: Mapping[str, Plan],
    target: LlamaModel,
    drafters: Drafters,
) -> Workbench:
    """The assistant, with what it takes to change its method."""
    name = next(iter(methods))
    choices = {name: p.configuration.choice for name, p in plans.items()}
    whys = {name: _why_plain(planner, p) for name, p in plans.items()}
    how = replace(_leading(methods), threads=planner.n_threads)
    draft = next(iter(drafters.models.values()), None)
    key = planner.curve_key(planner.target, plans[name].configuration.placement)

    controllers: dict[str, Controller] = {}

    def controller(name: str) -> Controller:
        """A method goes on deciding by what it saw of its own rounds; texts, which all methods say, are unlearnt."""
        assert opening.drafting is not None
        opening.drafting.unlearn()
        if name not in controllers:
            controllers[name] = opening.drafting.controller(plans[name].configuration, methods[name])
        return controllers[name]

    bench = Workbench(assistant, choices, whys, how, target, draft, _model_drafter, key, controller)
    if len(methods) > 1:
        bench.use(name)
    return bench


def _retrimming(planner: Planner, drafters: Drafters) -> Retrimming | None:
    """Counts what is said, for the head of a trimmed drafter that is loaded, so that its vocabulary is known to be the
    target's; None for others, and where a file is gone by now."""
    draft = planner.draft
    if draft is None or draft.shape.n_whole_vocab is None or draft.name not in {name for name, _ in drafters.models}:
        return None
    try:
        return Retrimming(planner.target, draft)
    except (EdgespecError, OSError):  # it is loaded and drafts; only its next trimming waits for the next start
        return None


def _model_drafter(context: Context) -> ModelDrafter:
    return ModelDrafter(Reader(context))


def _stepped_down(made: Plan, ladder: Ladder, rung: int) -> tuple[str, ...]:
    if ladder.rung <= begin_at(made.rungs, rung):
        return ()
    return (f"memory did not suffice for the plan; this runs as {described(ladder.configuration)}",)


def _ladder_line(made: Plan, ladder: Ladder) -> PlanLine:
    n_steps = len(made.rungs) - 1
    if ladder.rung:
        return PlanLine("ladder", f"step {ladder.rung} of {n_steps}", f"runs as {described(ladder.configuration)}")
    return PlanLine("ladder", f"{n_steps} steps", "down where memory gets short, and up again")


def _head_line(planner: Planner) -> tuple[PlanLine, ...]:
    """What a trimmed drafter can say, and by what that was chosen."""
    draft = planner.draft
    if draft is None or draft.shape.n_whole_vocab is None:
        return ()
    return (PlanLine("draft head", f"{draft.shape.n_vocab} of {draft.shape.n_whole_vocab} rows", draft.rows_by),)


def _why_plain(planner: Planner, plan: Plan) -> str:
    if not plan.configuration.choice.plain or plan.configuration.sources:
        return ""
    return planner.why_plain or next((line.reason for line in plan.lines if line.line == "drafter"), "")


def _leading(methods: Mapping[str, Settings]) -> Settings:
    """The settings that say how to load: of a method that insists on its drafter, else of one that may draft, else the
    first."""
    every = list(methods.values())
    return next((s for s in every if insists(s)), next((s for s in every if s.method != "plain"), every[0]))


def _tried_on(target: LlamaModel, asked: Settings, facts: HostFacts, planner: Planner, report: Report) -> HostFacts:
    """The facts with --exact tried on these very weights and threads: the self-test knew only the demo's."""
    if not (asked.exact and facts.exact):
        return facts
    # Two contexts of the trial as one of twice the size.
    if not planner.affords(ContextSpec(1024, 1, 64, 17, asked.kv_type, 64, planner.n_threads, exact=True)):
        planner.not_exact("there is no room to try out --exact on this model, so decoding is plain")
        return replace(facts, exact=False)
    report("trying out --exact on this model", 0.0)
    holds = rows_agree(target, asked.kv_type, exact=True, n_threads=planner.n_threads, n_past=300, n_rounds=5)
    if not holds:
        planner.not_exact(explain.NOT_EXACT)
    return replace(facts, exact=holds)
