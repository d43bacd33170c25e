"""Drafters by name, who decides, and what goes on to the next session."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgespec.backends.fake import FakeModel
from edgespec.drafting import Drafting
from edgespec.memory.configuration import Configuration, DraftModel
from edgespec.settings import SOURCES, Settings
from edgespec.speculation.acceptance import Acceptance
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.cost import Curve
from edgespec.speculation.drafters.sampled import SampledDrafter
from edgespec.speculation.goodput import GoodputController
from edgespec.speculation.places import ByPlace
from edgespec.speculation.sampling import Noise, Process
from edgespec.types import PLAIN, Choice, ContextSpec, Sampling, Verdict
from tests.speculation.rounds import Rounds, always

MODEL = FakeModel(n_vocab=64, end_ids=frozenset())
SPEC = ContextSpec(n_ctx=256, max_nodes=16, max_leaves=16)
CURVE = Curve(0, (1, 2, 4, 8, 16), (10.0, 12.0, 13.0, 16.0, 24.0))
TREE = Choice("model", 8, 7, 8)
DRAFTS = Configuration(SPEC, TREE, draft=DraftModel("small", SPEC), sources=True, expected=1.3)
ALONE = Configuration(SPEC, PLAIN, sources=True)


def drafting(curve: Curve | None = CURVE, **asked: Any) -> Drafting:
    return Drafting(Settings(**asked), MODEL.pieces, Acceptance(), curve)


def arms(controller: object) -> set[str]:
    assert isinstance(controller, GoodputController)
    return set(controller.to_dict())


def test_drafters_have_the_names_that_methods_have() -> None:
    """Fails when --method names what no round can ask for."""
    made = drafting()
    with_model = made.with_model(None, MODEL.open(SPEC))
    assert set(made.without_model()) | set(with_model) == {*SOURCES, "model"} - {"lookahead"}
    assert "lookahead" in drafting(method="lookahead").without_model()
    assert "parallel" in made.with_model(63, MODEL.open(SPEC))


def test_every_drafter_drafts() -> None:
    """Each one on the same text, which repeats itself. Fails when a name stands for another source's drafter, or for
    nothing."""
    made = drafting()
    history = np.array([*range(1, 45), *range(1, 43)], np.int32)
    every = {**made.without_model(), **made.with_model(None, MODEL.open(SPEC))}
    for name, drafter in every.items():
        tree = drafter.draft(history, Choice(name, 6, 5, 2), Process(Sampling(temperature=0)), Noise(1))
        assert tree.token[0] == 42
        assert (len(tree) > 1) == (name != "recycle")  # which has seen no row
        assert (43 in tree.token.tolist()) or name in ("recycle", "model")
        drafter.commit(np.append(history, 9).astype(np.int32), Verdict((0,), (9,), None))


def test_rejection_offers_no_sources() -> None:
    """They have no draft probabilities. Fails when a draft is offered that rejection cannot verify, or rows are learnt
    for nobody."""
    made = drafting(verify="rejection")
    assert not made.sources
    assert made.without_model() == {}
    assert made.learners == ()
    drafters = made.with_model(63, MODEL.open(SPEC))
    assert list(drafters) == ["model"]
    assert isinstance(drafters["model"], SampledDrafter)


def test_sources_learn_from_rows_whoever_drafts() -> None:
    """Fails when nothing is learnt of rounds that the model drafted, or time is taken where sources have no part."""
    made = drafting()
    assert made.learners == (made.suffix, made.recycled)
    without = Drafting(Settings(), list, Acceptance(), None, sources=False)
    assert without.learners == ()
    assert without.without_model() == {}
    assert set(without.with_model(None, MODEL.open(SPEC))) == {"model"}


def test_auto_decides_between_what_the_plan_has_room_for() -> None:
    """Fails when a drafter is an arm though it is not open, or sources are though they were not planned for."""
    made = drafting()
    assert arms(made.controller(DRAFTS)) == {"none", "model", "mix", "lookup"}
    assert arms(made.controller(ALONE)) == {"none", "lookup"}
    assert arms(made.controller(replace(DRAFTS, sources=False))) == {"none", "model"}


@pytest.mark.parametrize("own", ["model", "parallel"])
@pytest.mark.parametrize("curve", [CURVE, None], ids=["decided each round", "as planned"])
def test_rounds_teach_the_next_plan_about_the_drafter_that_drafted(own: str, curve: Curve | None) -> None:
    """Fails when a parallel drafter's rounds are lost under auto, or count for the drafter's trees."""
    acceptance, by_place = Acceptance(), ByPlace()
    made = Drafting(Settings(), MODEL.pieces, acceptance, curve, by_place=by_place)
    before = {"model": acceptance.to_dict(), "parallel": by_place.to_dict()}
    controller = made.controller(replace(DRAFTS, choice=replace(TREE, drafter=own), sources=False))
    Rounds(controller, {own: always(0.7)}, CURVE).steps(30)
    after = {"model": acceptance.to_dict(), "parallel": by_place.to_dict()}
    assert [name for name in before if after[name] != before[name]] == [own]


def test_without_a_curve_the_plan_decides() -> None:
    """Fails when goodput is made up where no pass was timed, or a named method gives way to another one."""
    assert isinstance(drafting(curve=None).controller(DRAFTS), FixedController)
    assert isinstance(drafting(method="model").controller(DRAFTS), FixedController)
    assert isinstance(drafting().controller(replace(ALONE, sources=False)), FixedController)


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_that_was_named_always_drafts(name: str) -> None:
    """Fails when the controller switches off what the user asked for."""
    made = drafting(method=name)
    c = replace(ALONE, choice=Choice(name, 8, 7, 8))
    controller = made.controller(c)
    useless = {name: always(0.0, promised=0.8, node_ms=3.0)}
    found = Rounds(controller, useless, CURVE).steps(100)
    assert set(found.names) == {name}


def test_a_chain_that_was_asked_for_is_one_in_every_arm() -> None:
    """Fails when --shape chain holds for the model only."""
    made = drafting(shape="chain")
    controller = made.controller(replace(DRAFTS, choice=Choice("model", 8, 7, 1)))
    for name in ("model", "mix", "lookup"):
        found = Rounds(controller, {n: always(0.5) for n in ("model", "mix", "lookup")}, CURVE).steps(60)
        assert {c.width for c in found.choices if c.drafter == name} <= {1}


def session(learnt: dict[str, Any] | None, c: Configuration, n: int = 80) -> dict[str, Any]:
    """What a session leaves that begins with `learnt`."""
    made = drafting()
    made.take(learnt)
    drafters = {**made.without_model(), **(made.with_model(None, MODEL.open(SPEC)) if c.draft else {})}
    controller = made.controller(c)
    Rounds(controller, {name: always(0.7) for name in drafters}, CURVE).steps(n)
    for name in drafters.keys() - {"model"}:
        text = np.array([1, 2, 3, 1, 2], np.int32)
        drafters[name].draft(text, Choice(name, 6, 5, 2), Process(Sampling(temperature=0)), Noise(1))
        drafters[name].commit(np.append(text, 3).astype(np.int32), Verdict((0,), (3,), None))
    return json.loads(json.dumps(made.learnt()))


def test_a_session_goes_on_from_the_last_one() -> None:
    """Fails when what was learnt of arms and blends is not given to the new ones."""
    first = session(None, DRAFTS)
    assert set(first["control"]) == {"none", "model", "mix", "lookup"}
    assert set(first["fits"]) == set(SOURCES) - {"lookahead"}
    again = drafting()
    again.take(first)
    again.without_model()
    again.with_model(None, MODEL.open(SPEC))
    assert again.learnt()["fits"] == first["fits"]
    used = max(first["control"], key=lambda name: first["control"][name]["rounds"][0])
    controller = again.controller(DRAFTS)
    assert isinstance(controller, GoodputController)
    assert controller.to_dict()[used]["reliability"] == first["control"][used]["reliability"]


def test_a_session_without_the_drafter_forgets_nothing_about_it() -> None:
    """--method lookup for once, or a budget that leaves no room. Fails when its arms and blend are saved without those
    that were not open."""
    first = session(None, DRAFTS)
    then = session(first, ALONE)
    assert then["control"]["model"] == first["control"]["model"]
    assert then["fits"]["mix"] == first["fits"]["mix"]
    assert then["control"]["lookup"] != first["control"]["lookup"]
    idle = drafting()
    idle.take(first)
    assert idle.learnt() == first


def test_a_step_down_the_ladder_and_up_again_forgets_nothing() -> None:
    """Each rung has a controller of its own. Fails when the arm that a lean rung is without begins anew."""
    made = drafting()
    controller = made.controller(DRAFTS)
    Rounds(controller, {name: always(0.7) for name in ("model", "mix", "lookup")}, CURVE).steps(150)
    assert isinstance(controller, GoodputController)
    before = controller.to_dict()["mix"]["reliability"]
    made.controller(ALONE)
    again = made.controller(DRAFTS)
    assert isinstance(again, GoodputController)
    assert again.to_dict()["mix"]["reliability"] == before


@pytest.mark.parametrize(
    "learnt",
    [None, {}, {"fits": 7, "control": "x"}, {"fits": {"lookup": 3, "mix": []}}, {"control": {"lookup": [1]}}, {"a": 1}],
)
def test_nonsense_counts_as_nothing_learnt(learnt: dict[str, Any] | None) -> None:
    """A file edited by hand, or another version's. Fails when it ends the start."""
    assert session(learnt, DRAFTS) == session(None, DRAFTS)
