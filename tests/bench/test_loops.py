"""Where an answer begins to loop."""

from __future__ import annotations

import random

import pytest

from edgespec.bench.loops import loop_start


def test_text_that_says_everything_once_has_no_loop() -> None:
    """Fails when a span seen twice, or a short one seen often, counts as a loop."""
    assert loop_start([]) is None
    assert loop_start(list(range(200))) is None
    assert loop_start([*range(50), *range(50)]) is None
    words = random.Random(0)
    assert loop_start([t for _ in range(40) for t in (1, 2, 3, 4, 5, 6, 7, 100 + words.randrange(10**6))]) is None


@pytest.mark.parametrize("period", [1, 2, 3, 8, 20])
def test_a_loop_is_cut_where_it_says_itself_for_the_second_time(period: int) -> None:
    """Fails when looped text is measured, or text in front of the loop is thrown away."""
    head = list(range(1000, 1030))
    assert loop_start([*head, *list(range(period)) * 30]) == len(head) + period


def test_what_follows_a_loop_changes_nothing() -> None:
    """Fails when the cut is not at the first loop."""
    looped = [*range(100, 110), *list(range(10)) * 4]
    assert loop_start([*looped, *range(500, 600), *list(range(3)) * 20]) == loop_start(looped) == 20
