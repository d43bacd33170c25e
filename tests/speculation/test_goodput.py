"""The controller on made-up rounds: what it comes to use, what that costs, what it keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgespec.speculation.acceptance import Acceptance
from edgespec.speculation.arms import Arm
from edgespec.speculation.cost import Curve
from edgespec.speculation.goodput import ALLOWANCE, MARGIN, N_PROBE, PROBE_SHARE, GoodputController
from edgespec.speculation.live import LiveCost
from edgespec.speculation.places import ByPlace
from edgespec.speculation.reliability import Kinds
from edgespec.speculation.tree import chain
from edgespec.types import Choice, Step, TokenTree, Verdict
from tests.speculation.rounds import DIGIT, SYMBOL, WORD, Drafts, Rounds, always

FLAT = Curve(100, (1, 2, 4, 8, 16), (10.0, 12.0, 13.0, 16.0, 24.0))
# Rows cost what steps cost: nothing that is drafted can pay.
DEAR = Curve(100, (1, 2, 4, 8, 16), (10.0, 20.0, 38.0, 75.0, 150.0))
# Weights come from a disk in every pass (issue 7).
STREAMED = Curve(100, (1, 16, 64, 256), (3000.0, 3000.0, 3000.0, 5400.0))
KINDS = Kinds(np.array([0, 1, 2, *[0] * 40], np.int8))


def controller(arms: Mapping[str, float], curve: Curve = FLAT, **learns: Acceptance | ByPlace):
    """arms: what is expected of each."""
    chosen = {name: Arm(Choice(name, rows=16, depth=15, width=1), prior) for name, prior in arms.items()}
    return GoodputController(chosen, LiveCost(curve), KINDS, learns)


def rounds(drafters: Mapping[str, Drafts], prior: float = 1.1, curve: Curve = FLAT, **how: Any) -> Rounds:
    return Rounds(controller(dict.fromkeys(drafters, prior), curve), drafters, curve, noise=0.05, **how)


def cost(found: Rounds) -> float:
    """Time over that of plain decoding for the same tokens, less 1."""
    return sum(found.ms) / (sum(found.n_tokens) * found.plain_ms) - 1


@pytest.mark.parametrize("best", ["model", "lookup", "mix"])
def test_the_best_of_several_arms_wins_in_the_end(best: str) -> None:
    """Fails when names, or what was expected, decide instead of what came: the mean over four conversations."""
    drafters = {name: always(0.5, node_ms=0.3) for name in ("model", "lookup", "mix")} | {best: always(0.85)}
    shares = [rounds(drafters, seed=seed).steps(900).share(best, 300) for seed in range(4)]
    assert np.mean(shares) > 0.9


def test_fewer_tokens_for_less_time_win_too() -> None:
    """Fails when tokens a pass are compared instead of tokens a millisecond: the better drafter costs more than it
    brings."""
    drafters = {"model": always(0.8, node_ms=6.0), "lookup": always(0.5)}
    found = rounds(drafters).steps(500)
    assert found.share("lookup", 200) > 0.9


@pytest.mark.parametrize("node_ms", [0.0, 1.0])
def test_a_drafter_that_has_become_good_is_found_out(node_ms: float) -> None:
    """A text that begins to repeat itself; or bad luck in the first rounds. Fails when what was not worth it once is
    never tried again, though the ledger would allow it."""
    found = rounds({"lookup": always(0.0, 0.6, node_ms)}).steps(300)
    assert np.mean(found.rows[-200:]) < 1.3
    found.drafters = {"lookup": always(0.9, 0.6, node_ms)}
    found.steps(1500)
    assert found.share("lookup", 100) > 0.9
    assert np.mean(found.rows[-100:]) > 3


@pytest.mark.parametrize("node_ms", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("prior", [1.0, 1.1, 1.5])
def test_a_useless_arm_is_left_soon_and_costs_little(prior: float, node_ms: float) -> None:
    """A drafter of another language that promises much. Fails when it is in use for more than 20 of the first 60
    rounds, or costs more than 2 % over 2,000 rounds."""
    for seed in (0, 1):
        found = rounds({"model": always(0.0, promised=0.8, node_ms=node_ms)}, prior, seed=seed).steps(2000)
        assert found.names[:60].count("model") <= 20
        assert found.names[60:].count("model") < 0.05 * 2000
        assert cost(found) <= 0.02


@pytest.mark.parametrize("prior", [1.1, 1.5])
def test_not_drafting_wins_where_every_pass_costs_too_much(prior: float) -> None:
    """Two fast cores with 4-bit weights: a row costs a step. Fails when drafting goes on because its chances are good,
    or is dear even so: trees shrink to one row and trials are few."""
    found = rounds({"model": always(0.7, node_ms=0.8), "lookup": always(0.3)}, prior, DEAR).steps(1500)
    assert cost(found) <= 0.02
    assert max(found.rows[-500:]) <= 2


def test_trying_stays_within_its_ledger() -> None:
    """Many arms that are all useless. Fails when trials go on though their share of the time is spent. The last trial
    may overdraw."""
    drafters = {name: always(0.0, promised=0.5, node_ms=1.0) for name in "abcdef"}
    for n in (50, 400, 2000):
        found = rounds(drafters, prior=0.99).steps(n)
        lost = [ms / found.plain_ms - t for ms, t, name in zip(found.ms, found.n_tokens, found.names, strict=True)]
        tried = [x for x, name in zip(lost, found.names, strict=True) if name != "none"]
        steps = sum(found.ms) / found.plain_ms
        assert tried  # else this shows nothing
        assert sum(tried) <= ALLOWANCE + PROBE_SHARE * steps + N_PROBE * max(tried)


def test_equal_arms_do_not_alternate() -> None:
    """A drafter that was idle has to read the text anew. Fails when noise decides round by round."""
    drafters = {"model": always(0.7), "mix": always(0.7)}
    n_switched = [rounds(drafters, seed=seed).steps(1500).controller.n_switched for seed in range(4)]
    assert np.mean(n_switched) < 0.01 * 1500


@pytest.mark.parametrize(("gain", "n_switched"), [(0.5 * MARGIN, 0), (3 * MARGIN, 1)])
def test_an_arm_gives_way_to_one_that_is_better_by_a_margin(gain: float, n_switched: int) -> None:
    """In use for words, met by a kind of text where the other one is better by this much. Fails when a hair decides."""

    def known(*goodputs: float) -> dict[str, list[float]]:
        return {"tokens": [1000 * g for g in goodputs], "steps": [1000.0] * 3, "rounds": [12.0] * 3}

    c = controller({"model": 1.5, "mix": 1.5})
    c.take({"model": known(1.6, 1.5, 1.5), "mix": known(1.5, 1.5 * (1 + gain), 1.5)})
    c.choose(100, np.full(101, SYMBOL, np.int32))
    assert c.n_switched == n_switched


def test_a_disturbed_pass_does_not_speak_against_its_arm() -> None:
    """A process that was stopped for two seconds. Fails when the clock alone judges: the arm in use is left for it."""
    found = rounds({"lookup": always(0.8)}).steps(200)
    assert found.share("lookup", 50) == 1.0
    history = np.zeros(found._n_past + 1, np.int32)
    choice = found.controller.choose(100, history)
    tree, verdict = chain([0, 10, 11]), Verdict((0,), (9,), None)
    found.controller.observe(Step((9,), choice, 2, 0, 2000.0, 0.0, 2000.0, n_past=found._n_past), tree, verdict)
    assert found.steps(30).share("lookup", 30) > 0.8


def test_a_first_round_that_took_for_ever_does_not_condemn_its_arm() -> None:
    """The drafter read the prompt, or the process was stopped. Fails when a good drafter is left for one such round, or
    one that takes long every time is not."""
    good, slow = always(0.8, node_ms=0.1), always(0.8, node_ms=40.0)
    found = beside(good)
    found.drafters = {**found.drafters, "model": replace(good, node_ms=400.0)}
    found.steps(1)
    assert found.names == ["model"]
    found.drafters = {**found.drafters, "model": good}
    assert found.steps(150).share("model", 100) > 0.9
    assert beside(slow).steps(150).share("model", 100) < 0.1


def beside(model: Drafts) -> Rounds:
    """A drafter of which much is expected, and sources that are sometimes right."""
    drafters = {"model": model, "lookup": always(0.3)}
    chosen = {
        "model": Arm(Choice("model", rows=16, depth=15, width=1), 2.5, "model"),
        "lookup": Arm(Choice("lookup", rows=16, depth=15, width=1), 1.02),
    }
    return Rounds(GoodputController(chosen, LiveCost(FLAT), KINDS), drafters, FLAT, noise=0.05)


def test_kinds_of_text_have_their_own_arm() -> None:
    """Copies pay in code and nowhere else. Fails when one kind's figures decide for all, some rounds into a
    passage."""
    drafters = {"model": always(0.6, node_ms=0.3), "lookup": Drafts((0.0, 0.9, 0.0), 0.6)}
    found = rounds(drafters)
    for _ in range(6):
        for kind in (WORD, SYMBOL):
            found.kind = kind
            found.steps(100)
    names = np.array(found.names[-400:]).reshape(4, 100)[:, 60:]
    assert (names[[0, 2]] == "model").mean() > 0.8
    assert (names[[1, 3]] == "lookup").mean() > 0.8


def test_sizes_land_on_measured_widths() -> None:
    """Fails when a pass has a width whose price is a guess, unless the whole tree is asked for."""
    c = controller({"lookup": 1.2})
    history = np.zeros(101, np.int32)
    choice = c.choose(100, history)
    found = set()
    for promised in np.linspace(0.05, 0.95, 19):
        tree = always(float(promised)).tree(replace(choice, rows=16, row_prices=()), 0)
        found.add(len(c.size(choice, tree, history).tree))
    assert found <= set(FLAT.rows)
    assert len(found) > 2


def test_a_pass_is_rounded_up_where_more_rows_cost_less() -> None:
    """Two rows 71 ms, four 67 (repacked kernels). Fails when the leftover rows are paid one by one."""
    stairs = Curve(0, (1, 2, 4, 8), (41.0, 71.0, 60.0, 120.0))
    c = controller({"lookup": 1.2}, stairs)
    history = np.zeros(101, np.int32)
    choice = c.choose(100, history)
    tree = chain([0, 10])
    sized = c.size(choice, tree, history)
    assert len(sized.tree) == 4
    assert sized.nodes.count(-1) == 2


def test_surer_drafts_are_verified_in_wider_passes() -> None:
    """Fails when the size is not the tree's: a copy that is right nine times in ten is worth more rows than a guess."""
    wide, narrow = (rounds({"lookup": always(p)}).steps(300) for p in (0.95, 0.4))
    assert np.mean(wide.rows[-100:]) > 2 * np.mean(narrow.rows[-100:])


