"""The composition root: settings in, something that answers out. The only file that names concrete classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from edgespec.backends.llama_cpp import build, runtime
from edgespec.backends.llama_cpp.model import LlamaModel, LoadOptions
from edgespec.backends.llama_cpp.selftest import HostFacts, host_facts, rows_agree
from edgespec.chat.answer import Chat
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.errors import BadSetting, Cancelled, DrafterUnusable, EdgespecError
from edgespec.gguf.inspect import inspect
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.policies import n_reads_at_most
from edgespec.store import paths
from edgespec.store.registry import Entry, resolve
from edgespec.types import PLAIN, Answer, Choice, ContextSpec, Message, Piece, PlanLine, Sampling, Settings

DEFAULT_MODEL = "demo"
DEFAULT_CONTEXT = 4096
DEFAULT_NODES = {"chain": 5, "tree": 8}
TREE_WIDTH = 8
MAX_LEAVES = 255
EXACT = "self-test: rows are the same at every width here"
NOT_EXACT = "self-test: rows depend on the width of a pass here, so decoding is plain"

Report = Callable[[str, float], None]
Turn = Message | Mapping[str, str]


@dataclass(frozen=True)
class Assistant:
    """A loaded model ready to answer, one answer at a time; close() frees it.

    warnings  what the user should know before believing or timing it
    """

    entry: Entry
    chat: Chat
    engine: Engine
    plan: tuple[PlanLine, ...]
    warnings: tuple[str, ...]
    _owned: ExitStack

    def stream(
        self, messages: Sequence[Turn], sampling: Sampling | None = None, max_tokens: int | None = None
    ) -> Iterator[str]:
        """Text of the answer as it comes; closing the iterator stops the answer. Raises what Chat.stream raises."""
        for event in self._events(messages, sampling, max_tokens):
            if isinstance(event, Piece):
                yield event.text

    def answer(
        self, messages: Sequence[Turn], sampling: Sampling | None = None, max_tokens: int | None = None
    ) -> Answer:
        """The whole answer with its timings. Raises what Chat.stream raises."""
        *_, last = self._events(messages, sampling, max_tokens)
        assert isinstance(last, Answer)
        return last

    def _events(
        self, messages: Sequence[Turn], sampling: Sampling | None, max_tokens: int | None
    ) -> Iterator[Piece | Answer]:
        turns = [_message(turn) for turn in messages]
        return self.chat.stream(turns, sampling=sampling or Sampling(), max_tokens=max_tokens)

    def close(self) -> None:
        self._owned.close()

    def __enter__(self) -> Assistant:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _message(turn: Turn) -> Message:
    if isinstance(turn, Message):
        return turn
    if set(turn) != {"role", "content"}:
        raise BadSetting(f"a message has role and content, not {', '.join(turn) or 'nothing'}; give both and no more")
    return Message(turn["role"], turn["content"])


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

    def context(self, model: LlamaModel, spec: ContextSpec, stack: ExitStack) -> TimedContext:
        if self.cancelled():
            raise Cancelled("stopped before opening the context")
        context = TimedContext(model.open(spec))
        stack.callback(context.close)
        return context


@dataclass(frozen=True)
class _Draft:
    """The drafter that was found and its context, or neither; why says why."""

    why: str
    model: LlamaModel | None = None
    context: TimedContext | None = None


def open_assistant(
    settings: Settings | None = None,
    report: Report = lambda _what, _done: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Assistant:
    """Resolve, check, load and wire; report(what, share done) on the way.

    Raises BadSetting, ModelNotFound, ModelUnusable, DrafterUnusable, DoesNotFit, Cancelled.
    """
    asked = settings or Settings()
    entry = resolve(DEFAULT_MODEL if asked.model is None else asked.model)
    file = inspect(entry.path)
    facts = host_facts(resolve(DEFAULT_MODEL).path, paths.cache_dir(), lambda what: report(what, 0.0))
    loader = _Loader(LoadOptions(facts.extra_buffers, facts.exact), report, cancelled)
    with ExitStack() as stack:
        target = loader.model(file.path, stack)
        n_ctx = _context(asked, target.n_ctx_train)
        facts = _tried_on(target, asked, facts, report)
        wanted, why_plain = _wanted(asked, facts, target)
        draft = _Draft(why_plain) if wanted.plain else _drafter(asked, entry, target, wanted, n_ctx, loader, stack)
        choice = PLAIN if draft.context is None else wanted
        engine = _engine(asked, target, draft.context, choice, n_ctx, loader, stack)
        chat = Chat(target, engine)
        plan = _plan(asked, file.quantisation, draft, choice, n_ctx, facts)
        return Assistant(entry, chat, engine, plan, _warnings(chat, asked, facts), stack.pop_all())


def _warnings(chat: Chat, asked: Settings, facts: HostFacts) -> tuple[str, ...]:
    not_exact = f"--exact: {NOT_EXACT}" if asked.exact and not facts.exact else None
    found = (chat.warning, not_exact, build.unused_gpu_warning(runtime.supports_gpu()))
    return tuple(warning for warning in found if warning)


def _context(asked: Settings, n_ctx_train: int) -> int:
    if asked.context is not None and asked.context > n_ctx_train:
        raise BadSetting(
            f"--context {asked.context} is beyond the {n_ctx_train} tokens this model was trained for; "
            f"use {n_ctx_train} or less"
        )
    return asked.context or min(n_ctx_train, DEFAULT_CONTEXT)


def _tried_on(target: LlamaModel, asked: Settings, facts: HostFacts, report: Report) -> HostFacts:
    """The facts with --exact tried on these very weights and threads: the self-test knew only the demo's."""
    if not (asked.exact and facts.exact):
        return facts
    report("trying out --exact on this model", 0.0)
    holds = rows_agree(target, asked.kv, exact=True, n_threads=threads(asked), n_past=300, n_rounds=5)
    return replace(facts, exact=holds)


