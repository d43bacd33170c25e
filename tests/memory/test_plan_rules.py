"""What a plan gives up, in which order, and what it says. Bytes by hand, in MiB (world.py):

weights 1000; cache 512 at 4096 tokens, 256 at 2048, 64 at 512 (q8_0 17/32, q4_0 9/32 of it); compute n_ubatch / 8, at
least 4; 0.5 a row. Plain decoding at its leanest: 1517 at 4096 tokens, 1261 at 2048, 1141 with q8_0, 1077 with q4_0,
1023 with q4_0 at 512 tokens. A drafter adds 100, 64 of cache at 4096 tokens in f16 (18 in q4_0), at least 4 and 8.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from edgespec.errors import DoesNotFit
from edgespec.memory.configuration import Configuration, Placement
from edgespec.memory.methods import Method, Variant
from edgespec.memory.plan import Plan, plan
from edgespec.memory.sizes import MIB
from edgespec.memory.times import Measured, Where
from edgespec.settings import Settings
from edgespec.speculation.cost import Curve
from edgespec.speculation.policies import MOST_BEAMS
from edgespec.types import PLAIN
from tests.memory.world import World

WORLD = World()


def planned(mib: int | None, settings: Settings | None = None, world: World = WORLD) -> Plan:
    budget = None if mib is None else mib * MIB
    return plan(world.problem(replace(settings or Settings(), budget=budget)))


def line(found: Plan, name: str) -> str:
    return next(f"{entry.value}: {entry.reason}" for entry in found.lines if entry.line == name)


def said(found: Plan) -> tuple[str, int, str]:
    target = found.configuration.target
    return found.method, target.n_ctx, target.kv_type


def test_with_room_it_drafts_at_the_default_context() -> None:
    """Fails when a plan saves what nobody needs: the drafter's cache stays whole."""
    found = planned(None)
    assert said(found) == ("model", 4096, "f16")
    draft = found.configuration.draft
    assert draft is not None
    assert (draft.context.kv_type, draft.window) == ("f16", None)
    assert draft.context.n_ctx == 4096
    assert found.speedup > 1.5
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("mib", "expected"),
    [
        (1900, ("model", 4096, "f16")),
        (1600, ("model", 3072, "f16")),
        (1262, ("plain", 2048, "f16")),
        (1261, ("plain", 2048, "f16")),
        (1260, ("plain", 1536, "f16")),
        (1142, ("plain", 1024, "f16")),
        (1076, ("plain", 512, "f16")),
        (1060, ("plain", 768, "q8_0")),
        (1040, ("plain", 512, "q8_0")),
        (1023, ("plain", 512, "q4_0")),
    ],
)
def test_what_is_given_up_as_room_shrinks(mib: int, expected: tuple[str, int, str]) -> None:
    """Shorter context, drafter, a context below the useful ones, then the cache's type. Fails when a rule changes
    places."""
    assert said(planned(mib)) == expected


def test_below_the_least_it_says_what_is_missing_and_what_would_do() -> None:
    """Both numbers and a next step; by hand 1023 MiB."""
    with pytest.raises(DoesNotFit) as caught:
        planned(1022)
    assert str(caught.value) == (
        "the model needs 1.48 GiB with a context of 4096 tokens, but 1022 MiB are within the budget; "
        "a budget of 1023MiB would do for 512 tokens"
    )
    assert caught.value.exit_code == 3
    with pytest.raises(DoesNotFit, match=r"but 500 MiB are free; free 523 MiB more for 512 tokens, or use a smaller"):
        plan(WORLD.problem(cpu=500 * MIB))


def test_a_context_that_was_asked_for_is_never_shortened() -> None:
    """Fails when a plan trades what the user named for speed, or for running at all."""
    asked = Settings(context=4096)
    assert said(planned(1520, asked)) == ("plain", 4096, "f16")
    assert said(planned(1516, asked))[1:] == (4096, "q8_0")
    assert all(rung.target.n_ctx == 4096 for rung in planned(None, asked).rungs)
    with pytest.raises(DoesNotFit, match=r"with --context 1024 it needs 1.11 GiB"):
        planned(1140, asked)


