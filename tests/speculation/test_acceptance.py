"""Acceptance by rank: counts with a prior, hazards, and what survives a disk."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgespec.speculation.acceptance import N_MOST, N_RANKS, PRIORS, Acceptance, from_dict
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.shapes import best_trees
from edgespec.speculation.tree import single
from edgespec.types import Choice, Step, Verdict


def step(ranks: tuple[int, ...], width: int = 8, greedy: bool = False) -> Step:
    return Step((1,), Choice("model", 8, 7, width), 7, 0, 1.0, 1.0, 0.0, ranks=ranks, greedy=greedy)


def test_before_anything_was_seen_the_prior_speaks() -> None:
    """The demo pair's figures (docs/design.md section 3): .73/.87/.95/.98 within the first 1/2/4/8 children."""
    within = np.cumsum(Acceptance().by_rank(greedy=False))
    assert within[[0, 1, 3, 7]] == pytest.approx([0.73, 0.87, 0.95, 0.98])
    assert Acceptance().by_rank(greedy=True, width=1) == pytest.approx([0.75])


@pytest.mark.parametrize(("greedy", "seen"), [(True, (2.9, 4.3, 5.6)), (False, (2.6, 3.3, 4.2))])
def test_the_priors_trees_yield_what_was_seen(greedy: bool, seen: tuple[float, ...]) -> None:
    """Trees of 3/7/15 drafts, within a tenth: fails when a prior is changed away from its measurement."""
    tokens = best_trees(Acceptance().by_rank(greedy), 16, 15, 8).tokens[15]
    assert tokens[[4, 8, 16]] == pytest.approx(seen, rel=0.1)


def test_what_is_seen_outweighs_the_prior() -> None:
    """By hand: every draw the second child, 400 nodes; 40 imagined nodes leave 29.2 of 440 for the first."""
    acceptance = Acceptance()
    for _ in range(100):
        acceptance.observe(step((1, 1, 1, 1)))
    chances = acceptance.by_rank(greedy=False)
    assert chances[0] == pytest.approx(29.2 / 440)
    assert chances[1] == pytest.approx((400 + 40 * 0.14) / 440)
    assert acceptance.n_seen(greedy=False) == 400


def test_a_narrow_tree_says_nothing_about_children_it_never_had() -> None:
    """Fails when a miss of two children counts against the third: then wide trees are never tried again."""
    acceptance = Acceptance()
    for _ in range(1000):
        acceptance.observe(step((-1,), width=2))
    first, second, third, *_ = acceptance.by_rank(greedy=False)
    assert max(first, second) < 0.03
    assert third / (1 - first - second) == pytest.approx(0.05 / 0.13, rel=1e-6)


def test_chances_never_sum_above_one() -> None:
    """Counts from several widths do, which would make a tree better than possible."""
    rng = np.random.default_rng(0)
    acceptance = Acceptance()
    for _ in range(300):
        width = int(rng.integers(2, 9))
        acceptance.observe(step(tuple(int(r) for r in rng.integers(0, width, 3)), width))
        best_trees(acceptance.by_rank(greedy=False), 4, 3, 8)


def test_greedy_and_sampled_chains_and_trees_are_apart() -> None:
    """Fails when a greedy chat spoils the figures of a sampled one, or chains those of trees."""
    acceptance = Acceptance()
    acceptance.observe(step((0, -1), greedy=True))
    assert acceptance.by_rank(greedy=False) == pytest.approx(PRIORS["sampled tree"])
    assert acceptance.by_rank(greedy=True, width=1) == pytest.approx(PRIORS["greedy chain"])
    assert acceptance.n_seen(greedy=True) == 2


def test_old_counts_fade() -> None:
    """Fails when a pair that has agreed for a month takes as long to be doubted."""
    acceptance = Acceptance()
    for _ in range(10 * int(N_MOST)):
        acceptance.observe(step((0,)))
    assert acceptance.n_seen(greedy=False) <= N_MOST
    for _ in range(2 * int(N_MOST)):
        acceptance.observe(step((-1,)))
    assert acceptance.by_rank(greedy=False)[0] < 0.4


def test_a_rank_beyond_those_counted_is_a_miss() -> None:
    """Fails on a tree wider than the table."""
    acceptance = Acceptance()
    acceptance.observe(step((N_RANKS + 3,), width=32))
    assert acceptance.by_rank(greedy=False)[0] < 0.73


def test_counts_survive_json() -> None:
    """Fails when a kind is forgotten on the way to the disk or back."""
    acceptance = Acceptance()
    for ranks, width, greedy in (((0, 2, -1), 8, False), ((0, -1), 1, True), ((1,), 4, True), ((0,), 1, False)):
        acceptance.observe(step(ranks, width, greedy))
    again = from_dict(json.loads(json.dumps(acceptance.to_dict())))
    for greedy in (True, False):
        for width in (1, 8):
            assert again.by_rank(greedy, width) == pytest.approx(acceptance.by_rank(greedy, width))


@pytest.mark.parametrize(
    "part",
    [
        None,
        7,
        "x",
        [],
        [[1] * 8],
        [[1] * 8, [1] * 7],
        [[2] * 8, [1] * 8],
        [[0] * 8, [1, 2, 1, 1, 1, 1, 1, 1]],
        [[-1] * 8, [1] * 8],
        [[0] * 8, [float("nan")] * 8],
        [[0] * 8, [float("inf")] * 8],
        [["0"] * 8, [1] * 8],
        [[True] * 8, [1] * 8],
    ],
)
def test_damaged_counts_count_as_nothing_seen(part: object) -> None:
    """Fails when a file from a crash keeps the model from starting, or is believed."""
    found = from_dict({"sampled tree": part})
    assert found.by_rank(greedy=False) == pytest.approx(PRIORS["sampled tree"])
    assert from_dict(part).n_seen(greedy=True) == 0  # type: ignore[arg-type]


def test_a_fixed_controller_feeds_what_it_sees() -> None:
    """Fails when rounds are run and nothing is learnt from them; without a place for it they are still run."""
    acceptance = Acceptance()
    choice = Choice("model", 8, 7, 8)
    nothing = single(0), Verdict((0,), (1,), None)
    FixedController(choice, acceptance).observe(step((0, 0, -1)), *nothing)
    FixedController(choice).observe(step((0, 0, -1)), *nothing)
    assert acceptance.n_seen(greedy=False) == 3