def test_the_threshold_rises_with_goodput() -> None:
    """Where time yields more, a node must be worth more (SpecDec++, arXiv 2405.19715). Fails when it is a constant."""
    rich, poor = (rounds({"lookup": always(p)}).steps(200) for p in (0.9, 0.5))
    thresholds = [np.mean([c.row_prices[1] for c in found.choices[-50:] if not c.plain]) for found in (rich, poor)]
    assert thresholds[0] > 1.3 * thresholds[1] > 0


def test_free_rows_have_no_threshold() -> None:
    """Fails when drafts are left out though a row costs nothing."""
    level = Curve(0, (1, 2, 4), (10.0, 10.0, 10.0))
    assert controller({"lookup": 1.2}, level).choose(100, np.zeros(10, np.int32)).row_prices == (0.0,) * 4


def test_each_row_has_its_own_price() -> None:
    """Two rows more for 3 ms, then 12 for 14: fails when a chain goes on at the price of its first rows."""
    prices = controller({"lookup": 1.2}).choose(100, np.zeros(10, np.int32)).row_prices
    assert prices[0] == 0 < prices[1]
    assert list(prices) == sorted(prices)


def test_a_pass_of_the_drafter_has_its_price() -> None:
    """Fails when a drafter goes on whatever its passes take."""
    slow, quick = (rounds({"model": always(0.8, node_ms=ms)}, prior=2.0).steps(60) for ms in (1.0, 0.1))
    prices = [np.mean([c.wave_price for c in found.choices[-20:]]) for found in (slow, quick)]
    assert prices[0] > 4 * prices[1] > 0


