"""Acceptance by place: each place has its own figures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgespec.speculation.places import N_PLACES, ByPlace, by_place_from_dict
from edgespec.types import Choice, Step


def step(ranks: tuple[int, ...], width: int = 8, greedy: bool = False) -> Step:
    return Step((0,), Choice("parallel", 12, 8, width), 11, 1, 1.0, 1.0, 0.0, ranks=ranks, greedy=greedy)


def test_a_walk_counts_for_the_places_it_came_to() -> None:
    """Fails when a miss at the second place lowers the first one's figure, or one never reached is counted."""
    found, before = ByPlace(), ByPlace().by_rank(False, 8)
    for _ in range(500):
        found.observe(step((0, -1)))
    after = found.by_rank(False, 8)
    assert after[0, 0] > 0.95
    assert after[1, 0] < 0.1
    assert after[2:] == pytest.approx(before[2:])
    assert found.by_rank(True, 8) == pytest.approx(ByPlace().by_rank(True, 8))


def test_later_places_are_expected_to_know_less() -> None:
    """Fails when a drafter that was never seen is planned for as if it read its own drafts."""
    chances = ByPlace().by_rank(False, 8)
    assert chances.shape == (N_PLACES, 8)
    assert np.all(np.diff(chances[:, 0]) < 0)
    assert np.all(chances.sum(axis=1) <= 1)


def test_a_walk_deeper_than_the_places_is_counted_as_far_as_they_go() -> None:
    """Fails when a block longer than planned for ends the answer."""
    found = ByPlace()
    found.observe(step((0,) * (N_PLACES + 3)))
    assert np.all(found.by_rank(False, 8)[:, 0] > ByPlace().by_rank(False, 8)[:, 0])


def test_what_was_counted_survives_a_file() -> None:
    """Fails when the next start plans without what this one saw, or a damaged file ends it."""
    found = ByPlace()
    for ranks in ((0, 2), (1,), (0, 0, -1)):
        found.observe(step(ranks))
    again = by_place_from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.by_rank(False, 8) == pytest.approx(found.by_rank(False, 8))
    for damaged in (None, {}, {"0": 7}, {"3": {"sampled tree": [[1], [2]]}}):
        assert by_place_from_dict(damaged).by_rank(False, 8) == pytest.approx(ByPlace().by_rank(False, 8))
