"""Measuring the cost curve: on a fake machine with a clock of its own, and once on the demo."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgespec.backends.fake import FakeContext, FakeModel
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.engine.calibrate import measure
from edgespec.errors import BadSetting, Cancelled, DecodeFailed
from edgespec.speculation.tree import single
from edgespec.types import ContextSpec, Span

DEMO = Path(__file__).parents[2] / "edgespec" / "demo" / "demo.gguf"
WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


def q4_0(rows: int) -> float:
    """Milliseconds like those of Q4_0 with repacked kernels: four rows at a time, leftovers one by one."""
    return 15.0 + 40.0 * (rows // 4) + 26.0 * (rows % 4)


def f16(rows: int) -> float:
    """Bound by bandwidth first, by arithmetic later."""
    return max(110.0, 15.0 * rows)


class FakeMachine(FakeContext):
    """A fake context whose calls take time by its own clock: cost(rows) + more(rows) a cached token, and what disturbs.

    disturbed(n, rows)  what the time of pass number n is multiplied by
    """

    def __init__(
        self,
        cost: Callable[[int], float],
        more: Callable[[int], float] = lambda _: 0.0,
        disturbed: Callable[[int, int], float] = lambda _n, _rows: 1.0,
        **spec: int,
    ) -> None:
        super().__init__(FakeModel(), ContextSpec(**{"n_ctx": 4096, "max_nodes": 256, **spec}))
        self.cost, self.more, self.disturbed = cost, more, disturbed
        self.now = 100.0
        self.widths: list[int] = []

    def clock(self) -> float:
        return self.now

    def evaluate(self, spans: Sequence[Span], cancelled=None):
        rows = len(spans[0].nodes)
        ms = self.cost(rows) + self.length(0) * self.more(rows)
        self.now += 1e-3 * ms * self.disturbed(len(self.widths), rows)
        self.widths.append(rows)
        return super().evaluate(spans)

    def prefill(self, slot, tokens, progress=None, cancelled=None) -> None:
        self.now += 1e-3 * self.cost(len(tokens))
        super().prefill(slot, tokens, progress, cancelled)

    def measure(self, budget_s: float = 4.5):
        return measure(self, 64, budget_s, self.clock)


def test_an_undisturbed_curve_is_the_machine_itself() -> None:
    """Fails when a pass of another width, or anything but the pass, is timed."""
    fast = FakeMachine(lambda n: q4_0(n) / 50)
    curve = fast.measure()
    assert curve.rows == WIDTHS
    assert curve.pass_ms == pytest.approx([q4_0(n) / 50 for n in WIDTHS])
    assert curve.depth == 128
    assert curve.landings()[:5] == (1, 4, 5, 8, 12)


def test_widths_end_where_the_context_does() -> None:
    """Fails when more rows are asked for than a pass may have."""
    assert FakeMachine(lambda n: 1.0 + n, max_nodes=20).measure().rows == (1, 2, 3, 4, 5, 6, 7, 8, 12, 16)
    assert FakeMachine(lambda n: 1.0 + n, max_nodes=2).measure().rows == (1, 2)


@pytest.mark.parametrize("cost", [q4_0, f16, lambda n: 300 + 90.0 * n, lambda n: 2000.0 + n], ids=range(4))
def test_the_budget_holds_on_a_slow_model(cost: Callable[[int], float]) -> None:
    """Fails when a pass is begun that is predicted to end after the budget."""
    machine = FakeMachine(cost)
    curve = machine.measure(4.5)
    assert machine.now - 100.0 <= 4.5
    assert curve.pass_ms == pytest.approx([cost(n) for n in curve.rows])
    assert all(machine.widths.count(rows) > 1 for rows in curve.rows)


def test_a_slow_model_gets_the_widths_that_matter() -> None:
    """1B f16 on two cores: all widths to 16 within the budget; 8B: at least 1, 2 and 4."""
    assert set(FakeMachine(f16).measure(4.5).rows) >= {1, 2, 3, 4, 5, 6, 7, 8, 12, 16}
    assert set(FakeMachine(lambda n: 220 + 80.0 * n).measure(4.5).rows) >= {1, 2, 4}


def test_a_hopelessly_slow_model_still_says_what_a_lone_row_takes() -> None:
    """Seven seconds a pass: nothing can be measured in the budget, and two passes would be worse than one."""
    machine = FakeMachine(lambda n: 7000.0 * n)
    assert machine.measure(4.5).rows == (1,)
    assert machine.widths == [1]


def test_a_cold_first_pass_does_not_end_the_measurement() -> None:
    """The first pass reads the weights from disk: what it took must not be believed of the next."""
    curve = FakeMachine(f16, disturbed=lambda n, _: 15.0 if n == 0 else 1.0).measure(4.5)
    assert curve.ms(1) == pytest.approx(110)
    assert set(curve.rows) >= {1, 2, 4, 8}


@pytest.mark.parametrize("seed", range(20))
def test_passes_that_lost_a_core_change_no_landing(seed: int) -> None:
    """A quarter of all passes takes up to ten times as long: a landing must not come from noise."""
    rng = np.random.default_rng(seed)
    factors = np.where(rng.random(2000) < 0.25, rng.uniform(1.5, 10, 2000), rng.uniform(1, 1.01, 2000))
    honest = FakeMachine(lambda n: q4_0(n) / 10, max_nodes=32).measure()
    noisy = FakeMachine(lambda n: q4_0(n) / 10, disturbed=lambda n, _: float(factors[n]), max_nodes=32).measure()
    assert noisy.landings() == honest.landings() == (1, 4, 5, 8, 12, 16, 24, 32)
    assert noisy.pass_ms == pytest.approx(honest.pass_ms, rel=0.02)


def test_one_disturbed_second_on_a_slow_model_changes_no_landing() -> None:
    """Nothing but another process for a second, on a model so slow that each width is hardly timed twice."""
    honest = FakeMachine(f16, max_nodes=16).measure()
    for begin in range(20):
        noisy = FakeMachine(f16, disturbed=lambda n, _, b=begin: 2.0 if b <= n < b + 5 else 1.0, max_nodes=16)
        assert noisy.measure().landings() == honest.landings() == (7, 8, 12, 16)


def test_a_width_disturbed_twice_is_timed_until_two_times_agree() -> None:
    """Fails when a slow model's budget goes into wider widths while what is there is known to be wrong."""
    n_times: dict[int, int] = {}

    def twice(_n: int, rows: int) -> float:
        n_times[rows] = n_times.get(rows, 0) + 1
        return {1: 1.3, 2: 1.6}.get(n_times[rows], 1.0) if rows == 16 else 1.0

    assert FakeMachine(f16, disturbed=twice).measure(3.6).ms(16) == pytest.approx(240)


