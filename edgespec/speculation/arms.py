"""What may draft, and what its rounds came to: an arm of the goodput controller and the record that is kept of it.

Not covered: which arm is used or tried (goodput.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgespec.speculation.reliability import N_KINDS
from edgespec.types import MAX_NODES, Choice

# So many first rounds are believed up to so many plain steps each, later ones by what was seen before: a slow drafter
# must not look quick in the rounds that decide, and one that read the prompt, or was stopped, not hopeless.
N_BELIEVED, MOST_BELIEVED = 3, 2.0
# Rounds that count, roughly; a prior counts as N_PRIOR of them.
FORGET, N_PRIOR = 0.985, 3.0
# What is known of an idle arm halves in some 350 rounds of its kind of text.
FADE = 0.998
# Rounds of earlier sessions that count.
N_REMEMBERED = 8.0
# Sums of discounted rounds come nowhere near; a file that says more is damaged.
MOST_KEPT = 1e6
# What one arm learns of a kind of text is told to the other kinds at this weight.
ELSEWHERE = 0.25
# A drafter of which fewer rounds than LEAST_LANDED accept anything, N_LANDED or more seen, does not draft well enough.
LEAST_LANDED, N_LANDED = 0.15, 8.0
# Rounds of its kind of text between two trials of an arm, doubled by every one that it lost.
FIRST_GAP, MOST_GAP = 16, 256


@dataclass(frozen=True)
class Arm:
    """What may draft, and the goodput expected of it.

    drafter  the arm that shows alone what the drafter of this one is good for, which may be itself; None: without one
    by_node  its time goes with the nodes of a tree, not with the waves that a model reads
    """

    choice: Choice
    expected: float
    drafter: str | None = None
    by_node: bool = False


@dataclass
class Record:
    """Discounted sums by kind of text: tokens, plain steps that they cost, rounds; and drafting time in plain steps."""

    choice: Choice
    prior: float
    tokens: list[float] = field(default_factory=lambda: [0.0] * N_KINDS)
    steps: list[float] = field(default_factory=lambda: [0.0] * N_KINDS)
    rounds: list[float] = field(default_factory=lambda: [0.0] * N_KINDS)
    lost: float = 1.0  # plain steps that a trial lost of late
    aside_ms: float = 0.0  # what a round takes besides the target's pass
    n_aside: int = 0
    wave_ms: float = 0.0  # what drafting takes for every wave of a tree
    landed: float = 0.0  # rounds in which something was accepted, and rounds that drafted, both discounted
    drafted: float = 0.0
    drafter: str | None = None
    by_node: bool = False
    gap: list[int] = field(default_factory=lambda: [FIRST_GAP] * N_KINDS)  # rounds until the next trial
    due: list[int] = field(default_factory=lambda: [0] * N_KINDS)

    def aside(self, ms: float, one: float) -> float:
        """What to believe of the time beside the pass, one being that of a plain step: a process that was stopped in
        between says nothing."""
        self.n_aside += 1
        most = 4 * self.aside_ms + 1.0 if self.n_aside > N_BELIEVED else MOST_BELIEVED * one
        ms = max(min(ms, most), 0.0)
        self.aside_ms += max(1 / self.n_aside, 0.1) * (ms - self.aside_ms)
        return ms

    def goodput(self, kind: int) -> float:
        """Tokens a plain step."""
        return (self.tokens[kind] + N_PRIOR * self.prior) / (self.steps[kind] + N_PRIOR)

    @property
    def known(self) -> bool:
        """Whether enough of its rounds were seen to judge its drafter."""
        return self.drafted >= N_LANDED

    @property
    def lands(self) -> bool:
        return self.landed >= LEAST_LANDED * self.drafted

    @property
    def came_to(self) -> float:
        """Tokens a plain step over all kinds of text, without what was expected."""
        return sum(self.tokens) / max(sum(self.steps), 1e-9)

    def drew(self, accepted: bool) -> None:
        """One more round that was to draft."""
        self.drafted = FORGET * self.drafted + 1
        self.landed = FORGET * self.landed + accepted

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

    def to_dict(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "steps": self.steps,
            "rounds": self.rounds,
            "landed": [self.landed, self.drafted],
        }

    def take(self, kept: Mapping[str, Any]) -> None:
        """Go on from what `to_dict` gave; older rounds count for less, and what makes no sense for nothing."""
        self.landed, self.drafted = _landed(kept.get("landed"))
        tokens, steps, rounds = (_sums(kept.get(part)) for part in ("tokens", "steps", "rounds"))
        if tokens and steps and rounds and all(t <= MAX_NODES * s for t, s in zip(tokens, steps, strict=True)):
            n = max(*rounds, N_REMEMBERED) / N_REMEMBERED
            self.tokens, self.steps, self.rounds = ([x / n for x in s] for s in (tokens, steps, rounds))


def _sums(values: object) -> list[float] | None:
    """Figures by kind of text, or None where they make no sense."""
    if not isinstance(values, list) or len(values) != N_KINDS:
        return None
    return values if all(type(v) in (int, float) and 0 <= v <= MOST_KEPT for v in values) else None


def _landed(values: object) -> tuple[float, float]:
    """Rounds that landed and rounds that drafted, N_REMEMBERED of them at most."""
    if not isinstance(values, list) or len(values) != 2 or not all(type(v) in (int, float) for v in values):
        return 0.0, 0.0
    landed, drafted = values
    if not 0 <= landed <= drafted <= MOST_KEPT:
        return 0.0, 0.0
    n = max(drafted, N_REMEMBERED) / N_REMEMBERED
    return landed / n, min(float(drafted), N_REMEMBERED)
