"""From what the user asked of a model to a plan for it on this machine, before and after its passes were timed.

Not covered: the search (memory/plan.py), opening what it names (loading).
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from edgespec import explain
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.selftest import HostFacts
from edgespec.candidates import corpus_of, draft_source, insists, target_source
from edgespec.errors import BadSetting, DoesNotFit, DrafterUnusable, EdgespecError
from edgespec.memory import measure, survey
from edgespec.memory.configuration import Configuration, Placement
from edgespec.memory.footprint import CPU, Footprint
from edgespec.memory.forecast import Forecast
from edgespec.memory.plan import Plan, plan
from edgespec.memory.pressure import MACHINE, Gauge, Marks, Reading, Watch
from edgespec.memory.problem import Problem
from edgespec.memory.report import MemoryReport
from edgespec.memory.sizes import MIB
from edgespec.memory.source import Source
from edgespec.memory.survey import Known, Machine
from edgespec.memory.widen import with_sources
from edgespec.settings import SOURCES, Settings
from edgespec.speculation.acceptance import Acceptance, from_dict
from edgespec.speculation.cost import Curve
from edgespec.speculation.places import ByPlace, by_place_from_dict
from edgespec.store import learnt
from edgespec.store.registry import Entry
from edgespec.types import ContextSpec

# Less free than this share of what there was is a step down the ladder; so much must stay free behind a step up.
LOW_SHARE, LOW_BYTES, HIGH = 0.01, 8 * MIB, 2
_ON_CPU = Placement()


class Planner:
    """One model, its drafter and this machine as it was found; plans as often as more is known.

    why_plain    why nothing can draft, "" where something can
    passed_over  drafters that would have been taken and could not be, a line each
    """

    def __init__(self, asked: Settings, entry: Entry, facts: HostFacts, beside_bytes: int = 0) -> None:
        """beside_bytes: what other processes of ours take. Raises what reading the files raises, DrafterUnusable."""
        self.asked, self._facts, self._entry = asked, facts, entry
        self.n_threads = explain.threads(asked)
        self.target = target_source(entry)
        self.why_plain = self._why_plain(asked)
        self.draft: Source | None = None
        self.passed_over: list[str] = []
        self._learnt_keys: dict[tuple[Path | None, str], str] = {}
        self._untried = list(entry.drafts) if asked.draft is None else [asked.draft]
        if not self.why_plain:
            self._take_draft()
        program_bytes = measure.pss() + beside_bytes
        n_bytes = sum(source.shape.weight_bytes for source in (self.target, self.draft) if source)
        self.machine: Machine = survey.look(facts.extra_buffers, self.n_threads, program_bytes, n_bytes, asked.budget)
        self.known = Known()
        self.corpus = corpus_of(asked, self.sources(asked))
        self._remember()
        self._set_forecast()

    def _why_plain(self, asked: Settings) -> str:
        """Raises BadSetting where flags contradict each other."""
        if asked.method == "plain" or asked.draft == "none":
            return "asked for"
        if self.target.shape.recurrent:
            return "this model's recurrent state cannot drop rejected tokens"
        if asked.exact and not self._facts.exact:
            return explain.NOT_EXACT
        if asked.nodes == 1:
            if insists(asked):
                raise BadSetting("--nodes 1 leaves no room for a draft; use 2 or more, or --method plain without -d")
            return "--nodes 1 leaves no room for a draft"
        return ""

    def _remember(self) -> None:
        """What earlier runs measured and learnt."""
        curve = draft_curve = None
        with contextlib.suppress(OSError):
            curve = survey.remembered_curve(self.curve_key(self.target, self._usual(self.target)))
        acceptance, by_place = Acceptance(), ByPlace()
        if self.draft is not None:
            with contextlib.suppress(OSError):
                draft_curve = survey.remembered_curve(self.curve_key(self.draft, self._usual(self.draft)))
                acceptance = from_dict(learnt.load(self.learnt_key()))
                by_place = by_place_from_dict(learnt.load(self.learnt_key("parallel")))
        placement = self._usual(self.target)
        draft_placement = self._usual(self.draft) if self.draft else placement
        self.known = Known(curve, draft_curve, acceptance, placement, draft_placement, by_place)

    def _usual(self, source: Source) -> Placement:
        """Where a model lies unless room is short: its curve there is worth remembering first."""
        return Placement(len(source.shape.layers) + 1) if self.machine.host.devices else Placement()

    def curve_key(self, source: Source, placement: Placement) -> str:
        """Raises OSError."""
        role = ", draft" if source is self.draft else ""
        return survey.curve_key(source, self.asked, self.n_threads, placement, role)

    def knows(self, made: Plan) -> bool:
        """Whether passes were timed where this plan puts the target; looks for what was remembered of it."""
        placement = made.configuration.placement
        if self.known.placement != placement or self.known.curve is None:
            with contextlib.suppress(OSError):
                curve = survey.remembered_curve(self.curve_key(self.target, placement))
                if curve is not None:
                    self.known = replace(self.known, curve=curve, placement=placement)
        return self.known.curve is not None and self.known.placement == placement

    def learnt_key(self, method: str = "model") -> str:
        """Of the files as they were when it was first asked for: a drafter that was trimmed again since is another one.
        Raises OSError."""
        draft = self.draft.path if self.draft else None
        if (draft, method) not in self._learnt_keys:
            rule = "" if self.asked.verify == "match" else f", {self.asked.verify}"  # it accepts other children
            self._learnt_keys[draft, method] = learnt.key(self.target.path, draft, f"{method}{rule}")
        return self._learnt_keys[draft, method]

    def _set_forecast(self) -> None:
        drafts = {self.draft.name: self.draft} if self.draft else {}
        options = LoadOptions(self._facts.extra_buffers, self._facts.exact)
        self.forecast = Forecast(self.machine.host, self.target, drafts, options)

    def not_exact(self, why: str) -> None:
        """--exact does not hold here: nothing drafts, sources included."""
        self._facts = replace(self._facts, exact=False)
        self.without_draft(why)

    def pass_over(self, error: EdgespecError) -> None:
        """The drafter cannot be used after all: the next one that is known drafts, if any. Raises the error where the
        user insists on a drafter and this was the last."""
        assert self.draft is not None
        self.why_plain = self._passed(self.draft.name, error)
        self.draft = None
        self._take_draft()
        self._remember()
        self._set_forecast()

    def _take_draft(self) -> None:
        """The first drafter that can be used, or why there is none. Raises DrafterUnusable where the user insists."""
        if not self._untried and not self.why_plain:
            if insists(self.asked):
                raise DrafterUnusable(
                    f"no drafter is known for {self._entry.name}; name one with -d NAME or a .gguf path"
                )
            self.why_plain = "no drafter is known for this model; name one with -d"
        while self._untried:
            name = self._untried.pop(0)
            try:
                self.draft, self.why_plain = draft_source(self.asked, name), ""
                return
            except EdgespecError as error:
                self.why_plain = self._passed(name, error)

    def _passed(self, name: str, error: EdgespecError) -> str:
        """A line for it; raises the error, as DrafterUnusable, where the user insists and nothing else is known."""
        if insists(self.asked) and not self._untried:
            raise DrafterUnusable(str(error)) from error
        self.passed_over.append(f"{name} was passed over: {error}")
        return self.passed_over[-1]

    def without_draft(self, why: str) -> None:
        """Nothing drafts from now on."""
        self.draft, self.why_plain = None, why
        self._set_forecast()

    def timed(self, made: Plan, curve: Curve, draft_curve: Curve | None) -> None:
        """Passes were measured where this plan puts the models."""
        self.known = replace(self.known, curve=curve, placement=made.configuration.placement)
        if draft_curve is not None and made.configuration.draft is not None:
            site = made.configuration.draft.placement
            self.known = replace(self.known, draft_curve=draft_curve, draft_placement=site)

    def plan(self, settings: Settings | None = None) -> Plan:
        """For what was asked, or for other settings of the same model; raises DoesNotFit, BadSetting."""
        asked = settings or self.asked
        named = asked.method if asked.method in SOURCES else None
        if named == "mix" and self.draft is None:
            raise DrafterUnusable(f"--method mix needs a drafter ({self.why_plain}); use --method lookup without one")
        self._check_rows(asked)
        inner = asked
        if self.why_plain or self.draft is None or named not in (None, "mix"):
            inner = replace(asked, method="plain", draft=None)
        elif named:
            inner = replace(asked, method="model")
        problem, made = self._fitting(inner)
        return with_sources(problem, made, named) if self.sources(asked) else made

    def _fitting(self, inner: Settings) -> tuple[Problem, Plan]:
        """With the weights in memory, else read from their file in every pass; raises DoesNotFit where not even what
        lies beside them has room, BadSetting.

        What only a --context, a --kv or a --budget makes too large is refused: they are the user's word, and pages that
        leave memory with every pass a bad answer to it.
        """
        try:
            return self._made(inner, streams=False)
        except DoesNotFit:
            usual = replace(inner, context=None, kv=None, budget=None)
            if usual != inner and self._fits(usual):
                raise
        found, known = self._made(inner, streams=True), self.known
        return self._made(inner, streams=True) if self.knows(found[1]) and self.known is not known else found

    def _made(self, inner: Settings, streams: bool) -> tuple[Problem, Plan]:
        found = survey.problem(inner, self.machine, self.target, self.draft, self.known, self.forecast, streams)
        return found, plan(found)

    def _fits(self, inner: Settings) -> bool:
        try:
            self._made(inner, streams=False)
        except DoesNotFit:
            return False
        return True

    def _check_rows(self, asked: Settings) -> None:
        """Raises BadSetting where no pass can have the rows that sources were asked for."""
        if self.sources(asked):
            survey.check_rows(replace(asked, method="auto", draft=None), trees=True)

    def sources(self, asked: Settings) -> bool:
        """Whether texts and rows of before may take part in drafting."""
        allowed = asked.method == "auto" or asked.method in SOURCES
        exact = not asked.exact or self._facts.exact
        return allowed and asked.verify == "match" and asked.nodes != 1 and exact and not self.target.shape.recurrent

    def report(self, made: Plan) -> MemoryReport:
        """The plan's bytes and speeds as they are shown and printed."""
        host, beside = self.machine.host, ("program", "margin")
        return MemoryReport(
            model=self.target.name,
            note=self._entry.note,
            weight_bytes=self.target.shape.weight_bytes,
            budget_bytes=self.asked.budget,
            free_bytes=self.machine.free_bytes - host.beside_bytes,
            program_bytes=host.program_bytes,
            margin_bytes=host.margin_bytes,
            predicted=Footprint(tuple(item for item in made.footprint.items if item.component not in beside)),
            method=made.method,
            tokens_per_s=made.tokens_per_s,
            tokens_per_pass=made.tokens_per_pass,
            speedup=made.speedup,
            least_bytes=made.floor_bytes,
            lines=made.lines,
            warnings=made.warnings,
        )

    def affords(self, spec: ContextSpec, placement: Placement = _ON_CPU) -> bool:
        """Whether a context of the target may be opened for a moment beside both models' weights."""
        needed = self.forecast.bytes_of(Configuration(spec, placement=placement)) + self.machine.host.beside_bytes
        needed += self.draft.shape.weight_bytes if self.draft else 0
        room = self.machine.free_bytes
        return needed <= (room if self.asked.budget is None else min(room, self.asked.budget))

    def watch(self, made: Plan) -> Watch:
        """What the ladder looks at once a round: the least room of the devices that the plan uses.

        Weights that are mapped as they lie in the file count as free for the system, but whoever takes their memory
        makes every pass read the disk: on the machine's own memory so much must stay there.
        """
        used = [room for room in self.machine.rooms if made.footprint.on(room.device)]
        least = min(room.free_bytes for room in used)
        low = max(int(LOW_SHARE * min(least, self.asked.budget or least)), LOW_BYTES)
        devices = [room.device for room in used if room.device != CPU]
        gauge = Gauge(lambda: survey.free_of_devices(devices)) if devices else Gauge()
        mapped = made.footprint.mapped_bytes

        def read() -> Reading:
            found = gauge.read()
            own = found.limit == MACHINE
            return replace(found, free_bytes=max(found.free_bytes - mapped, 0)) if own else found

        return Watch(read, Marks(low, HIGH * low))

    def limit_bytes(self) -> int | None:
        """What models may take of a budget that was named."""
        return None if self.asked.budget is None else self.asked.budget - self.machine.host.program_bytes

    def save_learnt(self) -> str | None:
        """Keep what answers taught; a warning where that failed."""
        if self.draft is None:
            return None
        try:
            if self.draft.mask_token_id is not None:
                learnt.save(self.learnt_key("parallel"), self.known.by_place.to_dict())
            return learnt.save(self.learnt_key(), self.known.acceptance.to_dict())
        except OSError as error:
            return f"what this conversation taught about speed was not kept: {error}"