def beside_copies(right: float, curve: Curve = FLAT) -> Rounds:
    """A drafter, the same beside sources that are often right, and the sources alone; much is expected of the drafter.
    It takes little time, so goodput alone hardly tells them apart."""
    drafters = {"model": always(right, 0.8, 0.1), "mix": always(0.7, node_ms=0.1), "lookup": always(0.7)}
    alone = {"model": "model", "mix": "model", "lookup": None}
    chosen = {
        name: Arm(Choice(name, rows=16, depth=15, width=1), 1.1 if name == "lookup" else 2.5, alone[name])
        for name in drafters
    }
    return Rounds(GoodputController(chosen, LiveCost(curve), KINDS), drafters, curve, noise=0.05)


@pytest.mark.parametrize("curve", [FLAT, DEAR], ids=["flat", "dear"])
@pytest.mark.parametrize("right", [0.0, 0.03])
def test_a_drafter_that_lands_nothing_is_left_alone_and_mixed(right: float, curve: Curve) -> None:
    """Fails when sources carry a useless drafter along, or one whose drafts are not worth a row goes on drafting: 20
    rounds of the first 40, and trials that get rarer."""
    found = beside_copies(right, curve).steps(600)
    assert sum(name in ("model", "mix") for name in found.names[:40]) <= 20
    assert found.names.count("mix") == 0
    assert found.names[40:].count("model") <= 24


