"""Chooses what drafts, and how much of it a pass verifies, by goodput: tokens over the time of plain decoding.

SmartSpec's measure (arXiv 2406.14066) decides between arms, one of which is not to draft at all; upper confidence
bounds with a count for each arm (BanditSpec, arXiv 2505.15141, where one count for all cancels the bonus) decide what
is tried. A round's worth is its tokens over what it costs in plain steps of the same depth, taken from the cost curve
in use rather than from the clock alone, so that a disturbed pass does not speak against the arm it met.

Trying is paid for out of PROBE_SHARE of the time: what a trial lost against the arm in use is entered in a ledger, and
while the ledger is overdrawn nothing is tried. An arm gives way only to one that is better by MARGIN.
Inside a draft a node must be worth the time of its row, and a pass of the drafter its own (SpecDec++, arXiv 2405.19715:
a threshold is the optimal rule); both are prices in tokens. An arm that rests on a drafter which hardly ever
lands anything and does not pay alone is left: beside useful sources it costs too little to be found out by goodput.
Not covered: chances (reliability.py), the clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from edgespec.speculation.acceptance import Acceptance
from edgespec.speculation.arms import FIRST_GAP, MOST_GAP, Arm, Record
from edgespec.speculation.controllers import fitting
from edgespec.speculation.live import LiveCost
from edgespec.speculation.places import ByPlace
from edgespec.speculation.reliability import N_KINDS, Kinds, Reliability
from edgespec.speculation.sizing import Sized, best_size, cut
from edgespec.types import PLAIN, Choice, Ids, Step, TokenTree, Verdict

PROBE_SHARE = 0.011
# Plain steps that may be lost on trials before anything was earned.
ALLOWANCE = 5.0
# Rounds of one trial: a drafter that was idle has to read the text first, which more rounds must make up for.
N_PROBE = 4
LEAST_TRIED = 4
# A plain round may be filled up to so many rows: every context has room for them.
MOST_PLAIN = 2
MARGIN = 0.01
# No row and no pass of a drafter asks for more: a token that is sure is drafted at any price.
MOST_PRICE = 0.9
BONUS = 0.25


class GoodputController:
    """Decides for one conversation; learns across conversations.

    n_switched  how often the arm in use has changed
    """

    def __init__(
        self,
        arms: Mapping[str, Arm],
        costs: LiveCost,
        kinds: Kinds,
        learns: Mapping[str, Acceptance | ByPlace] = MappingProxyType({}),
        *,
        plain: bool = True,
    ) -> None:
        """arms: by name; plain: not drafting is one too, named "none".

        learns: told what rounds of a drafter alone came to, for the next plan; by the arm's name.
        """
        self._learns = learns
        self._arms = {"none": Record(PLAIN, 1.0)} if plain else {}
        self._arms |= {
            name: Record(arm.choice, arm.expected, drafter=arm.drafter, by_node=arm.by_node)
            for name, arm in arms.items()
        }
        self._costs, self._kinds = costs, kinds
        self._reliability = {name: Reliability() for name in self._arms}
        self._total, self._lost = 0.0, 0.0
        self._in_use = max(self._usable(), key=lambda name: self._arms[name].prior)
        self._trial: str | None = None
        self._n_trial, self._trial_lost = 0, 0.0
        self._kind, self._n_past = 0, 0
        self._n_waves = 0
        self._n_rounds = [0] * N_KINDS
        self.n_switched = 0

    def choose(self, n_left: int, history: Ids) -> Choice:
        self._kind, self._n_past = self._kinds.of(history), len(history) - 1
        if self._trial is None:
            self._change_arm()
            self._trial = self._worth_trying()
            self._n_trial, self._trial_lost = N_PROBE if self._trial else 0, 0.0
        choice = fitting(self._arms[self._trial or self._in_use].choice, n_left)
        if choice.plain:
            return choice
        rows = choice.rows
        arm = self._arms[self._trial or self._in_use]
        if not arm.n_aside:  # what drafting costs is not known yet
            rows = min(rows, self._costs.widest_as(LEAST_TRIED, self._n_past))
        worth = self._goodput()
        prices = (min(worth * ms, MOST_PRICE) for ms in (0.0, *self._costs.row_ms(rows, self._n_past)))
        return replace(choice, rows=rows, row_prices=tuple(prices), wave_price=min(worth * arm.wave_ms, MOST_PRICE))

    def _usable(self) -> list[str]:
        """Arms whose drafter lands something; one that mixes it with more waits until that is known."""
        return [name for name in self._arms if self._lands(name)] or list(self._arms)

    def _lands(self, name: str) -> bool:
        alone = self._arms.get(self._arms[name].drafter or "")
        if alone is None or not alone.known:
            return alone is None or alone is self._arms[name]
        plain = self._costs.ms(1, self._n_past) / self._costs.ms(self._costs.padded(1), self._n_past)
        return alone.lands or alone.came_to > (1 + MARGIN) * plain

    def _change_arm(self) -> None:
        usable = self._usable()
        best = max(usable, key=lambda name: self._arms[name].goodput(self._kind))
        here = self._arms[self._in_use].goodput(self._kind) if self._in_use in usable else 0.0
        if best != self._in_use and self._arms[best].goodput(self._kind) > (1 + MARGIN) * here:
            self._in_use = best
            self.n_switched += 1

    def _worth_trying(self) -> str | None:
        """The arm that might be best for all that is known, if a trial of it can be afforded."""
        kind, here = self._kind, self._arms[self._in_use].goodput(self._kind)
        t = sum(arm.rounds[kind] for arm in self._arms.values())
        afforded = ALLOWANCE + PROBE_SHARE * self._total - self._lost
        could: dict[str, float] = {}
        for name, arm in self._arms.items():
            if name in (self._in_use, "none"):  # what not drafting comes to is known
                continue
            if self._n_rounds[kind] < arm.due[kind] or (arm.drafter != name and not self._lands(name)):
                continue
            if arm.lost > afforded:  # another one may be had for what is left
                continue
            could[name] = arm.goodput(kind) + BONUS * math.sqrt(math.log(t + 2) / (arm.rounds[kind] + 1))
        if not could:
            return None
        name = max(could, key=could.__getitem__)
        return name if could[name] > here else None

    def _goodput(self) -> float:
        """Tokens a millisecond that time is worth here; not drafting is always to be had."""
        return max(self._arms[self._in_use].goodput(self._kind), 1.0) / self._costs.ms(1, self._n_past)

    def size(self, choice: Choice, tree: TokenTree, history: Ids) -> Sized:
        by_node = self._arms[self._trial or self._in_use].by_node
        self._n_waves = len(tree) - 1 if by_node else int(tree.depth[-1])
        chances = self._reliability[self._trial or self._in_use].chances(tree, self._kind)

        def pass_ms(rows: int) -> float:
            return self._costs.ms(self._costs.padded(rows), self._n_past)

        n = 1
        if len(tree) > 1:
            n = best_size(chances, self._goodput(), pass_ms, self._costs.widths(choice.rows))
        if self._trial:  # one row would find nothing out
            n = max(n, min(LEAST_TRIED, len(tree)))
        fill = self._costs.padded(n) - n  # a lone row too, where a wider pass is quicker
        return cut(tree, chances, n, fill if n + fill <= max(choice.rows, MOST_PLAIN) else 0)

    def observe(self, step: Step, tree: TokenTree, verdict: Verdict) -> None:
        rows = len(tree)
        name = self._trial or self._in_use
        if step.n_past != self._n_past or step.choice.drafter != self._arms[name].choice.drafter:
            return  # a round that was not asked for: the one that read the prompt
        self._costs.observe(rows, step.n_past, step.target_ms)
        if name in self._learns:
            self._learns[name].observe(step)
        one = self._costs.ms(1, step.n_past)
        arm, n_tokens = self._arms[name], len(step.tokens)
        beside_ms = step.draft_ms + step.overhead_ms
        believed_ms = arm.aside(beside_ms, one)
        steps = (self._costs.ms(rows, step.n_past) + believed_ms) / one
        if not arm.choice.plain:
            arm.wave_ms += 0.2 * (min(self._wave_ms(believed_ms), one) - arm.wave_ms)
        if not step.choice.plain:  # one whose drafts were not worth a row took its time as well
            arm.drew(step.n_accepted > 0)
            self._leave_useless(name)
        self._reliability[name].observe(tree, verdict, self._kind)
        here = max(self._arms[self._in_use].goodput(self._kind), 1.0)
        arm.observe(self._kind, n_tokens, steps)
        for other in self._arms.values():
            if other is not arm:
                other.fade(self._kind)
        self._total += steps
        self._n_rounds[self._kind] += 1
        if self._trial is None:
            return
        # The ledger counts all of it: a drafter that was idle read the text first.
        self._trial_lost += (self._costs.ms(rows, step.n_past) + beside_ms) / one - n_tokens / here
        self._n_trial -= 1
        if self._n_trial == 0 or self._trial_lost > ALLOWANCE / 2:
            self._lost += max(self._trial_lost, 0.0)
            arm.lost = max(0.5 * arm.lost + 0.5 * self._trial_lost, 0.25)
            kind, here = self._kind, self._arms[self._in_use].goodput(self._kind)
            won = self._lands(name) and arm.goodput(kind) > here
            arm.gap[kind] = FIRST_GAP if won else min(2 * arm.gap[kind], MOST_GAP)
            arm.due[kind] = self._n_rounds[kind] + arm.gap[kind]
            self._trial = None

    def _wave_ms(self, beside_ms: float) -> float:
        """What a wave of this round's draft took, Python's time included but for what a plain round takes as well."""
        if not self._n_waves:
            return 0.0
        plain = self._arms.get("none")
        return max(beside_ms - (plain.aside_ms if plain else 0.0), 0.0) / self._n_waves

    def _leave_useless(self, name: str) -> None:
        """One that lands nothing is not tried again at once either."""
        if name == self._in_use and self._trial is None and not self._lands(name):
            arm = self._arms[name]
            arm.due = [n + gap for n, gap in zip(self._n_rounds, arm.gap, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """What to keep for the next session; `take` reads it back."""
        return {
            name: {**arm.to_dict(), "reliability": self._reliability[name].to_list()}
            for name, arm in self._arms.items()
        }

    def take(self, data: object) -> None:
        """Go on from what `to_dict` wrote, where it is about the same arms; older rounds count for less."""
        for name, arm in self._arms.items():
            kept = data.get(name) if isinstance(data, Mapping) else None
            if isinstance(kept, Mapping):
                self._reliability[name].take(kept.get("reliability"))
                arm.take(kept)
        self._in_use = max(self._usable(), key=lambda name: self._arms[name].goodput(0))