def _wanted(asked: Settings, facts: HostFacts, target: LlamaModel) -> tuple[Choice, str]:
    """How to draft where a drafter can be had, or PLAIN and why. Raises BadSetting where flags contradict."""
    if asked.method == "plain" or asked.draft == "none":
        return PLAIN, "asked for"
    if target.recurrent:
        return PLAIN, "this model's recurrent state cannot drop rejected tokens"
    if asked.exact and not facts.exact:
        return PLAIN, NOT_EXACT
    shape = "tree" if asked.shape == "auto" else asked.shape
    rows = asked.nodes or DEFAULT_NODES[shape]
    if rows > 1:
        return Choice("model", rows, asked.depth or rows - 1, width=1 if shape == "chain" else TREE_WIDTH), ""
    if asked.method == "model" or asked.draft is not None:
        raise BadSetting("--nodes 1 leaves no room for a draft; use 2 or more, or --method plain without -d")
    return PLAIN, "--nodes 1 leaves no room for a draft"


def _drafter(
    asked: Settings,
    entry: Entry,
    target: LlamaModel,
    choice: Choice,
    n_ctx: int,
    loader: _Loader,
    stack: ExitStack,
) -> _Draft:
    """The drafter, opened into stack; one that only the model list names is passed over where it cannot draft.

    Raises DrafterUnusable for one the user named, Cancelled.
    """
    must = asked.draft is not None or asked.method == "model"
    name = next(iter(entry.drafts), None) if asked.draft is None else asked.draft
    if name is None:
        if must:
            raise DrafterUnusable(f"no drafter is known for {entry.name}; name one with -d NAME or a .gguf path")
        return _Draft("no drafter is known for this model; name one with -d")
    # Growth reads more tips than the tree keeps leaves: those that later fell behind.
    spec = ContextSpec(
        n_ctx=n_ctx + n_reads_at_most(choice),
        max_nodes=max(choice.rows, 16),
        max_leaves=1 if choice.width <= 1 else min(2 * choice.rows, MAX_LEAVES),
        n_threads=threads(asked),
    )
    try:
        with ExitStack() as own:
            model = loader.model(inspect(resolve(name).path).path, own)
            if model.recurrent:
                raise DrafterUnusable(f"{name} has a recurrent state, which cannot drop rejected tokens; use another")
            _check_vocabulary(name, model, target, entry)
            context = loader.context(model, spec, own)
            stack.callback(own.pop_all().close)
    except Cancelled:
        raise
    except EdgespecError as error:
        if must:
            raise DrafterUnusable(str(error)) from error
        return _Draft(f"{name} was passed over: {error}")
    return _Draft("asked for" if asked.draft else "the model list names it for this target", model, context)


def _check_vocabulary(name: str, draft: LlamaModel, target: LlamaModel, entry: Entry) -> None:
    if draft.n_vocab == target.n_vocab and draft.pieces() == target.pieces():
        return
    n_same = sum(a == b for a, b in zip(draft.pieces(), target.pieces(), strict=False))
    raise DrafterUnusable(
        f"drafter {name} has another vocabulary than {entry.name} ({draft.n_vocab} against {target.n_vocab} tokens, "
        f"{n_same} of them alike); use a drafter of the same family, or -d none"
    )


def threads(asked: Settings) -> int:
    """Physical cores this process may use: hyper-threads share the units that the arithmetic needs."""
    available = runtime.n_cores()
    return asked.threads or min(available, max(psutil.cpu_count(logical=False) or available, 2))


def _engine(
    asked: Settings,
    target: LlamaModel,
    draft: TimedContext | None,
    choice: Choice,
    n_ctx: int,
    loader: _Loader,
    stack: ExitStack,
) -> Engine:
    spec = ContextSpec(
        n_ctx=n_ctx,
        max_nodes=max(choice.rows, 2),
        max_leaves=1 if choice.width <= 1 else min(choice.rows, MAX_LEAVES),
        kv_type=asked.kv,
        n_threads=threads(asked),
        exact=asked.exact,
    )
    context = loader.context(target, spec, stack)
    rows = context.caps.max_nodes
    if choice.rows > rows:
        raise BadSetting(f"--nodes {choice.rows} is more than the {rows} rows a pass may have here; use {rows} or less")
    return Engine(
        context,
        {"model": ModelDrafter(draft)} if draft else {},
        FixedController(choice),
        method="plain" if choice.plain else choice.drafter,
        draft_contexts=[draft] if draft else [],
        n_ctx_train=target.n_ctx_train,
    )


def _plan(
    asked: Settings, quantisation: str, draft: _Draft, choice: Choice, n_ctx: int, facts: HostFacts
) -> tuple[PlanLine, ...]:
    given, repacked = "asked for", facts.extra_buffers
    shape = "plain" if choice.plain else "chain" if choice.width == 1 else "tree"
    rows_why = given if asked.nodes else "a fixed default until control measures it"
    lines = [
        PlanLine("weights", quantisation, "as the file has them"),
        PlanLine("context", str(n_ctx), given if asked.context else f"trained length, at most {DEFAULT_CONTEXT}"),
        PlanLine("kv", asked.kv, given if asked.kv != "f16" else "what the runtime computes in"),
        PlanLine("threads", str(threads(asked)), given if asked.threads else "one a core"),
        PlanLine("drafter", draft.model.name if draft.model else "none", draft.why),
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