def test_a_drafter_that_lands_rarely_stays_where_rows_are_free() -> None:
    """One token in ten is a tenth more where a pass costs the same at any width. Fails when a share alone decides."""
    free = Curve(100, (1, 2, 4, 8, 16), (10.0,) * 5)
    drafters = {"model": always(0.10, 0.3)}
    chosen = {"model": Arm(Choice("model", rows=16, depth=15, width=1), 2.0, "model")}
    ratios = []
    for seed in range(4):
        found = Rounds(GoodputController(chosen, LiveCost(free), KINDS), drafters, free, seed=seed).steps(1500)
        ratios.append(found.names[-500:].count("model"))
    assert np.mean(ratios) > 350


def test_an_arm_that_cannot_be_afforded_bars_no_other() -> None:
    """A drafter whose trial read a long prompt. Fails when nothing else is tried until the ledger could pay for it."""
    found = rounds({"model": always(0.0, 0.5, 1.0), "lookup": always(0.85)}, prior=0.95)
    found.controller._arms["model"].lost = 10.5
    found.controller._arms["model"].prior = 0.97  # tried first, if it could be paid
    found.controller._in_use = "none"
    assert "lookup" in found.steps(60).names


def test_a_drafter_that_lands_is_mixed() -> None:
    """Fails when the rule against useless ones keeps a useful one out, or the mixture is never tried."""
    found = beside_copies(0.5).steps(400)
    assert found.share("mix", 300) + found.share("lookup", 300) > 0.8
    assert "mix" in found.names


def test_a_useless_drafter_is_remembered() -> None:
    """Fails when the next session begins with it again."""
    first = beside_copies(0.0).steps(300)
    again = beside_copies(0.0)
    again.controller.take(json.loads(json.dumps(first.controller.to_dict())))
    assert again.steps(15).names.count("model") <= N_PROBE


