"""The composition root: settings in, something that answers out. The only file that names concrete classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from edgespec import explain
from edgespec.assistant import Assistant
from edgespec.backends.llama_cpp import build, runtime
from edgespec.backends.llama_cpp.context import LlamaContext
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.backends.llama_cpp.selftest import HostFacts, host_facts, rows_agree
from edgespec.chat.answer import Chat
from edgespec.engine.ladder import Ladder
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Build
from edgespec.errors import BadSetting, Cancelled, DrafterUnusable, EdgespecError
from edgespec.gguf.inspect import inspect
from edgespec.memory.configuration import Configuration, DraftModel, Placement
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.store import paths
from edgespec.store.registry import Entry, resolve
from edgespec.types import PLAIN, Choice, ContextSpec, Settings
from edgespec.workbench import Workbench

DEFAULT_MODEL = "demo"
DEFAULT_NODES = {"chain": 5, "tree": 8}
TREE_WIDTH = 8
MAX_LEAVES = 255

Report = Callable[[str, float], None]


@dataclass(frozen=True)
class _Loader:
    """Opens what a plan names into one stack, reporting and asking for a cancel on the way."""

    options: LoadOptions
    report: Report
    cancelled: Callable[[], bool]

    def model(self, path: Path, stack: ExitStack) -> LlamaModel:
        def on_progress(done: float) -> bool:
            self.report(f"loading {path.stem}", done)
            return not self.cancelled()

        if self.cancelled():
            raise Cancelled("stopped before loading the model")
        model = LlamaModel(path, self.options, on_progress)
        stack.callback(model.close)
        return model

    def context(self, model: LlamaModel, spec: ContextSpec) -> LlamaContext:
        """Raises BadSetting where a pass cannot have that many rows."""
        if self.cancelled():
            raise Cancelled("stopped before opening the context")
        context = model.open(spec)
        if context.caps.max_nodes < spec.max_nodes:
            context.close()
            rows = context.caps.max_nodes
            raise BadSetting(
                f"--nodes {spec.max_nodes} is more than the {rows} rows a pass may have here; use {rows} or less"
            )
        return context


@dataclass(frozen=True)
class _Draft:
    """The drafter that was found, or none; why says why."""

    why: str
    model: LlamaModel | None = None
    name: str = ""


def open_assistant(
    settings: Settings | None = None,
    report: Report = lambda _what, _done: None,
    cancelled: Callable[[], bool] = lambda: False,
    rung: int = 0,
) -> Assistant:
    """Resolve, check, load and wire; report(what, share done) on the way.

    Raises BadSetting, ModelNotFound, ModelUnusable, DrafterUnusable, DoesNotFit, Cancelled.
    """
    return open_workbench({"": settings or Settings()}, report, cancelled).assistant


def open_workbench(
    methods: Mapping[str, Settings],
    report: Report = lambda _what, _done: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Workbench:
    """The same with room for every one of `methods`, which differ in method, shape, nodes and depth only; the first one
    is in use. Raises what open_assistant raises."""
    asked = _leading(methods)
    entry = resolve(DEFAULT_MODEL if asked.model is None else asked.model)
    file = inspect(entry.path)
    facts = host_facts(resolve(DEFAULT_MODEL).path, paths.cache_dir(), lambda what: report(what, 0.0))
    loader = _Loader(LoadOptions(facts.extra_buffers, facts.exact), report, cancelled)
    with ExitStack() as stack:
        target = loader.model(file.path, stack)
        n_ctx = _context(asked, target.n_ctx_train)
        facts = _tried_on(target, asked, facts, report)
        wanted = {name: _wanted(settings, facts, target) for name, settings in methods.items()}
        widest = _widest([choice for choice, _ in wanted.values()])
        draft = (
            _Draft(next(why for _, why in wanted.values()))
            if widest.plain
            else _drafter(asked, entry, target, loader, stack)
        )
        loaded = _loaded(draft, entry, target, loader, stack)
        parts = _build(target, loaded, loader)
        try:
            ladder = Ladder([_rung(asked, widest, draft, n_ctx)], parts)
        except DrafterUnusable as error:
            if _insists(asked):
                raise
            draft = _Draft(f"{draft.name} was passed over: {error}")
            ladder = Ladder([_rung(asked, PLAIN, draft, n_ctx)], parts)
        engine = Engine(ladder.setup, ladder=ladder, n_ctx_train=target.n_ctx_train)
        stack.callback(engine.close)
        choices = {name: PLAIN if draft.model is None else choice for name, (choice, _) in wanted.items()}
        whys = {name: why or ("" if draft.model else draft.why) for name, (_, why) in wanted.items()}
        chat = Chat(target, engine)
        first = next(iter(choices))
        plan = explain.plan(methods[first], file.quantisation, _explained(draft), choices[first], n_ctx, facts)
        warnings = explain.warnings(chat.warning, asked, facts, build.unused_gpu_warning(runtime.supports_gpu()))
        assistant = Assistant(entry, chat, engine, plan, warnings, stack.pop_all())
    how = replace(asked, threads=explain.threads(asked))
    bench = Workbench(assistant, choices, whys, how, target, draft.model, ModelDrafter)
    bench.use(first)
    return bench


def _leading(methods: Mapping[str, Settings]) -> Settings:
    """The settings that say how to load: those of a method that insists on its drafter, else the first."""
    every = list(methods.values())
    return next((s for s in every if s.method == "model" or s.draft is not None), every[0])


def _widest(choices: Sequence[Choice]) -> Choice:
    """One choice with room for each of them; PLAIN where none drafts."""
    drafting = [c for c in choices if not c.plain]
    if not drafting:
        return PLAIN
    rows, depth, width = (max(getattr(c, name) for c in drafting) for name in ("rows", "depth", "width"))
    return Choice(drafting[0].drafter, rows, depth, width)


def _explained(draft: _Draft) -> explain.Drafting:
    return explain.Drafting(draft.model.name if draft.model else "none", draft.why)


def _context(asked: Settings, n_ctx_train: int) -> int:
    if asked.context is not None and asked.context > n_ctx_train:
        raise BadSetting(
            f"--context {asked.context} is beyond the {n_ctx_train} tokens this model was trained for; "
            f"use {n_ctx_train} or less"
        )
    return asked.context or min(n_ctx_train, explain.MAX_DEFAULT_CONTEXT)


def _tried_on(target: LlamaModel, asked: Settings, facts: HostFacts, report: Report) -> HostFacts:
    """The facts with --exact tried on these very weights and threads: the self-test knew only the demo's."""
    if not (asked.exact and facts.exact):
        return facts
    report("trying out --exact on this model", 0.0)
    holds = rows_agree(target, asked.kv, exact=True, n_threads=explain.threads(asked), n_past=300, n_rounds=5)
    return replace(facts, exact=holds)


