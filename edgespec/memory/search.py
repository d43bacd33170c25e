"""Exhaustive search for the configurations that fit: arms by falling speed, each with every way to hold it in memory.

Bytes of the target's part and of the drafter's part are predicted once each and added. What cannot change the outcome
is left out: an arm whose leanest form does not fit, and arms slower than what was found.
Not covered: which of the findings becomes the plan (plan.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from edgespec.memory import arms as of_arms
from edgespec.memory.arms import Arm
from edgespec.memory.configuration import Configuration, DraftModel, Placement
from edgespec.memory.footprint import Footprint
from edgespec.memory.methods import Method, target_spec
from edgespec.memory.problem import Problem, Tier
from edgespec.memory.times import Where, pass_ms
from edgespec.types import PLAIN, Choice, ContextSpec

# Speeds nearer than this count as equal; then fewer bytes win.
TIE = 0.01
N_UBATCH = (512, 256, 128, 64, 32)
# Share of the speed that smaller prompt batches keep. A prompt counts as much as PROMPT_SHARE of an answer; how much
# slower it is read: on the processor from the milliseconds a row of wide passes (docs/design.md section 8: 13.9 at 16
# rows, 12.6 at 32, level beyond), on a device assumed, since nothing here measured one.
PROMPT_SHARE = 0.3
SLOWER_ON_CPU = (1.0, 1.02, 1.05, 1.1, 1.25)
SLOWER_ON_GPU = (1.0, 1.15, 1.5, 2.2, 4.0)
# Assumed: a batch of a prompt costs one read of the weights, but hundreds of rows have to be computed as well.
SLOWER_STREAMED = (1.0, 1.3, 2.0, 4.0, 8.0)

Bytes = tuple[int, ...]


@dataclass(frozen=True)
class Candidate:
    """A configuration and what is expected of it; method "plain" where nothing drafts."""

    configuration: Configuration
    method: str
    tokens_per_pass: float
    tokens_per_s: float
    total_bytes: int


@dataclass(frozen=True)
class _Way:
    """A variant of a method and the bytes of its draft part."""

    draft: DraftModel | None
    kept: float
    on: Bytes


class Search:
    """One problem's arms and bytes, each worked out once."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        curve = problem.target.measured.curve if problem.target.measured else None
        self.tables = {
            method.name: of_arms.table(method, problem.settings, curve, problem.streams) for method in problem.usable
        }
        self._place = {room.device: i for i, room in enumerate(problem.rooms)}
        self._rooms = [*(room.free_bytes for room in problem.rooms), 0]
        self._lies: dict[Placement, Where] = {}
        self._least: dict[tuple[Placement, Tier], Bytes] = {}
        self._specs: dict[tuple[Tier, int, int, int], ContextSpec] = {}
        self._target: dict[tuple[ContextSpec, Placement, str], Bytes] = {}
        self._ways: dict[tuple[str, ContextSpec, Placement], list[_Way]] = {}

    @cached_property
    def plain_arms(self) -> list[Arm]:
        """By falling speed."""
        return sorted((self._plain_arm(p) for p in self._placements), key=lambda arm: -arm.tokens_per_s)

    @cached_property
    def arms(self) -> list[Arm]:
        """Those that draft, by falling speed."""
        found: list[Arm] = []
        for placement in self._placements:
            for method in self.problem.usable:
                found += self._method_arms(method, placement)
        return sorted(found, key=lambda arm: -arm.tokens_per_s)

    @cached_property
    def _placements(self) -> list[Placement]:
        """Those that have room for plain decoding at its leanest."""
        tier, everything = self.problem.least_tier, sum(self._rooms)
        return [p for p in self.problem.placements() if self._fits(self._least_bytes(p, tier), everything)]

    def _plain_arm(self, placement: Placement) -> Arm:
        ms = pass_ms(self.problem.target, self._where(placement), [1], self.problem.machine)
        return Arm(None, PLAIN, placement, Placement(), 1.0, of_arms.plain_rate(float(ms[0])))

    def _method_arms(self, method: Method, placement: Placement) -> list[Arm]:
        table = self.tables[method.name]
        if not table.choices:
            return []
        where = self._where(placement)
        ms = pass_ms(self.problem.target, where, table.rows, self.problem.machine)
        return [
            Arm(method, choice, placement, site, tokens, rate)
            for site in method.sites
            for choice, tokens, rate in table.best(ms, method.wave_ms(site))
        ]

    def _where(self, placement: Placement) -> Where:
        if placement in self._lies:
            return self._lies[placement]
        spec = self._spec(self.problem.least_tier, N_UBATCH[-1], PLAIN)
        footprint = self.problem.predict(Configuration(spec, placement=placement))
        weights = Footprint(tuple(item for item in footprint.items if item.component == "weights"))
        devices = dict.fromkeys(item.device for item in weights.items)
        self._lies[placement] = Where(placement, tuple((device, weights.on(device)) for device in devices))
        return self._lies[placement]

    def _spec(self, tier: Tier, n_ubatch: int, choice: Choice) -> ContextSpec:
        """The target's context."""
        key = (tier, n_ubatch, choice.rows, choice.width)
        if key not in self._specs:
            exact, n_threads = self.problem.settings.exact, self.problem.n_threads
            base = ContextSpec(tier.n_ctx, kv_type=tier.kv_type, n_ubatch=n_ubatch, n_threads=n_threads, exact=exact)
            self._specs[key] = target_spec(base, choice)
        return self._specs[key]

    def within(
        self, arms: Sequence[Arm], tier: Tier, budget: int | None, at_least: float = 0.0, tie: float | None = TIE
    ) -> list[Candidate]:
        """What fits into rooms and budget and is at least so fast; with a tie, only what is as near to the fastest."""
        best, found = at_least, []
        near = 0.0 if tie is None else 1 - tie
        for arm in arms:
            if arm.tokens_per_s < max(at_least, near * best):
                break
            for candidate in self._held(arm, tier, budget, max(at_least, near * best)):
                best = max(best, candidate.tokens_per_s)
                found.append(candidate)
        return [c for c in found if c.tokens_per_s >= max(at_least, near * best)]

    def _held(self, arm: Arm, tier: Tier, budget: int | None, at_least: float) -> Iterable[Candidate]:
        """Every way to hold an arm in memory that fits and is fast enough."""
        limit = sum(self._rooms) if budget is None else budget
        plain = self._least_bytes(arm.placement, tier)
        if not self._fits(plain, limit):
            return
        for n_ubatch in reversed(N_UBATCH):
            rate = arm.tokens_per_s / _prompt_factor(arm.placement, n_ubatch)
            base = Configuration(self._spec(tier, n_ubatch, arm.choice), arm.choice, arm.placement)
            ways = self._ways_of(arm, base)
            if n_ubatch == N_UBATCH[-1] and not self._fits(_sum(plain, ways[-1].on), limit):
                return
            target = self._target_bytes(base, ways[0].draft)
            if n_ubatch == N_UBATCH[-1] and not self._fits(_sum(target, ways[-1].on), limit):
                return
            for way in ways:
                total = _sum(target, way.on)
                if rate * way.kept >= at_least and self._fits(total, limit):
                    whole = replace(base, draft=way.draft)
                    name = arm.method.name if arm.method else "plain"
                    yield Candidate(whole, name, arm.tokens_per_pass, rate * way.kept, sum(total))

    def least_bytes(self, tier: Tier) -> int:
        """Of plain decoding, wherever the weights lie and whatever room there is."""
        return min(sum(self._least_bytes(placement, tier)) for placement in self.problem.placements())

    def _least_bytes(self, placement: Placement, tier: Tier) -> Bytes:
        """Of plain decoding there: the least that any arm of the placement needs."""
        if (placement, tier) not in self._least:
            leanest = Configuration(self._spec(tier, N_UBATCH[-1], PLAIN), placement=placement)
            self._least[placement, tier] = self._target_bytes(leanest, None)
        return self._least[placement, tier]

    def _ways_of(self, arm: Arm, base: Configuration) -> list[_Way]:
        if arm.method is None:
            return [_Way(None, 1.0, (0,) * len(self._rooms))]
        key = (arm.method.name, base.target, arm.site)
        if key not in self._ways:
            self._ways[key] = [
                _Way(v.draft, v.kept, self._bytes(replace(base, draft=v.draft), draft=True))
                for v in arm.method.variants(base, arm.site)
            ]
        return self._ways[key]

    def _target_bytes(self, base: Configuration, draft: DraftModel | None) -> Bytes:
        key = (base.target, base.placement, base.choice.drafter)
        if key not in self._target:
            self._target[key] = self._bytes(replace(base, draft=draft), draft=False)
        return self._target[key]

    def _bytes(self, configuration: Configuration, draft: bool) -> Bytes:
        """Of the drafter's part or of everything else, by room; last what lies on devices without one."""
        on = [0] * len(self._rooms)
        for item in self.problem.predict(configuration).items:
            if item.component.startswith("draft ") == draft:
                on[self._place.get(item.device, -1)] += item.n_bytes
        return tuple(on)

    def _fits(self, on: Bytes, limit: int) -> bool:
        return sum(on) <= limit and all(n <= room for n, room in zip(on, self._rooms, strict=True))


def decoding_rate(found: Candidate) -> float:
    """Tokens a second of an answer, what its prompt costs left out."""
    configuration = found.configuration
    return found.tokens_per_s * _prompt_factor(configuration.placement, configuration.target.n_ubatch)


def _prompt_factor(placement: Placement, n_ubatch: int) -> float:
    """What reading prompts in batches of this size takes from the speed."""
    slower = SLOWER_ON_CPU if not placement.n_gpu_layers else SLOWER_ON_GPU
    slow = (SLOWER_STREAMED if placement.streamed else slower)[N_UBATCH.index(n_ubatch)]
    return 1 + PROMPT_SHARE * (slow - 1)


def _sum(a: Bytes, b: Bytes) -> Bytes:
    return tuple(x + y for x, y in zip(a, b, strict=True))