@pytest.mark.parametrize("kept", [[5.0, 2.0], [1.0], "x", [-1.0, 3.0], [float("nan"), 1.0], [True, 2.0], [0.0, 1e9]])
def test_landings_that_make_no_sense_count_as_nothing(kept: Any) -> None:
    """Fails when a damaged file speaks for or against a drafter."""
    c = controller({"model": 1.5})
    c.take({"model": {"landed": kept}})
    assert c.to_dict()["model"]["landed"] == [0.0, 0.0]


@pytest.mark.parametrize("n_left", [1, 2, 5])
def test_a_choice_fits_into_the_rows_left(n_left: int) -> None:
    """The end of the context. Fails when the last rounds are refused by the runtime."""
    found = rounds({"lookup": always(0.9)}, prior=2.0).steps(40, n_left=n_left)
    assert max(found.rows) <= n_left
    assert all(c.rows <= n_left for c in found.choices)


@pytest.mark.parametrize(("curve", "rows"), [(STREAMED, 64), (FLAT, 4)], ids=["streamed", "in memory"])
def test_the_first_draft_is_as_large_as_costs_nothing_more(curve: Curve, rows: int) -> None:
    """What drafting costs is not known yet. Fails when a pass of seconds is spent on 4 rows for that reason, or a pass
    in memory gets dearer for it."""
    c = GoodputController({"model": Arm(Choice("model", 256, 32, 16), 2.0)}, LiveCost(curve), KINDS)
    assert c.choose(1000, np.zeros(50, np.int32)).rows == rows


def test_a_round_that_was_not_asked_for_teaches_nothing() -> None:
    """The pass that reads the prompt drafts nothing, and takes as long as the prompt is. Fails when the arm is judged
    by it."""
    acceptance = Acceptance()
    c = controller({"model": 1.5}, model=acceptance)
    before = json.dumps(c.to_dict())
    choice = c.choose(100, np.zeros(101, np.int32))
    tree, verdict = chain([0]), Verdict((0,), (9,), None)
    for step in (
        Step((9,), choice, 0, 0, 900.0, 0.0, 0.0, n_past=5),
        Step((9,), Choice("none", 1, 0, 0), 0, 0, 900.0, 0.0, 0.0, n_past=100),
    ):
        c.observe(step, tree, verdict)
    assert json.dumps(c.to_dict()) == before


@pytest.mark.parametrize("own", ["model", "parallel"])
def test_the_drafters_own_rounds_are_told_to_the_next_plan(own: str) -> None:
    """Fails when a source's rounds count for the pair of models, or the pair's are lost."""
    acceptance = Acceptance()
    drafters = {own: always(0.7), "lookup": always(0.6)}
    found = Rounds(controller({own: 1.3, "lookup": 1.3}, **{own: acceptance}), drafters, FLAT).steps(60)
    n_walked = sum(n for n, name in zip(found.n_tokens, found.names, strict=True) if name == own)
    assert 0 < acceptance.n_seen(greedy=False, width=1) <= n_walked


def taught() -> Rounds:
    drafters = {"model": always(0.2, node_ms=1.0), "lookup": always(0.85)}
    return rounds(drafters, prior=1.2).steps(300)


def test_what_was_learnt_is_used_from_the_first_round_of_the_next_session() -> None:
    """Fails when each session tries everything anew."""
    found = taught()
    assert found.share("lookup", 100) > 0.9
    again = controller({"model": 1.2, "lookup": 1.2})
    again.take(json.loads(json.dumps(found.controller.to_dict())))
    assert again.choose(100, np.zeros(101, np.int32)).drafter == "lookup"
    fresh = Rounds(again, found.drafters, FLAT, noise=0.05).steps(60)
    assert fresh.share("lookup", 60) > 0.85


