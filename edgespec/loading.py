"""Opens what a plan names: weights, contexts, drafters; the one file beside assemble that names concrete classes.

Reports on the way and asks for a cancel. Not covered: what is opened (planning).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgespec.backends.llama_cpp.context import LlamaContext
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.backends.llama_cpp.trimmed import Table, TrimmedHead
from edgespec.drafting import Drafting
from edgespec.engine.setup import Build
from edgespec.errors import Cancelled, DrafterUnusable, EdgespecError
from edgespec.gguf.header import read_header
from edgespec.gguf.original import find_original
from edgespec.gguf.trimmed import read_trim
from edgespec.memory.configuration import DraftModel, Placement
from edgespec.memory.source import Source
from edgespec.speculation.rejection import rejection_draws
from edgespec.speculation.verify import Draws, target_draws
from edgespec.types import ContextSpec

Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Loader:
    """options: how this host loads weights, wherever they lie."""

    options: LoadOptions
    report: Report
    cancelled: Callable[[], bool]

    def model(self, path: Path, placement: Placement, stack: ExitStack, head: TrimmedHead | None = None) -> LlamaModel:
        """Weights that the stack frees; head: of a trimmed drafter. Raises Cancelled, ModelUnusable."""

        def on_progress(done: float) -> bool:
            self.report(f"loading {path.stem}", done)
            return not self.cancelled()

        if self.cancelled():
            raise Cancelled("stopped before loading the model")
        model = LlamaModel(path, placed(self.options, placement), on_progress, head)
        stack.callback(model.close)
        return model

    def context(self, model: LlamaModel, spec: ContextSpec) -> LlamaContext:
        """Raises Cancelled, DoesNotFit."""
        if self.cancelled():
            raise Cancelled("stopped before opening the context")
        return model.open(spec)


def trimmed_head(path: Path) -> TrimmedHead | None:
    """Of a file that was trimmed, else None. Raises ModelUnusable where its original is gone or another."""
    header = read_header(path)
    trim = read_trim(path, header.metadata)
    if trim is None:
        return None
    found = find_original(path, header, trim)
    rows = found.embedding
    table = Table(found.part, found.offset, int(rows.type), rows.shape[1], rows.shape[0], rows.n_bytes // rows.shape[1])
    return TrimmedHead(found.ids, table, found.path, found.architecture)


def _planned_head(source: Source, opened: TrimmedHead | None = None) -> TrimmedHead | None:
    """The head of a source that was trimmed. Raises DrafterUnusable where that was done again since it was planned
    with, or since it was `opened`, and what trimmed_head raises."""
    if source.shape.n_whole_vocab is None:
        return None
    head = trimmed_head(source.path)
    if head is None or len(head.ids) != source.shape.n_vocab or (opened and not np.array_equal(head.ids, opened.ids)):
        raise DrafterUnusable(
            f"{source.name} was trimmed again since it was planned with; it drafts from the next start on"
        )
    return head


def placed(options: LoadOptions, placement: Placement) -> LoadOptions:
    """How weights are loaded there; streamed ones as they lie in the file: a rearranged copy could not give way."""
    return replace(
        options,
        extra_buffers=options.extra_buffers and not placement.streamed,
        n_gpu_layers=placement.n_gpu_layers,
        tensor_split=placement.tensor_split,
        experts_on_cpu=placement.experts_on_cpu,
    )


@dataclass(frozen=True)
class Drafters:
    """Weights of drafters that are there, by name and placement; one that is not is loaded when it is asked for.

    target, target_name  whose vocabulary a drafter must share
    """

    loader: Loader
    sources: dict[str, Source]
    target: LlamaModel
    target_name: str
    models: dict[tuple[str, Placement], LlamaModel] = field(default_factory=dict)

    def get(self, name: str, placement: Placement) -> LlamaModel:
        """Raises DrafterUnusable, whatever is wrong with it, and Cancelled."""
        if (name, placement) not in self.models:
            with ExitStack() as own:
                source = self.sources[name]
                try:
                    head = _planned_head(source)
                    model = self.loader.model(source.path, placement, own, head)
                    if head is not None:
                        _planned_head(source, head)
                    check_vocabulary(name, model, self.target, self.target_name)
                except (Cancelled, DrafterUnusable):
                    raise
                except EdgespecError as error:
                    raise DrafterUnusable(str(error)) from error
                own.pop_all()
            self.models[name, placement] = model
        return self.models[name, placement]

    def release(self, draft: DraftModel) -> None:
        if model := self.models.pop((draft.name, draft.placement), None):
            model.close()

    def close(self) -> None:
        while self.models:
            self.models.popitem()[1].close()


def draws_for(rule: str) -> Draws:
    """Where tokens come from under this rule."""
    return rejection_draws if rule == "rejection" else target_draws


def build(target: LlamaModel, drafters: Drafters, drafting: Drafting) -> Build:
    """How the engine opens what a configuration names."""
    loader = drafters.loader

    def open_draft(draft: DraftModel) -> LlamaContext:
        try:
            return loader.context(drafters.get(draft.name, draft.placement), draft.context)
        except Cancelled:
            raise
        except EdgespecError as error:
            raise DrafterUnusable(str(error)) from error

    return Build(
        target=lambda spec: loader.context(target, spec),
        draft=open_draft,
        drafters=lambda draft, context: drafting.with_model(drafters.sources[draft.name].mask_token_id, context),
        controller=drafting.controller,
        release=drafters.release,
        free=drafting.without_model(),
        learners=drafting.learners,
    )


def check_vocabulary(name: str, draft: LlamaModel, target: LlamaModel, target_name: str) -> None:
    """Raises DrafterUnusable; a drafter that passes shares the target's pieces from then on."""
    if draft.n_vocab == target.n_vocab and draft.pieces() == target.pieces():
        draft.share_pieces(target)
        return
    n_same = sum(a == b for a, b in zip(draft.pieces(), target.pieces(), strict=False))
    raise DrafterUnusable(
        f"drafter {name} has another vocabulary than {target_name} ({draft.n_vocab} against {target.n_vocab} tokens, "
        f"{n_same} of them alike); use a drafter of the same family, or -d none"
    )
