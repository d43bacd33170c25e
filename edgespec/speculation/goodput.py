"""Chooses what drafts, and how much of it a pass verifies, by goodput: tokens over the time of plain decoding.

SmartSpec's measure (arXiv 2406.14066) decides between arms, one of which is not to draft at all; upper confidence
bounds with a count for each arm (BanditSpec, arXiv 2505.15141, where one count for all cancels the bonus) decide what
is tried. A round's worth is its tokens over what it costs in plain steps of the same depth, taken from the cost curve
in use rather than from the clock alone, so that a disturbed pass does not speak against the arm it met.

Trying is paid for out of PROBE_SHARE of the time: what a trial lost against the arm in use is entered in a ledger, and
while the ledger is overdrawn nothing is tried. An arm gives way only to one that is better by MARGIN.
Inside a draft, nodes less likely than `min_prob` are not drafted: a node must be worth the time of a row (SpecDec++,
arXiv 2405.19715: a threshold is the optimal rule). Not covered: chances (reliability.py), the clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgespec.speculation.acceptance import Acceptance
from edgespec.speculation.live import LiveCost
from edgespec.speculation.reliability import N_KINDS, Kinds, Reliability
from edgespec.speculation.sizing import Sized, best_size, cut
from edgespec.types import MAX_NODES, PLAIN, Choice, Ids, Step, TokenTree, Verdict

PROBE_SHARE = 0.011
# Plain steps that may be lost on trials before anything was earned.
ALLOWANCE = 5.0
# Rounds of one trial: a drafter that was idle has to read the text first, which more rounds must make up for.
N_PROBE = 4
LEAST_TRIED = 4
# Rounds of its kind of text between two trials of an arm, doubled by every one that it lost.
FIRST_GAP, MOST_GAP = 16, 256
# A plain round may be filled up to so many rows: every context has room for them.
MOST_PLAIN = 2
MARGIN = 0.01
# So many first rounds are believed whatever they take: a slow drafter must not look quick in the rounds that decide.
N_BELIEVED = 3
# Rounds that count, roughly; a prior counts as N_PRIOR of them.
FORGET, N_PRIOR = 0.985, 3.0
# What is known of an idle arm halves in some 350 rounds of its kind of text.
FADE = 0.998
BONUS = 0.25
# Rounds of earlier sessions that count.
N_REMEMBERED = 8.0
# Sums of discounted rounds come nowhere near; a file that says more is damaged.
MOST_KEPT = 1e6
# What one arm learns of a kind of text is told to the other kinds at this weight.
ELSEWHERE = 0.25


@dataclass
class _Arm:
    """Discounted sums by kind of text: tokens, plain steps that they cost, rounds; and drafting time in plain steps."""

    choice: Choice
    prior: float
    tokens: list[float] = field(default_factory=lambda: [0.0] * N_KINDS)
    steps: list[float] = field(default_factory=lambda: [0.0] * N_KINDS)
    rounds: list[float] = field(default_factory=lambda: [0.0] * N_KINDS)
    lost: float = 1.0  # plain steps that a trial lost of late
    aside_ms: float = 0.0  # what a round takes besides the target's pass
    n_aside: int = 0
    node_ms: float = 0.0  # what drafting takes a node
    gap: list[int] = field(default_factory=lambda: [FIRST_GAP] * N_KINDS)  # rounds until the next trial
    due: list[int] = field(default_factory=lambda: [0] * N_KINDS)

    def aside(self, ms: float) -> float:
        """What to believe of the time beside the pass: a process that was stopped in between says nothing."""
        self.n_aside += 1
        if self.n_aside > N_BELIEVED:
            ms = min(ms, 4 * self.aside_ms + 1.0)
        ms = max(ms, 0.0)
        self.aside_ms += max(1 / self.n_aside, 0.1) * (ms - self.aside_ms)
        return ms

    def goodput(self, kind: int) -> float:
        """Tokens a plain step."""
        return (self.tokens[kind] + N_PRIOR * self.prior) / (self.steps[kind] + N_PRIOR)

    def fade(self, kind: int) -> None:
        """What an idle arm once came to says less and less: it is tried again, rarely."""
        for sums in (self.tokens, self.steps, self.rounds):
            sums[kind] *= FADE

    def observe(self, kind: int, tokens: float, steps: float) -> None:
        for k in range(N_KINDS):
            weight = 1.0 if k == kind else ELSEWHERE
            keep = 1 - weight * (1 - FORGET)
            self.tokens[k] = keep * self.tokens[k] + weight * tokens
            self.steps[k] = keep * self.steps[k] + weight * steps
            self.rounds[k] = keep * self.rounds[k] + weight


class GoodputController:
    """Decides for one conversation; learns across conversations.

    n_switched  how often the arm in use has changed
    """

    def __init__(
        self,
        arms: Mapping[str, tuple[Choice, float]],
        costs: LiveCost,
        kinds: Kinds,
        acceptance: Acceptance | None = None,
        *,
        plain: bool = True,
    ) -> None:
        """arms: by name, what may draft and the goodput expected of it; plain: not drafting is one too.

        acceptance: told what rounds of the drafter alone came to, for the next plan.
        """
        self._acceptance = acceptance
        self._arms = {"none": _Arm(PLAIN, 1.0)} if plain else {}
        self._arms |= {name: _Arm(choice, prior) for name, (choice, prior) in arms.items()}
        self._costs, self._kinds = costs, kinds
        self._reliability = {name: Reliability() for name in self._arms}
        self._total, self._lost = 0.0, 0.0
        self._in_use = max(self._arms, key=lambda name: self._arms[name].prior)
        self._trial: str | None = None
        self._n_trial, self._trial_lost = 0, 0.0
        self._kind, self._n_past = 0, 0
        self._n_nodes = 0
        self._n_rounds = [0] * N_KINDS
        self.n_switched = 0

    def choose(self, n_rows_left: int, history: Ids) -> Choice:
        self._kind, self._n_past = self._kinds.of(history), len(history) - 1
        if self._trial is None:
            self._change_arm()
            self._trial = self._worth_trying()
            self._n_trial, self._trial_lost = N_PROBE if self._trial else 0, 0.0
        choice = self._arms[self._trial or self._in_use].choice
        if choice.plain:
            return choice
        rows = min(choice.rows, n_rows_left)
        if not self._arms[self._trial or self._in_use].n_aside:  # what drafting costs is not known yet
            rows = min(rows, LEAST_TRIED)
        node_ms = self._costs.row_ms(rows, self._n_past) + self._arms[self._trial or self._in_use].node_ms
        return replace(choice, rows=rows, min_prob=min(self._goodput() * node_ms, 0.9))

    def _change_arm(self) -> None:
        best = max(self._arms, key=lambda name: self._arms[name].goodput(self._kind))
        here = self._arms[self._in_use].goodput(self._kind)
        if best != self._in_use and self._arms[best].goodput(self._kind) > (1 + MARGIN) * here:
            self._in_use = best
            self.n_switched += 1

    def _worth_trying(self) -> str | None:
        """The arm that might be best for all that is known, if a trial of it can be afforded."""
        kind, here = self._kind, self._arms[self._in_use].goodput(self._kind)
        t = sum(arm.rounds[kind] for arm in self._arms.values())
        could: dict[str, float] = {}
        for name, arm in self._arms.items():
            if name in (self._in_use, "none"):  # what not drafting comes to is known
                continue
            if self._n_rounds[kind] < arm.due[kind]:
                continue
            could[name] = arm.goodput(kind) + BONUS * math.sqrt(math.log(t + 2) / (arm.rounds[kind] + 1))
        if not could:
            return None
        name = max(could, key=could.__getitem__)
        if could[name] <= here:
            return None
        afforded = ALLOWANCE + PROBE_SHARE * self._total - self._lost
        return name if self._arms[name].lost <= afforded else None

    def _goodput(self) -> float:
        """Tokens a millisecond that time is worth here; not drafting is always to be had."""
        return max(self._arms[self._in_use].goodput(self._kind), 1.0) / self._costs.ms(1, self._n_past)

    def size(self, choice: Choice, tree: TokenTree, history: Ids) -> Sized:
        self._n_nodes = len(tree) - 1
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
        if self._acceptance is not None and name == "model":
            self._acceptance.observe(step)
        one = self._costs.ms(1, step.n_past)
        arm, n_tokens = self._arms[name], len(step.tokens)
        beside_ms = step.draft_ms + step.overhead_ms
        believed_ms = arm.aside(beside_ms)
        steps = (self._costs.ms(rows, step.n_past) + believed_ms) / one
        if not arm.choice.plain:  # a round that caught up with the text says nothing of its nodes
            own_ms = min(step.draft_ms, believed_ms) / self._n_nodes if self._n_nodes else 0.0
            arm.node_ms += 0.2 * (min(own_ms, one) - arm.node_ms)
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
            arm.gap[kind] = FIRST_GAP if arm.goodput(kind) > here else min(2 * arm.gap[kind], MOST_GAP)
            arm.due[kind] = self._n_rounds[kind] + arm.gap[kind]
            self._trial = None

    def to_dict(self) -> dict[str, Any]:
        """What to keep for the next session; `take` reads it back."""
        return {
            name: {
                "tokens": arm.tokens,
                "steps": arm.steps,
                "rounds": arm.rounds,
                "reliability": self._reliability[name].to_list(),
            }
            for name, arm in self._arms.items()
        }

    def take(self, data: object) -> None:
        """Go on from what `to_dict` wrote, where it is about the same arms; older rounds count for less."""
        for name, arm in self._arms.items():
            kept = data.get(name) if isinstance(data, Mapping) else None
            if not isinstance(kept, Mapping):
                continue
            self._reliability[name].take(kept.get("reliability"))
            tokens, steps, rounds = (_sums(kept.get(part)) for part in ("tokens", "steps", "rounds"))
            if tokens and steps and rounds and all(t <= MAX_NODES * s for t, s in zip(tokens, steps, strict=True)):
                n = max(*rounds, N_REMEMBERED) / N_REMEMBERED
                arm.tokens, arm.steps, arm.rounds = ([x / n for x in s] for s in (tokens, steps, rounds))
        self._in_use = max(self._arms, key=lambda name: self._arms[name].goodput(0))


def _sums(values: object) -> list[float] | None:
    """Figures by kind of text, or None where they make no sense."""
    if not isinstance(values, list) or len(values) != N_KINDS:
        return None
    return values if all(type(v) in (int, float) and 0 <= v <= MOST_KEPT for v in values) else None