def _wanted(asked: Settings, facts: HostFacts, target: LlamaModel) -> tuple[Choice, str]:
    """How to draft where a drafter can be had, or PLAIN and why. Raises BadSetting where flags contradict."""
    if asked.method == "plain" or asked.draft == "none":
        return PLAIN, "asked for"
    if target.recurrent:
        return PLAIN, "this model's recurrent state cannot drop rejected tokens"
    if asked.exact and not facts.exact:
        return PLAIN, explain.NOT_EXACT
    shape = "tree" if asked.shape == "auto" else asked.shape
    rows = asked.nodes or DEFAULT_NODES[shape]
    if rows > 1:
        return Choice("model", rows, asked.depth or rows - 1, width=1 if shape == "chain" else TREE_WIDTH), ""
    if asked.method == "model" or asked.draft is not None:
        raise BadSetting("--nodes 1 leaves no room for a draft; use 2 or more, or --method plain without -d")
    return PLAIN, "--nodes 1 leaves no room for a draft"


def _insists(asked: Settings) -> bool:
    """Whether a drafter that cannot draft is an error, not one to be passed over."""
    return asked.draft is not None or asked.method == "model"


def _drafter(asked: Settings, entry: Entry, target: LlamaModel, loader: _Loader, stack: ExitStack) -> _Draft:
    """The drafter, loaded into stack; one that only the model list names is passed over where it cannot draft.

    Raises DrafterUnusable for one the user named, Cancelled.
    """
    name = next(iter(entry.drafts), None) if asked.draft is None else asked.draft
    if name is None:
        if _insists(asked):
            raise DrafterUnusable(f"no drafter is known for {entry.name}; name one with -d NAME or a .gguf path")
        return _Draft("no drafter is known for this model; name one with -d")
    try:
        model = _load_drafter(name, entry, target, loader)
    except Cancelled:
        raise
    except EdgespecError as error:
        if _insists(asked):
            raise DrafterUnusable(str(error)) from error
        return _Draft(f"{name} was passed over: {error}")
    return _Draft("asked for" if asked.draft else "the model list names it for this target", model, name)


