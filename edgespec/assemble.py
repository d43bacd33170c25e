"""The composition root: settings in, something that answers out. The only file that names concrete classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgespec.backends.base import Model
from edgespec.backends.llama_cpp import build, runtime
from edgespec.backends.llama_cpp.model import LlamaModel, LoadOptions
from edgespec.backends.llama_cpp.selftest import HostFacts, host_facts
from edgespec.chat.answer import Chat
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.errors import BadSetting, Cancelled, DrafterUnusable, EdgespecError
from edgespec.gguf.inspect import inspect
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.store import paths
from edgespec.store.registry import Entry, resolve
from edgespec.types import (
    PLAIN,
    Answer,
    Choice,
    ContextSpec,
    Message,
    Piece,
    PlanLine,
    Sampling,
    Settings,
)

DEFAULT_MODEL = "demo"
DEFAULT_CONTEXT = 4096
DEFAULT_NODES = {"chain": 5, "tree": 8}
TREE_WIDTH = 8
MAX_LEAVES = 255

Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Assistant:
    """A loaded model ready to answer; close() frees it."""

    entry: Entry
    chat: Chat
    engine: Engine
    models: tuple[Model, ...]
    plan: tuple[PlanLine, ...]
    warnings: tuple[str, ...]

    def stream(
        self,
        messages: Sequence[Message] | Sequence[dict[str, str]],
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
    ) -> Iterator[str]:
        """Text of the answer as it comes; messages as Message or {"role", "content"}."""
        turns = [m if isinstance(m, Message) else Message(m["role"], m["content"]) for m in messages]
        for event in self.chat.stream(turns, sampling=sampling or Sampling(), max_tokens=max_tokens):
            if isinstance(event, Piece):
                yield event.text

    def answer(
        self, messages: Sequence[Message], sampling: Sampling | None = None, max_tokens: int | None = None
    ) -> Answer:
        """The whole answer with its timings."""
        events = list(self.chat.stream(messages, sampling=sampling or Sampling(), max_tokens=max_tokens))
        last = events[-1]
        assert isinstance(last, Answer)
        return last

    def close(self) -> None:
        self.engine.close()
        for model in self.models:
            model.close()

    def __enter__(self) -> Assistant:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_assistant(
    model: str = DEFAULT_MODEL,
    settings: Settings | None = None,
    report: Report = lambda _what, _done: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Assistant:
    """Resolve, check, load and wire; report(what, share done) on the way.

    Raises BadSetting, ModelNotFound, ModelUnusable, DrafterUnusable, DoesNotFit, Cancelled.
    """
    asked = settings or Settings()
    entry = resolve(asked.model or model)
    file = inspect(entry.path)
    report("trying out the runtime (first use on this machine)", 0.0)
    facts = host_facts(resolve(DEFAULT_MODEL).path, paths.cache_dir())
    options = LoadOptions(extra_buffers=facts.extra_buffers, exact_holds=facts.exact)
    opened: list[LlamaModel] = []
    try:
        target = _load(file.path, options, report, cancelled, opened)
        n_ctx = _context(asked, target.n_ctx_train)
        drafter, why = _drafter(asked, entry, target, options, report, cancelled, opened)
        choice = _choice(asked, drafter is not None and (facts.exact or not asked.exact))
        engine = _engine(asked, target, drafter, choice, n_ctx)
        chat = Chat(target, engine)
    except BaseException:
        for model_ in reversed(opened):
            model_.close()
        raise
    warnings = [w for w in (chat.warning, build.unused_gpu_warning(runtime.supports_gpu())) if w]
    plan = _plan(asked, file.quantisation, drafter, choice, n_ctx, facts, why)
    return Assistant(entry, chat, engine, tuple(opened), plan, tuple(warnings))


def _load(
    path: Path,
    options: LoadOptions,
    report: Report,
    cancelled: Callable[[], bool],
    opened: list[LlamaModel],
) -> LlamaModel:
    def on_progress(done: float) -> bool:
        report(f"loading {path.stem}", done)
        return not cancelled()

    if cancelled():
        raise Cancelled("stopped before loading the model")
    model = LlamaModel(path, options, on_progress)
    opened.append(model)
    return model


def _context(asked: Settings, n_ctx_train: int) -> int:
    if asked.context is not None and asked.context > n_ctx_train:
        raise BadSetting(
            f"--context {asked.context} is beyond the {n_ctx_train} tokens this model was trained for; "
            f"use {n_ctx_train} or less"
        )
    return asked.context or min(n_ctx_train, DEFAULT_CONTEXT)


def _drafter(
    asked: Settings,
    entry: Entry,
    target: LlamaModel,
    options: LoadOptions,
    report: Report,
    cancelled: Callable[[], bool],
    opened: list[LlamaModel],
) -> tuple[LlamaModel | None, str]:
    """The drafter's model and why it (or none) was chosen."""
    if asked.method == "plain" or asked.draft == "none":
        return None, "asked for"
    named = asked.draft is not None
    name = asked.draft or next(iter(entry.drafts), None)
    if name is None:
        if asked.method == "model":
            raise DrafterUnusable(f"no drafter is known for {entry.name}; name one with -d NAME or a .gguf path")
        return None, "no drafter is known for this model; name one with -d"
    try:
        draft = _load(inspect(resolve(name).path).path, options, report, cancelled, opened)
        _check_vocabulary(name, draft, target, entry)
    except Cancelled:
        raise
    except EdgespecError as error:
        if named or asked.method == "model":
            raise DrafterUnusable(f"{error}") from error
        return None, f"{name} was passed over: {error}"
    return draft, "asked for" if named else "the model list names it for this target"