def test_narrow_widths_are_sure_before_the_widest_begin() -> None:
    """Fails when a budget that ends early leaves the widths that matter with two times each."""
    machine = FakeMachine(lambda n: 2.0 + 0.5 * n)
    machine.measure()
    before = machine.widths[: machine.widths.index(48)]
    assert min(before.count(rows) for rows in WIDTHS[:12]) >= 5


def test_growth_with_depth_is_measured_by_width() -> None:
    """Worked by hand: 0.002 + 0.001 rows ms a cached token, which 1 and 16 rows must show and 10 more rows scale."""
    machine = FakeMachine(lambda n: 2.0 + 0.5 * n, more=lambda n: 0.002 + 0.001 * n)
    curve = machine.measure()
    assert curve.deep_rows == (1, 4, 16, 32)
    assert curve.ms_per_cell == pytest.approx([0.003, 0.006, 0.018, 0.034])
    assert curve.ms(8, 2128) == pytest.approx(curve.ms(8) + 2000 * 0.010)
    assert curve.pass_ms == pytest.approx([2.0 + 0.5 * n + 128 * (0.002 + 0.001 * n) for n in WIDTHS])


def test_growth_below_the_noise_counts_as_none() -> None:
    """Fails when 1 % of a short pass, carried to 4,000 cached tokens, is made a tenth."""
    curve = FakeMachine(lambda n: 2.0 + 0.5 * n, more=lambda n: 1e-5 * n).measure()
    assert curve.deep_rows == (1, 4, 16, 32)
    assert curve.ms_per_cell == (0, 0, 0, 0)


def test_no_growth_is_made_up_where_the_budget_or_the_context_allows_no_depth() -> None:
    """Fails when two depths so near each other are compared that noise makes the difference."""
    assert FakeMachine(f16).measure().deep_rows == ()
    assert FakeMachine(lambda n: 1.0 + n, n_ctx=300).measure().deep_rows == ()


def test_without_a_budget_every_width_and_the_growth_are_measured() -> None:
    """The card of ceilings shows 1 to 256 rows, however slow."""
    machine = FakeMachine(f16, more=lambda n: 0.01 * n)
    curve = measure(machine, 64, math.inf, machine.clock)
    assert curve.rows == WIDTHS
    assert curve.deep_rows == (1, 4, 16, 32)


