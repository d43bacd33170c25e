"""What a drawn child is worth."""

from __future__ import annotations

import numpy as np

from edgespec.speculation.drafters.chances import MOST, PRIORS, Chances


def test_first_and_later_children_have_their_own_curves() -> None:
    """Fails when a draft's probability alone says what it is worth."""
    found = Chances().of(np.array([[0.3, 0.3, 0.95, 0.0]]))
    assert found.tolist() == [[PRIORS[0, 2], PRIORS[1, 2], PRIORS[1, 4], 0.0]]


def test_chances_follow_what_is_accepted() -> None:
    """Fails when a pair that agrees less than the demo pair keeps its figures: here .2 and .5 of them."""
    chances, rng = Chances(), np.random.default_rng(0)
    for _ in range(2000):
        accepted = 0 if rng.random() < 0.2 else 1 if rng.random() < 0.5 else None
        chances.observe([0.3, 0.6], accepted)
    first, second = chances.of(np.array([[0.3, 0.6]]))[0]
    assert abs(first - 0.2) < 0.05
    assert abs(second - 0.5) < 0.06


def test_children_behind_the_accepted_one_were_not_tried() -> None:
    """Fails when they count as rejected."""
    chances = Chances()
    for _ in range(500):
        chances.observe([0.3, 0.6], 0)
    first, second = chances.of(np.array([[0.3, 0.6]]))[0]
    assert first == MOST
    assert second == PRIORS[1, 3]