def _check_vocabulary(name: str, draft: LlamaModel, target: LlamaModel, entry: Entry) -> None:
    if draft.n_vocab == target.n_vocab and draft.pieces() == target.pieces():
        return
    n_same = sum(a == b for a, b in zip(draft.pieces(), target.pieces(), strict=False))
    raise DrafterUnusable(
        f"drafter {name} has another vocabulary than {entry.name} ({draft.n_vocab} against {target.n_vocab} tokens, "
        f"{n_same} of them alike); use a drafter of the same family, or -d none"
    )


def _choice(asked: Settings, can_draft: bool) -> Choice:
    if not can_draft:
        return PLAIN
    shape = "tree" if asked.shape == "auto" else asked.shape
    rows = asked.nodes or DEFAULT_NODES[shape]
    if rows == 1:
        return PLAIN
    return Choice("model", rows, asked.depth or rows - 1, width=1 if shape == "chain" else TREE_WIDTH)


def threads(asked: Settings) -> int:
    """Physical cores this process may use: hyper-threads share the units that the arithmetic needs."""
    available = runtime.n_cores()
    return asked.threads or min(available, max(psutil.cpu_count(logical=False) or available, 2))


def _engine(asked: Settings, target: LlamaModel, drafter: LlamaModel | None, choice: Choice, n_ctx: int) -> Engine:
    spec = ContextSpec(
        n_ctx=n_ctx,
        max_nodes=max(choice.rows, 2),
        max_leaves=1 if choice.width <= 1 else min(choice.rows, MAX_LEAVES),
        kv_type=asked.kv,
        n_threads=threads(asked),
        exact=asked.exact,
    )
    context = target.open(spec)
    if choice.rows > context.caps.max_nodes or (choice.width > 1 and not context.caps.trees):
        rows = context.caps.max_nodes if context.caps.trees else 1
        context.close()
        raise BadSetting(f"--nodes {choice.rows} is more than the {rows} rows a pass may have here; use {rows} or less")
    timed = TimedContext(context)
    drafters, draft_contexts = {}, []
    if drafter is not None and not choice.plain:
        # Growth reads more tips than the tree keeps leaves: those that later fell behind.
        draft_spec = ContextSpec(
            n_ctx=n_ctx,
            max_nodes=max(choice.rows, 16),
            max_leaves=1 if choice.width <= 1 else min(2 * choice.rows, MAX_LEAVES),
            n_threads=spec.n_threads,
        )
        draft_contexts.append(TimedContext(drafter.open(draft_spec)))
        drafters["model"] = ModelDrafter(draft_contexts[0])
    return Engine(
        timed,
        drafters,
        FixedController(choice),
        method="plain" if choice.plain else choice.drafter,
        draft_contexts=draft_contexts,
        n_ctx_train=target.n_ctx_train,
    )


def _plan(
    asked: Settings,
    quantisation: str,
    drafter: LlamaModel | None,
    choice: Choice,
    n_ctx: int,
    facts: HostFacts,
    why_drafter: str,
) -> tuple[PlanLine, ...]:
    shape = "plain" if choice.plain else "chain" if choice.width == 1 else "tree"
    lines = [
        PlanLine("weights", quantisation, "as the file has them"),
        PlanLine(
            "context",
            str(n_ctx),
            "asked for" if asked.context else f"trained length, at most {DEFAULT_CONTEXT}",
        ),
        PlanLine("kv", asked.kv, "asked for" if asked.kv != "f16" else "what the runtime computes in"),
        PlanLine("threads", str(threads(asked)), "asked for" if asked.threads else "one a core"),
        PlanLine("drafter", drafter.name if drafter else "none", why_drafter),
        PlanLine(
            "rows",
            f"{choice.rows} ({shape})",
            "asked for" if asked.nodes else "a fixed default until control measures it",
        ),
        PlanLine(
            "extra buffers",
            "on" if facts.extra_buffers else "off",
            "self-test: this host decodes with them" if facts.extra_buffers else "self-test: this host dies with them",
        ),
    ]
    if asked.exact:
        held = "self-test: rows are the same at every width here"
        not_held = "self-test: rows depend on the width of a pass here, so decoding is plain"
        lines.append(PlanLine("exact", "on", held if facts.exact else not_held))
    return tuple(lines)