@pytest.mark.parametrize("kv", ["f16", "q8_0", "q4_0"])
def test_the_targets_cache_is_made_smaller_with_consent_or_as_a_last_resort(kv: str) -> None:
    """It changes the text: fails when it is done for speed or without a word."""
    for mib in (None, 1800, 1400, 1300, 1262):
        found = planned(mib, Settings(kv=kv))
        assert found.configuration.target.kv_type == kv
        assert found.warnings == ()
    found = planned(1060, Settings())
    assert "changes what the model says" in found.warnings[0]
    assert "f16 does not fit into 1.04 GiB" in line(found, "kv")


def test_a_cache_type_that_was_asked_for_is_kept_or_refused() -> None:
    """Fails when an explicit --kv f16 is taken for the default and made smaller."""
    asked = Settings(context=2048)
    small = next(mib for mib in range(1000, 1400, 10) if _plannable(mib, asked))
    assert planned(small, asked).configuration.target.kv_type == "q4_0"
    with pytest.raises(DoesNotFit, match=r"with --(kv|context)"):
        planned(small, replace(asked, kv="f16"))


def _plannable(mib: int, asked: Settings) -> bool:
    try:
        planned(mib, asked)
    except DoesNotFit:
        return False
    return True


def test_the_floor_is_where_speculation_stops() -> None:
    """A byte less and it decodes plainly and says so; fails when the floor that is told is not the one that is kept."""
    floor = planned(None).floor_bytes
    assert floor is not None
    at, below = (plan(WORLD.problem(Settings(budget=n))) for n in (floor, floor - 1))
    assert at.method == "model"
    assert at.tokens_per_s >= 0.96 * planned(None).tokens_per_s * 0.99
    assert at.footprint.total_bytes == floor
    assert below.method == "plain"
    assert below.floor_bytes == floor
    assert "to keep 96 % of its speed" in line(below, "drafter")
    assert below.runner_up is not None
    assert "needs" in below.why_not


