"""Room for what sources draft: taken where it is there, and nothing changes where it is not."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from edgespec.memory.configuration import Configuration
from edgespec.memory.plan import Plan, plan
from edgespec.memory.problem import Problem
from edgespec.memory.sizes import MIB
from edgespec.memory.widen import ROWS, with_sources
from edgespec.settings import Settings
from tests.memory.world import World

WORLD = World()


def problem(mib: int | None = None, settings: Settings | None = None, world: World = WORLD, gpu: int = 0) -> Problem:
    budget = None if mib is None else mib * MIB
    return world.problem(replace(settings or Settings(), budget=budget), gpu=gpu)


def both(p: Problem, named: str | None = None) -> tuple[Plan, Plan]:
    made = plan(p)
    return made, with_sources(p, made, named)


def line(found: Plan, name: str) -> str:
    return next((f"{entry.value}: {entry.reason}" for entry in found.lines if entry.line == name), "")


def bytes_of(p: Problem, c: Configuration) -> int:
    return p.predict(c).total_bytes


@pytest.mark.parametrize("method", ["auto", "plain"])
def test_sources_get_their_rows_where_there_is_room(method: str) -> None:
    """With a drafter and without one. Fails when a copy of 16 tokens meets a context opened for 8 rows."""
    made, found = both(problem(settings=Settings(method=method)))
    c = found.configuration
    assert c.sources
    assert c.target.max_nodes >= ROWS > made.configuration.target.max_nodes
    assert c.target.max_leaves > 1
    assert found.footprint == problem().predict(c)
    assert found.footprint.total_bytes > made.footprint.total_bytes
    assert line(found, "sources").startswith("on: ")
    assert line(found, "memory") != line(made, "memory")


def test_what_the_user_notices_stays() -> None:
    """Fails when room for rows is taken from the conversation, the cache's type or the drafter."""
    made, found = both(problem())
    for name in ("method", "tokens_per_s", "speedup", "floor_bytes", "warnings"):
        assert getattr(found, name) == getattr(made, name)
    before, after = made.configuration, found.configuration
    assert (after.target.n_ctx, after.target.kv_type) == (before.target.n_ctx, before.target.kv_type)
    assert (after.placement, after.choice.drafter) == (before.placement, before.choice.drafter)
    assert after.draft is not None
    assert before.draft is not None
    assert (after.draft.name, after.draft.window) == (before.draft.name, before.draft.window)
    assert after.draft.context.kv_type == before.draft.context.kv_type
    assert after.expected == pytest.approx(made.speedup)


def test_the_drafters_context_has_room_for_the_wider_tree() -> None:
    """Fails when the target takes 16 rows and the drafter cannot hold the tips that it reads for them."""
    _, found = both(problem())
    draft = found.configuration.draft
    assert draft is not None
    assert draft.context.max_leaves >= min(2 * found.configuration.choice.rows, 32)


def test_the_plan_stays_as_it_was_where_they_do_not_fit() -> None:
    """One byte short. Fails when a plan exceeds its budget for rows that may never be used."""
    made, found = both(problem())
    for short, fits in ((0, True), (1, False)):
        p = problem()
        p = replace(p, settings=replace(p.settings, budget=found.footprint.total_bytes - short))
        widened = with_sources(p, made, None)
        assert widened.configuration.sources == fits
        if not fits:
            assert widened == made


def test_a_device_without_room_is_not_overfilled() -> None:
    """Fails when only the sum is looked at: what is free on the processor is no room on the device."""
    world = World(("CUDA0",))
    p = problem(world=world, gpu=2000 * MIB)
    made = plan(p)
    wide = with_sources(p, made, None)
    assert wide.configuration.sources
    rooms = tuple(replace(r, free_bytes=wide.footprint.on(r.device) - (r.device == "CUDA0")) for r in p.rooms)
    if made.footprint.on("CUDA0") < wide.footprint.on("CUDA0"):
        assert with_sources(replace(p, rooms=rooms), made, None) == made


@pytest.mark.parametrize(
    "settings", [Settings(), Settings(method="plain"), Settings(nodes=8), Settings(nodes=16, depth=4)]
)
@pytest.mark.parametrize("shape", ["auto", "chain"])
def test_each_rung_needs_fewer_bytes_than_the_one_before(settings: Settings, shape: str) -> None:
    """Fails when the ladder's first step down frees nothing, or goes up."""
    p = problem(settings=replace(settings, shape=shape))
    made, found = both(p)
    assert found.rungs[0] == found.configuration
    assert all(rung.sources for rung in found.rungs)
    n_bytes = [bytes_of(p, rung) for rung in found.rungs]
    assert all(a > b for a, b in pairwise(n_bytes))
    assert n_bytes[-1] == bytes_of(p, made.rungs[-1])


@pytest.mark.parametrize("named", ["suffix", "recycle", "lookup"])
def test_a_source_that_was_named_drafts_without_a_model(named: str) -> None:
    """--method suffix. Fails when the plan drafts nothing, or something else, or says so."""
    _, found = both(problem(settings=Settings(method="plain")), named)
    choice = found.configuration.choice
    assert (choice.drafter, choice.rows, found.method) == (named, ROWS, named)
    assert found.configuration.draft is None
    assert line(found, "drafter").startswith(f"{named}: ")
    assert line(found, "sources").startswith(f"on: {named}, asked for")


def test_mix_drafts_with_the_model_and_the_sources() -> None:
    """Fails when one of the two is left out."""
    _, found = both(problem(settings=Settings(method="model")), "mix")
    assert found.configuration.choice.drafter == "mix"
    assert found.configuration.draft is not None
    assert found.method == "mix"


def test_nothing_named_leaves_the_choice_to_the_controller() -> None:
    """Where nothing else drafts, the plan is still plain: sources only may. Fails when they always draft."""
    _, found = both(problem(settings=Settings(method="plain")))
    assert found.configuration.choice.plain
    assert found.configuration.expected == 0


@pytest.mark.parametrize("nodes", [2, 4, 12, 40])
def test_rows_and_depth_that_were_asked_for_hold(nodes: int) -> None:
    """--nodes and --depth. Fails when sources take more than the user allowed."""
    _, found = both(problem(settings=Settings(method="plain", nodes=nodes, depth=3)), "lookup")
    choice = found.configuration.choice
    assert (choice.rows, choice.depth) == (nodes, min(3, nodes - 1))
    assert found.configuration.target.max_nodes == nodes


def test_a_chain_that_was_asked_for_is_one() -> None:
    """Fails when sources branch all the same."""
    _, found = both(problem(settings=Settings(method="plain", shape="chain")), "lookup")
    assert found.configuration.choice.width == 1
    assert found.configuration.target.max_leaves == 1
