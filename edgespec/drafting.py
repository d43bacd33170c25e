"""What drafts for one loaded model and who decides: sources and what they learnt, drafters by name, controllers.

Names are those of --method and of Choice.drafter: "suffix" and "recycle" alone, "lookup" both of them, "lookahead" the
target's own spare rows, "model" the drafter alone, "mix" all but lookahead in one tree. State that was learnt goes in
and out as plain values.
Not covered: files (store), opening contexts (loading).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from edgespec.backends.base import Context
from edgespec.memory.configuration import Configuration
from edgespec.memory.forecast import N_TEXT_TOKENS
from edgespec.settings import SOURCES, Settings
from edgespec.speculation.acceptance import Acceptance
from edgespec.speculation.arms import Arm
from edgespec.speculation.controllers import Controller, FixedController
from edgespec.speculation.cost import Curve
from edgespec.speculation.drafters.automaton import Automaton
from edgespec.speculation.drafters.base import Drafter, Learner
from edgespec.speculation.drafters.lookahead import LookaheadDrafter
from edgespec.speculation.drafters.mix import MixDrafter
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.parallel import ParallelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.drafters.recycle import Recycled
from edgespec.speculation.drafters.sampled import SampledDrafter
from edgespec.speculation.drafters.suffix import Suffix
from edgespec.speculation.goodput import GoodputController
from edgespec.speculation.live import LiveCost
from edgespec.speculation.places import ByPlace
from edgespec.speculation.reliability import Kinds, classes_of
from edgespec.types import Choice

# Tokens of text that drafts are copied from: the conversation, past ones, files.
N_TOKENS = N_TEXT_TOKENS
# What is expected of sources where nothing was learnt: hardly more than plain decoding, but hardly anything is lost.
LOOKUP_GOODPUT, MIX_BONUS = 1.02, 0.01


class Drafting:
    """One model's sources, drafters and controllers, for as long as it is loaded."""

    def __init__(
        self,
        asked: Settings,
        pieces: Callable[[], list[bytes]],
        acceptance: Acceptance,
        curve: Curve | None,
        automaton: Automaton | None = None,
        by_place: ByPlace | None = None,
        *,
        sources: bool = True,
        methods: Collection[str] = (),
    ) -> None:
        """pieces: bytes of each id, asked for where something decides by them; curve: None where none was measured;
        acceptance, by_place: of the drafter's trees and of its parallel ones, for the next plan; sources: whether they
        may draft; methods: those that will be asked for, where it is more than one (bench). Under the rule of rejection
        nothing can draft that has no draft probabilities."""
        self._asked, self._pieces, self._curve = asked, pieces, curve
        self._acceptance, self._by_place = acceptance, by_place
        self.sources = sources and asked.verify == "match"
        self.suffix = Suffix(automaton or Automaton(N_TOKENS))
        self.recycled = Recycled()
        self._lookahead = LookaheadDrafter() if "lookahead" in (asked.method, *methods) else None
        self._mixes: dict[str, MixDrafter] = {}
        self._control: GoodputController | None = None
        self._learnt: Mapping[str, Any] = {}
        self._kinds: Kinds | None = None

    @property
    def learners(self) -> tuple[Learner, ...]:
        if not self.sources:
            return ()
        own = (self.suffix, self.recycled)
        return own if self._lookahead is None else (*own, self._lookahead)

    def without_model(self) -> dict[str, Drafter]:
        if not self.sources:
            return {}
        made = {
            "suffix": MixDrafter([self.suffix]),
            "recycle": MixDrafter([self.recycled]),
            "lookup": MixDrafter([self.suffix, self.recycled]),
        }
        own: dict[str, Drafter] = {} if self._lookahead is None else {"lookahead": self._lookahead}
        return {**self._taught(made), **own}

    def with_model(self, mask_id: int | None, context: Context) -> dict[str, Drafter]:
        """Drafters on one context, which they share; mask_id: of a model that drafts in parallel too."""
        reader = Reader(context)
        if self._asked.verify == "rejection":
            return {"model": SampledDrafter(reader)}
        made: dict[str, Drafter] = {"model": ModelDrafter(reader)}
        if mask_id is not None:
            made["parallel"] = ParallelDrafter(reader, mask_id)
        if self.sources:
            made |= self._taught({"mix": MixDrafter([self.suffix, self.recycled], reader)})
        return made

    def _taught(self, made: dict[str, MixDrafter]) -> dict[str, Drafter]:
        for name, drafter in made.items():
            drafter.take(self._kept("fits").get(name))
        self._mixes |= made
        return dict(made)

    def controller(self, c: Configuration, asked: Settings | None = None) -> Controller:
        """What decides each round of a configuration; asked: other settings than it was loaded for (bench)."""
        asked = asked or self._asked
        arms = self._arms(c, asked) if asked.method == "auto" else {}
        if asked.method in SOURCES and asked.nodes is None and not c.choice.plain:
            # Sized to what passes cost, but never switched off.
            arms = {asked.method: Arm(c.choice, 1.0, by_node=asked.method != "mix")}
        learns: dict[str, Acceptance | ByPlace] = {"model": self._acceptance}
        if self._by_place is not None:
            learns["parallel"] = self._by_place
        if not arms or self._curve is None:
            return FixedController(c.choice, learns.get(c.choice.drafter))
        if self._kinds is None:
            self._kinds = Kinds(classes_of(self._pieces()))
        made = GoodputController(arms, LiveCost(self._curve), self._kinds, learns, plain=asked.method == "auto")
        self._learnt = {**self._learnt, "control": self._control_so_far()}
        made.take(self._kept("control"))
        self._control = made
        return made

    def _arms(self, c: Configuration, asked: Settings) -> dict[str, Arm]:
        """What auto decides between, and the goodput it begins with."""
        most = c.target.max_nodes
        width = 1 if asked.shape == "chain" or c.target.max_leaves <= 1 else 8
        depth = asked.depth or most - 1
        arms: dict[str, Arm] = {}
        if c.draft is not None and not c.choice.plain:
            expected = c.expected or 1.2
            alone = c.choice.drafter
            arms[alone] = Arm(c.choice, expected, alone)
            if c.sources:
                arms["mix"] = Arm(Choice("mix", c.choice.rows, depth, c.choice.width), expected + MIX_BONUS, alone)
        if c.sources and most > 2:
            arms["lookup"] = Arm(Choice("lookup", most, depth, width), LOOKUP_GOODPUT, by_node=True)
        return arms

    def unlearn(self) -> None:
        """Begin anew, as if nothing had been said or seen: what is measured must not be copied from the last run."""
        self.suffix.clear(N_TOKENS)
        self.recycled.clear()
        for mix in self._mixes.values():
            mix.unlearn()
        self._control, self._learnt = None, {}

    def take(self, learnt: Mapping[str, Any] | None) -> None:
        """Begin with what `learnt` gave earlier; what makes no sense counts as nothing learnt."""
        self._learnt = learnt if isinstance(learnt, Mapping) else {}

    def learnt(self) -> dict[str, Any]:
        """What answering taught, as plain values."""
        fits = {name: mix.to_dict() for name, mix in self._mixes.items()}
        return {"fits": {**self._kept("fits"), **fits}, "control": self._control_so_far()}

    def _control_so_far(self) -> dict[str, Any]:
        """Of every arm that ever was: one that a leaner plan is without comes back."""
        return {**self._kept("control"), **(self._control.to_dict() if self._control else {})}

    def _kept(self, name: str) -> Mapping[str, Any]:
        part = self._learnt.get(name)
        return part if isinstance(part, Mapping) else {}
