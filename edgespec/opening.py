"""From loaded weights to a ladder that stands: passes timed, what was learnt taken up, contexts opened.

Not covered: loading the target, and what is made of the ladder (assemble).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgespec.backends.base import Context
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.drafting import Drafting
from edgespec.engine import calibrate
from edgespec.engine.ladder import Ladder
from edgespec.errors import Cancelled as Stopped
from edgespec.errors import DoesNotFit, DrafterUnusable, EdgespecError
from edgespec.loading import Drafters, Report, build
from edgespec.memory.configuration import Configuration, DraftModel, Placement
from edgespec.memory.methods import target_spec
from edgespec.memory.plan import Plan
from edgespec.passage import passage_ids
from edgespec.planning import Planner
from edgespec.remembering import Remembered, read_corpus
from edgespec.settings import Settings
from edgespec.speculation.cost import Curve
from edgespec.store import calibration
from edgespec.types import Choice, ContextSpec, PlanLine

Cancelled = Callable[[], bool]
# A first look at what passes cost, while the user waits, longer where it shows too few widths; `bench` takes its time.
CURVE_S, DRAFT_CURVE_S = (1.5, calibrate.BUDGET_S), (0.4,)
# With fewer widths a curve would forbid what was only not measured; one as noisy as this says little (a busy machine).
LEAST_WIDTHS, MOST_NOISE = 4, calibrate.NOISE_MOST
CURVE_ROWS, CURVE_CONTEXT = (64, 16), 1024
# Where passes may cost alike at any width: rows of the context that tells, and of the drafter's, whose waves are wider.
WIDE_CURVE_ROWS, WIDE_DRAFT_ROWS = (512, 256, 64, 16), (32, 8)


def may_be_wide(placement: Placement, n_layers: int, devices: Sequence[str]) -> bool:
    """Whether weights travel in passes that are wide enough: from a disk, or to a device that does not hold them all
    (the runtime copies those of the processor's layers for large batches)."""
    return placement.streamed or (bool(devices) and placement.n_gpu_layers <= n_layers)


def begin_at(rungs: Sequence[Configuration], rung: int) -> int:
    """The lowest rung down to `rung` that keeps the promised context: an answer that a death cut must have room for its
    rest. Where memory is really short the ladder goes further by itself, to what holds the conversation."""
    return max(i for i in range(min(rung, len(rungs) - 1) + 1) if rungs[i].target.n_ctx == rungs[0].target.n_ctx)


@dataclass
class Opening:
    """From loaded weights to a ladder that stands."""

    planner: Planner
    target: LlamaModel
    drafters: Drafters
    first: Plan
    report: Report
    cancelled: Cancelled
    warnings: list[str] = field(default_factory=list)
    lines: list[PlanLine] = field(default_factory=list)
    remembered: Remembered | None = None
    drafting: Drafting | None = None

    def time_passes(self) -> None:
        """Measure what passes cost where it was never measured and could decide something; remembered. A drafter that
        is new to a known target, or was trimmed again, is timed alone."""
        planner, draft = self.planner, self.first.configuration.draft
        known = planner.knows(self.first)
        if not (self.first.configuration.sources or draft):
            return
        if known and (draft is None or planner.known.draft_curve is not None):
            return
        placement = self.first.configuration.placement
        wide = may_be_wide(placement, len(planner.target.shape.layers), planner.machine.host.devices)
        self.report(f"timing passes {'from disk' if placement.streamed else 'on this machine'} (once)", 0.0)
        model: LlamaModel | None = None
        if draft is not None and planner.draft is not None:
            try:
                model = self.drafters.get(draft.name, draft.placement)
            except DrafterUnusable as error:
                self._pass_over(error)
        curve = planner.known.curve
        if not known:
            key = planner.curve_key(planner.target, placement)
            rows = WIDE_CURVE_ROWS if wide else CURVE_ROWS
            curve = self._timed(self.target, CURVE_S, key, rows, planner.asked.kv_type, wide)
        draft_curve = None
        if model is not None and draft is not None and planner.draft is not None:
            key = planner.curve_key(planner.draft, draft.placement)
            draft_curve = self._timed(model, DRAFT_CURVE_S, key, WIDE_DRAFT_ROWS if wide else (8,), "f16")
        if curve is not None:
            planner.timed(self.first, curve, draft_curve)

    def draft_from(self, methods: Mapping[str, Settings], sources: bool) -> None:
        """Sources with what was learnt earlier and the texts that --corpus names; several methods begin with nothing,
        since they are compared."""
        planner, asked, known, target = self.planner, self.planner.asked, self.planner.known, self.target
        automaton = None
        if sources and asked.remember and len(methods) == 1:
            draft = planner.draft.path if planner.draft else None
            with contextlib.suppress(OSError):  # a model's file that is gone: nothing is remembered of it
                self.remembered = Remembered(planner.target.path, draft, target.n_vocab)
                automaton = self.remembered.automaton()
        names = [settings.method for settings in methods.values()]
        self.drafting = Drafting(
            asked,
            target.pieces,
            known.acceptance,
            known.curve,
            automaton,
            known.by_place,
            sources=sources,
            methods=names,
        )
        if self.remembered is not None:
            self.remembered.teach(self.drafting)
            self.warnings += self.remembered.warnings
        if self.planner.corpus is not None:
            self.report("reading the corpus", 0.0)
            automaton = self.drafting.suffix.automaton
            if self.remembered is None:
                told = read_corpus(self.planner.corpus, automaton, self._tokenize)
            else:
                told = self.remembered.read(self.planner.corpus, automaton, self._tokenize)
            self.lines.append(PlanLine("corpus", "on", told))

    def _tokenize(self, text: bytes) -> list[int]:
        if self.cancelled():
            raise Stopped("stopped while reading the corpus")
        return self.target.tokenize(text, special=False)

    def keep(self) -> str | None:
        """Save what sources learnt; a warning where that failed."""
        return self.remembered.keep(self.drafting) if self.remembered and self.drafting else None

    def _timed(
        self,
        model: LlamaModel,
        seconds: Sequence[float],
        key: str,
        widths: Sequence[int],
        kv_type: str,
        wide: bool = False,
    ) -> Curve | None:
        """None where no context can be had within the budget, or the model is too slow for the time there is.

        wide: passes may cost alike at any width.
        """
        planner, asked = self.planner, self.planner.asked
        n_ctx = min(CURVE_CONTEXT, self.first.configuration.target.n_ctx)
        for rows in widths:
            spec = ContextSpec(n_ctx, 1, rows, 1, kv_type, 64, planner.n_threads, asked.exact)
            if not planner.affords(spec, self.first.configuration.placement):
                continue
            try:
                context = model.open(spec)
            except DoesNotFit:
                continue
            try:
                curve = self._wide_curve(context, model, seconds) if wide else self._curve(context, model, seconds)
            finally:
                context.close()
            if curve is not None and (wide or curve.noise < MOST_NOISE):  # a wide one is too dear to be had again
                calibration.save(key, curve.to_dict())
            return curve
        return None

    def _curve(self, context: Context, model: LlamaModel, seconds: Sequence[float]) -> Curve | None:
        text = passage_ids(self.target)  # a drafter has the same vocabulary, and a trimmed one no tokenizer of its own
        for budget_s in seconds:
            curve = calibrate.measure(context, model.n_vocab, budget_s, cancelled=self.cancelled, text=text)
            if len(curve.rows) >= min(LEAST_WIDTHS, context.caps.max_nodes):
                return curve
        return None

    def _wide_curve(self, context: Context, model: LlamaModel, seconds: Sequence[float]) -> Curve:
        """Far into wide passes; of weights that are not streamed narrow ones matter as well."""
        streamed = self.first.configuration.placement.streamed
        narrow = None if streamed else self._curve(context, model, seconds)
        wide = calibrate.measure_wide(context, model.n_vocab, cancelled=self.cancelled, text=passage_ids(self.target))
        return wide if narrow is None else narrow.with_wider(wide)

    def settle(self, methods: Mapping[str, Settings], rung: int) -> tuple[dict[str, Plan], Ladder]:
        """Plans by method, and the ladder to run them on: one method's own, or one rung with room for all of them."""
        while True:
            plans = {name: self.planner.plan(settings) for name, settings in methods.items()}
            made = next(iter(plans.values()))
            rungs = made.rungs if len(plans) == 1 else (roomy([p.configuration for p in plans.values()]),)
            if all(r.draft is None for r in rungs):
                self.drafters.close()
            if self.drafting is None:
                self.draft_from(methods, any(r.sources for r in rungs))
            assert self.drafting is not None
            steps = build(self.target, self.drafters, self.drafting)
            start = begin_at(rungs, rung)
            try:
                if (draft := rungs[start].draft) is not None:  # the ladder would step over one that is unusable
                    self.drafters.get(draft.name, draft.placement)
                ladder = Ladder(
                    rungs,
                    steps,
                    start=start,
                    watch=self.planner.watch(made) if len(plans) == 1 else None,
                    bytes_of=self.planner.forecast.bytes_of,
                    limit_bytes=self.planner.limit_bytes(),
                )
            except DrafterUnusable as error:
                self._pass_over(error)
                continue
            return plans, ladder

    def _pass_over(self, error: EdgespecError) -> None:
        """Go on with the next drafter, or without one; raises the error where the user insists on it."""
        if self.planner.draft is None:
            raise error
        self.planner.pass_over(error)
        if self.planner.draft is not None:
            self.drafters.sources[self.planner.draft.name] = self.planner.draft


def roomy(every: Sequence[Configuration]) -> Configuration:
    """One configuration with room for each of them: they differ in what they draft."""
    drafting = [c for c in every if not c.choice.plain]
    if not drafting:
        return max(every, key=lambda c: c.target.max_nodes)
    rows, depth, width = (max(getattr(c.choice, name) for c in drafting) for name in ("rows", "depth", "width"))
    widest = Choice(drafting[0].choice.drafter, rows, depth, width)
    like = next((c for c in drafting if c.draft), drafting[0])
    rows = max(rows, *(c.target.max_nodes for c in every))
    width = max(width, *(2 if c.target.max_leaves > 1 else 1 for c in every))
    widest = replace(widest, rows=rows, width=width)
    target = target_spec(replace(like.target, n_ctx=min(c.target.n_ctx for c in every)), widest)
    draft = like.draft
    if draft is not None:
        leaves = max(c.draft.context.max_leaves for c in drafting if c.draft)
        nodes = max(c.draft.context.max_nodes for c in drafting if c.draft)
        draft = DraftModel(
            draft.name, replace(draft.context, max_leaves=leaves, max_nodes=nodes), draft.placement, draft.window
        )
    return Configuration(target, widest, like.placement, draft, any(c.sources for c in every), like.expected)