def _load_drafter(name: str, entry: Entry, target: LlamaModel, loader: _Loader) -> LlamaModel:
    """Raises DrafterUnusable, and what resolving and loading raise."""
    with ExitStack() as own:
        model = loader.model(inspect(resolve(name).path).path, own)
        if model.recurrent:
            raise DrafterUnusable(f"{name} has a recurrent state, which cannot drop rejected tokens; use another")
        _check_vocabulary(name, model, target, entry)
        own.pop_all()
    return model


@dataclass(frozen=True)
class _Loaded:
    """Weights of drafters that are there, by name and placement; `load` brings one that is not."""

    load: Callable[[str], LlamaModel]
    models: dict[tuple[str, Placement], LlamaModel]

    def get(self, draft: DraftModel) -> LlamaModel:
        key = draft.name, draft.placement
        if key not in self.models:
            self.models[key] = self.load(draft.name)
        return self.models[key]

    def release(self, draft: DraftModel) -> None:
        if model := self.models.pop((draft.name, draft.placement), None):
            model.close()

    def close(self) -> None:
        for model in self.models.values():
            model.close()


def _loaded(draft: _Draft, entry: Entry, target: LlamaModel, loader: _Loader, stack: ExitStack) -> _Loaded:
    """Holds the drafter that was found, and frees it with the stack."""
    found = _Loaded(lambda name: _load_drafter(name, entry, target, loader), {})
    if draft.model is not None:
        found.models[draft.name, Placement()] = draft.model
    stack.callback(found.close)
    return found


def _build(target: LlamaModel, loaded: _Loaded, loader: _Loader) -> Build:
    """How the engine opens what a configuration names."""

    def open_draft(draft: DraftModel) -> LlamaContext:
        try:
            return loader.context(loaded.get(draft), draft.context)
        except Cancelled:
            raise
        except EdgespecError as error:
            raise DrafterUnusable(str(error)) from error

    return Build(
        target=lambda spec: loader.context(target, spec),
        draft=open_draft,
        drafter=lambda _, context: ModelDrafter(context),
        controller=lambda configuration: FixedController(configuration.choice),
        release=loaded.release,
    )


def _check_vocabulary(name: str, draft: LlamaModel, target: LlamaModel, entry: Entry) -> None:
    if draft.n_vocab == target.n_vocab and draft.pieces() == target.pieces():
        return
    n_same = sum(a == b for a, b in zip(draft.pieces(), target.pieces(), strict=False))
    raise DrafterUnusable(
        f"drafter {name} has another vocabulary than {entry.name} ({draft.n_vocab} against {target.n_vocab} tokens, "
        f"{n_same} of them alike); use a drafter of the same family, or -d none"
    )


def _rung(asked: Settings, choice: Choice, draft: _Draft, n_ctx: int) -> Configuration:
    """Today's settings as one configuration; choice: the widest one there must be room for."""
    if draft.model is None:
        choice = PLAIN
    n_threads = explain.threads(asked)
    target = ContextSpec(
        n_ctx=n_ctx,
        max_nodes=max(choice.rows, 2),
        max_leaves=1 if choice.width <= 1 else min(choice.rows, MAX_LEAVES),
        kv_type=asked.kv,
        n_threads=n_threads,
        exact=asked.exact,
    )
    if draft.model is None:
        return Configuration(target)
    context = ContextSpec(
        n_ctx=n_ctx,
        max_nodes=max(choice.rows, 16),
        max_leaves=1 if choice.width <= 1 else min(2 * choice.rows, MAX_LEAVES),
        n_threads=n_threads,
    )
    return Configuration(target, choice, draft=DraftModel(draft.name, context))