def test_a_drafter_that_was_named_drafts_below_the_floor() -> None:
    """A named method always drafts where it fits, and says so where it does not."""
    floor = planned(None).floor_bytes or 0
    for asked in (Settings(method="model"), Settings(draft="small")):
        found = planned(floor // MIB - 2, asked)
        assert found.method == "model"
        found = planned(1262, asked)
        assert found.method == "plain"
        assert "does not fit into 1.23 GiB" in found.warnings[0]


@pytest.mark.parametrize("asked", [Settings(method="plain"), Settings(draft="none"), Settings(nodes=1)])
def test_plain_decoding_is_planned_where_it_was_asked_for(asked: Settings) -> None:
    """Fails when a plan knows better than the user."""
    found = planned(None, asked)
    assert (found.method, found.configuration.choice, found.configuration.draft) == ("plain", PLAIN, None)
    assert line(found, "drafter") == "none: plain decoding was asked for"
    assert found.floor_bytes is None


def test_what_the_user_fixed_stays() -> None:
    """Rows, depth and shape are overrides of one line each."""
    choice = planned(None, Settings(nodes=9, depth=2, shape="tree")).configuration.choice
    assert (choice.rows, choice.depth, choice.width) == (9, 2, 8)
    choice = planned(None, Settings(method="model", shape="chain", nodes=40)).configuration.choice
    assert (choice.rows, choice.depth, choice.width) == (40, 39, 1)
    assert planned(None, Settings(shape="tree")).configuration.choice.width == 8
    target = planned(None, Settings(exact=True)).configuration.target
    assert target.exact
    assert target.max_nodes <= 32


def test_the_targets_context_has_room_for_its_tree_and_no_more() -> None:
    """n_outputs_max and n_seq_max follow from them, and logits are most of what is not weights."""
    found = planned(None)
    target, choice = found.configuration.target, found.configuration.choice
    assert (target.max_nodes, target.max_leaves) == (choice.rows, choice.rows)
    chain = planned(None, Settings(shape="chain")).configuration.target
    assert chain.max_leaves == 1


def test_a_drafter_too_slow_to_pay_is_not_loaded() -> None:
    """As large as a third of the target: fails when only tokens a pass are looked at."""
    found = planned(None, world=World(draft_mib=600))
    assert found.method == "plain"
    assert found.floor_bytes is None
    assert "speculation would come to" in line(found, "drafter")


def test_a_measured_curve_replaces_the_prior_and_its_widths_the_guess() -> None:
    """Four rows at the price of one, eight at the price of eight: fails when a width nobody timed is chosen."""
    problem = WORLD.problem()
    curve = Curve(128, (1, 2, 4, 8), (20.0, 20.0, 20.0, 160.0))
    where = Where(Placement(), (("cpu", 1000 * MIB),))
    measured = replace(problem, target=replace(problem.target, measured=Measured(curve, where)))
    found = plan(measured)
    assert found.configuration.choice.rows == 4
    plainly = replace(curve, pass_ms=(20.0, 60.0, 90.0, 160.0))
    slow = replace(problem, target=replace(problem.target, measured=Measured(plainly, where)))
    assert plan(slow).method == "plain"


def test_a_method_without_a_model_is_planned_like_any_other() -> None:
    """Later sources of drafts have no weights and no cache: fails when a drafter is taken for granted."""
    copy = Method(
        "copy",
        lambda width: np.array([0.5]),
        (Placement(),),
        lambda site: np.zeros(MOST_BEAMS),
        lambda base, site: (Variant(None),),
        widths=(1,),
    )
    problem = replace(WORLD.problem(), methods=(copy,))
    found = plan(problem)
    assert (found.method, found.configuration.draft) == ("copy", None)
    assert found.configuration.choice.drafter == "copy"
    assert found.rungs[-1].choice == PLAIN
    both = plan(replace(problem, methods=(copy, WORLD.method())))
    assert both.method == "model"


def test_every_decision_has_a_line_and_a_reason() -> None:
    """Fails when a number is decided in silence."""
    for mib in (None, 1600, 1262, 1100):
        found = planned(mib)
        names = [entry.line for entry in found.lines]
        assert {"memory", "context", "kv", "drafter", "rows", "prompt batch"} <= set(names)
        assert len(names) == len(set(names))
        assert all(entry.value and entry.reason for entry in found.lines)


def test_the_ladder_falls_step_by_step() -> None:
    """Smaller tree, leaner drafter, no drafter, a context below 2048; fails when a step frees nothing, or when no
    drafter is to be had for a short conversation only, which is what it was when it came last."""
    for mib in (None, 1700, 1600, 1300, 1100):
        found = planned(mib, Settings(shape="tree", nodes=16))
        assert found.rungs[0] == found.configuration
        sizes = [WORLD.predict(rung).total_bytes for rung in found.rungs]
        assert all(a > b for a, b in pairwise(sizes))
        assert found.rungs[-1].draft is None
    rungs = planned(None, Settings(shape="tree", nodes=16)).rungs
    assert [place(rung) for rung in rungs] == [
        (16, "f16", None, 4096),
        (8, "f16", None, 4096),
        (3, "f16", None, 4096),
        (3, "q4_0", None, 4096),
        (3, "q4_0", 1024, 4096),
        (3, "q4_0", 1024, 3072),
        (3, "q4_0", 1024, 2048),
        (1, "", None, 2048),
        (1, "", None, 1536),
        (1, "", None, 1024),
        (1, "", None, 768),
        (1, "", None, 512),
    ]


def place(rung: Configuration) -> tuple[int, str, int | None, int]:
    draft = rung.draft
    return rung.choice.rows, draft.context.kv_type if draft else "", draft.window if draft else None, rung.target.n_ctx


def test_a_plain_plan_can_still_step_down() -> None:
    """Fails when there is nothing to give up without a drafter."""
    rungs = planned(None, Settings(method="plain")).rungs
    assert [rung.target.n_ctx for rung in rungs] == [4096, 3072, 2048, 1536, 1024, 768, 512]


def test_a_drafter_is_made_leaner_where_only_that_fits() -> None:
    """By hand, 4 rows at 4096 tokens: 1518 of target, 108 of drafter without its cache, 1.4 of cache at its leanest.

    Fails when an arm is left because its richest form has no room.
    """
    asked = Settings(method="model", nodes=4, shape="tree", context=4096)
    found = planned(1628, asked)
    draft = found.configuration.draft
    assert draft is not None
    assert (draft.context.kv_type, draft.window) == ("q4_0", 256)
    assert "never the text" in line(found, "draft kv")
    assert planned(1627, asked).method == "plain"