def test_earlier_sessions_do_not_outvote_this_one() -> None:
    """Another topic: nothing repeats any more. Fails when thousands of old rounds keep an arm that is useless now."""
    found = taught().steps(2000)
    again = controller({"model": 1.2, "lookup": 1.2})
    again.take(found.controller.to_dict())
    useless = {"model": always(0.2, node_ms=1.0), "lookup": always(0.0, promised=0.8)}
    fresh = Rounds(again, useless, FLAT, noise=0.05).steps(300)
    assert fresh.names[:60].count("lookup") < 45
    assert fresh.share("lookup", 200) < 0.1


def test_an_arm_that_is_new_begins_with_what_is_expected_of_it() -> None:
    """Fails when another version's arms keep out those of this one, or raise."""
    again = controller({"mix": 9.0, "lookup": 1.2})
    again.take(taught().controller.to_dict())
    assert again.choose(100, np.zeros(101, np.int32)).drafter == "mix"


def nonsense(part: str, value: object) -> dict[str, Any]:
    data = json.loads(json.dumps(controller({"model": 1.2, "lookup": 1.1}).to_dict()))
    data["lookup"][part] = value
    return data


@pytest.mark.parametrize(
    "data",
    [
        None,
        7,
        [],
        {},
        {"lookup": 7},
        {"lookup": {}},
        *(
            nonsense(part, value)
            for part in ("tokens", "steps", "rounds")
            for value in (None, 3, "x", [], [1.0], [1.0, 1.0, -1.0], [1.0, float("nan"), 1.0], [10**400, 1.0, 1.0])
        ),
        *(nonsense("tokens", [value] * 3) for value in (float("inf"), 1e300, "1", True)),
        nonsense("reliability", [[1.0]]),
    ],
)
def test_nonsense_counts_as_nothing_learnt(data: object) -> None:
    """A file edited by hand, or another version's. Fails when it raises, or is believed."""
    c = controller({"model": 1.2, "lookup": 1.1})
    before = json.dumps(c.to_dict())
    c.take(data)
    assert json.dumps(c.to_dict()) == before


def test_digits_do_not_decide_for_words() -> None:
    """What is learnt of one kind is told to the others at a fraction. Fails when a table of numbers ends drafting."""
    drafters = {"lookup": Drafts((0.8, 0.8, 0.0), 0.7, node_ms=1.0)}
    found = rounds(drafters).steps(200)
    found.kind = DIGIT
    found.steps(150)
    assert found.share("none", 50) > 0.7
    found.kind = WORD
    assert found.steps(100).share("lookup", 80) > 0.8


@pytest.mark.parametrize(
    ("by_node", "n_shares"), [(False, 3), (True, 7)], ids=["waves of a model", "nodes of a source"]
)
def test_drafting_is_paid_by_what_its_time_goes_with(by_node: bool, n_shares: int) -> None:
    """Seven nodes in three levels, 8 ms beside the pass. Fails when a model that reads three waves seems to take less
    than half for each, and reads passes that do not pay."""
    arm = Arm(Choice("mix", 16, 15, 8), 2.0, by_node=by_node)
    c = GoodputController({"mix": arm}, LiveCost(FLAT), KINDS, plain=False)
    history = np.zeros(51, np.int32)
    tree = TokenTree(
        np.arange(8, dtype=np.int32),
        np.array([-1, 0, 0, 1, 1, 2, 3, 3], np.int32),
        np.array([0, 1, 1, 2, 2, 2, 3, 3], np.int16),
        np.log(np.array([1, 0.9, 0.1, 0.8, 0.1, 0.05, 0.7, 0.1])).astype(np.float32),
    )
    choice = c.choose(100, history)
    c.size(choice, tree, history)
    c.observe(Step((1,), choice, 7, 0, 16.0, 8.0, 0.0, n_past=50), tree, Verdict((0,), (1,), None))
    again = c.choose(100, history)
    worth = again.row_prices[1] / LiveCost(FLAT).row_ms(again.rows, 50)[0]
    assert again.wave_price == pytest.approx(worth * 0.2 * 8.0 / n_shares, rel=0.02)
