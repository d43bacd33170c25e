"""Parallel drafting as a planner sees it: one pass of a row a level, chances that fall from place to place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgespec.memory.arms import table
from edgespec.memory.configuration import Placement
from edgespec.memory.methods import Method, from_masks
from edgespec.memory.plan import plan
from edgespec.memory.problem import Problem
from edgespec.memory.sizes import MIB
from edgespec.memory.times import ModelTimes
from edgespec.settings import Settings
from edgespec.speculation.places import ByPlace
from tests.memory.world import World

WORLD = World()
HERE = Placement()


def masks(chances: np.ndarray) -> Method:
    """chances [places, ranks] of trees and chains alike."""
    return from_masks("small", ModelTimes("F16", 2), WORLD.draft_mib * MIB, lambda width: chances[:, :width], ("cpu",))


def both(chances: np.ndarray, settings: Settings | None = None) -> Problem:
    problem = WORLD.problem(settings)
    return replace(problem, methods=(*problem.methods, masks(chances)))


def test_a_tree_takes_one_pass_of_its_depth() -> None:
    """Fails when levels are priced as passes, or a pass by the tree's rows."""
    method = masks(np.tile([0.5, 0.2], (8, 1)))
    found = table(method, Settings(nodes=12), None)
    assert method.wave_ms(HERE).shape == (8,)
    for choice, passes in zip(found.choices, found.waves.tolist(), strict=True):
        assert sum(passes) == 1
        assert passes.index(1) + 1 <= choice.depth
    chains = [(c, p) for c, p in zip(found.choices, found.waves.tolist(), strict=True) if c.width == 1]
    assert [(c.depth, p.index(1) + 1) for c, p in chains] == [(8, 8)]


def test_a_chain_is_worth_the_product_of_its_places() -> None:
    """By hand. Fails when all places count as the first one does."""
    chances = np.array([[0.8], [0.5], [0.25]])
    found = table(masks(chances), Settings(shape="chain", nodes=4), None)
    assert found.tokens == pytest.approx([1 + 0.8 + 0.8 * 0.5 + 0.8 * 0.5 * 0.25])
    trees = table(masks(np.array([[0.8, 0.1], [0.5, 0.1]])), Settings(shape="tree", nodes=3), None)
    assert [(c.depth, pytest.approx(t)) for c, t in zip(trees.choices, trees.tokens, strict=True)] == [
        (1, 1 + 0.8 + 0.1),
        (2, 1 + 0.8 + 0.8 * 0.5),
    ]


def test_it_is_chosen_where_it_wins_and_only_there() -> None:
    """The same acceptance for fewer passes wins; much less acceptance loses. Fails when either is taken by name."""
    alike = WORLD.method().by_rank(8)
    assert plan(both(np.tile(alike, (8, 1)))).method == "parallel"
    poor = np.outer(0.3 ** np.arange(1, 9), alike)
    assert plan(both(poor)).method == "model"
    asked = plan(both(poor, Settings(method="parallel")))
    assert (asked.method, asked.configuration.choice.drafter) == ("parallel", "parallel")


def test_its_context_has_a_row_a_level_and_one_path() -> None:
    """Fails when the pass is refused for its width, or sequences are paid for that no block needs."""
    made = plan(both(ByPlace().by_rank(False, 8), Settings(method="parallel", nodes=12, depth=6)))
    for rung in made.rungs:
        if rung.draft is not None:
            assert rung.draft.context.max_nodes >= rung.choice.depth
            assert rung.draft.context.max_leaves == 1
    assert made.configuration.draft is not None


def test_rejection_leaves_it_out() -> None:
    """Its drafts are no draws from known probabilities. Fails when auto plans what cannot be opened."""
    alike = np.tile(WORLD.method().by_rank(8), (8, 1))
    assert plan(both(alike, Settings(verify="rejection"))).method == "model"