@pytest.mark.parametrize("prompt", [[], [5, 6, 7]])
@pytest.mark.parametrize("ending", ["done", "failed", "cancelled"])
def test_the_conversation_is_left_as_it_was(prompt: list[int], ending: str) -> None:
    """Fails when a timed pass, or the tokens in front of it, stay in the cache, however the measurement ends."""
    machine = FakeMachine(lambda n: 1.0 + n)
    machine.prefill(0, prompt)
    before = machine.export_state(0)
    if ending == "done":
        machine.measure()
    elif ending == "failed":
        machine.cost = lambda n: 1.0 if n < 16 else fail()
        with pytest.raises(DecodeFailed):
            machine.measure()
    else:
        with pytest.raises(Cancelled):
            measure(machine, 64, 4.5, machine.clock, cancelled=lambda: len(machine.widths) > 9)
        assert len(machine.widths) == 10
    assert machine.export_state(0) == before
    machine.evaluate([Span(0, single(3), [0])])  # node 0 was not evaluated yet


def fail() -> float:
    raise DecodeFailed("the runtime failed")


def test_a_state_that_cannot_be_rolled_back_is_refused() -> None:
    """Fails when a recurrent model's conversation is spoilt by passes that cannot be taken back."""
    machine = FakeMachine(lambda n: 1.0)
    machine.caps = dataclasses.replace(machine.caps, max_rollback=0)
    with pytest.raises(BadSetting, match="rolled back"):
        machine.measure()
    assert machine.widths == []


class Listening(FakeMachine):
    """Notes the tokens that it is given: of passes and of what goes in front of them, in order."""

    def __init__(self, **spec: int) -> None:
        super().__init__(lambda n: 2.0 + 0.5 * n, **spec)
        self.heard: list[list[int]] = []

    def evaluate(self, spans: Sequence[Span], cancelled=None):
        self.heard.append(spans[0].tree.token[spans[0].nodes].tolist())
        return super().evaluate(spans)

    def prefill(self, slot, tokens, progress=None, cancelled=None) -> None:
        self.heard.append(list(map(int, tokens)))
        super().prefill(slot, tokens, progress, cancelled)


def stretches_heard(text: np.ndarray, **spec: int) -> list[list[int]]:
    machine = Listening(**spec)
    measure(machine, 10**6, 4.5, machine.clock, text=text)
    return machine.heard


@pytest.mark.parametrize("n_text", [2, 8, 128, 700])
def test_passes_hold_stretches_of_the_text_and_never_the_same_twice_in_a_row(n_text: int) -> None:
    """Random or repeated ids reach other experts than a text: fails when a pass, or what goes in front of it, holds
    anything but consecutive tokens, or the same as the one before, even where the text's length divides a width."""
    heard = stretches_heard(np.arange(1000, 1000 + n_text, dtype=np.int32))
    assert max(map(len, heard)) >= 256
    for stretch in heard:
        assert 1000 <= min(stretch) <= max(stretch) < 1000 + n_text
        assert all((b - a) % n_text == 1 % n_text for a, b in itertools.pairwise(stretch))
    assert all(a != b for a, b in itertools.pairwise(heard))


def test_all_of_the_text_comes_up() -> None:
    """Fails when every width is timed on the same few words."""
    heard = stretches_heard(np.arange(1000, 1700, dtype=np.int32), max_nodes=8)
    assert {stretch[0] for stretch in heard if len(stretch) == 1} > {1000}
    assert len({token for stretch in heard if len(stretch) <= 8 for token in stretch}) > 100


def test_the_passes_do_not_depend_on_whether_the_ids_are_of_a_text() -> None:
    """A dense model's curve costs what it did: as many passes of the same widths."""
    random, real = Listening(), Listening()
    measure(random, 64, 4.5, random.clock)
    measure(real, 64, 4.5, real.clock, text=np.arange(700, dtype=np.int32))
    assert random.widths == real.widths


def test_a_text_of_no_tokens_gives_way_to_random_ids() -> None:
    """Fails when a tokenizer that makes nothing of the passage ends the program."""
    assert all(stretch for stretch in stretches_heard(np.zeros(0, np.int32)))


def test_the_demo_is_measured_and_says_the_same_afterwards() -> None:
    """On the real runtime: times are positive and finite, and the row after a conversation is the same bit for bit."""
    model = LlamaModel(DEMO, LoadOptions())
    context = model.open(ContextSpec(n_ctx=512, max_nodes=16, max_leaves=4, n_threads=1))
    try:
        context.prefill(0, [300, 301, 302])

        def row() -> np.ndarray:
            found = context.evaluate([Span(0, single(303), [0])]).logits[0].copy()
            context.keep(0, [])
            return found

        before = row()
        curve = measure(context, model.n_vocab, budget_s=1.0)
        assert context.length(0) == 3
        assert np.array_equal(row(), before)
    finally:
        context.close()
        model.close()
    assert {1, 2, 4, 8} <= set(curve.rows)
    assert np.isfinite(curve.pass_ms).all()
    assert min(curve.pass_ms) > 0
    costs = [curve.ms(rows) for rows in curve.landings()]
    assert costs == sorted(costs)
    assert curve.landings()[-1] == curve.rows[-1]
