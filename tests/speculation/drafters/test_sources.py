"""The blend of sources: weights that follow what was drawn."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest

from edgespec.speculation.drafters.sources import NOTHING, Blend, Guess

TRUSTS = ((0.0, 0.3), (0.0, 0.3))
EITHER = Guess(1, {1: 0.9}), Guess(1, {2: 0.9})


def weights(blend: Blend, guesses: tuple[Guess, ...]) -> list[float]:
    return blend.to_dict()["weights"][blend.cell(guesses)]


def test_it_converges_to_the_source_that_is_right() -> None:
    """A made-up stream where the first source is right in nine of ten places and the second never. Fails when weights
    do not follow the draws: the chance must come to what is true."""
    rng, blend = np.random.default_rng(0), Blend(TRUSTS)
    for _ in range(1500):
        blend.observe(EITHER, 1 if rng.random() < 0.9 else int(rng.integers(10, 1000)))
    mixed = blend.mix(EITHER)
    assert mixed[1] == pytest.approx(0.9 * weights(blend, EITHER)[0])
    assert mixed[1] > 0.75
    assert mixed[2] < 0.02


def test_it_turns_when_the_stream_turns() -> None:
    """Fails when an old fit is believed for ever: texts change within a conversation."""
    blend = Blend(TRUSTS)
    for right in (1, 2):
        for _ in range(1200):
            blend.observe(EITHER, right)
        mixed = blend.mix(EITHER)
        assert max(mixed, key=mixed.__getitem__) == right
        assert mixed[right] > 0.8


def test_sources_that_are_right_by_turns_share_the_weight() -> None:
    """Three to one. Fails when the better one takes all: chances are what a tree is sized by."""
    blend = Blend(TRUSTS)
    for i in range(2000):
        blend.observe(EITHER, 1 if i % 4 else 2)
    found = weights(blend, EITHER)
    assert found[0] / found[1] == pytest.approx(3, rel=0.25)


def test_a_useless_source_fades() -> None:
    """Fails when a source that is never right goes on to take rows: the chances of its tokens must go to nothing, and
    the rest to what nobody foresees."""
    rng, blend = np.random.default_rng(0), Blend(TRUSTS)
    before = blend.mix(EITHER)
    for n, most in ((30, 0.6), (300, 0.1), (1000, 0.01)):
        for _ in range(n):
            blend.observe(EITHER, int(rng.integers(10, 1000)))
        mixed = blend.mix(EITHER)
        assert all(mixed[t] < most * before[t] for t in (1, 2))
    assert weights(blend, EITHER)[-1] > 0.98


def test_grades_are_learnt_apart() -> None:
    """Fails when a long match pays for the mistakes of short ones."""
    blend = Blend(((0.0, 0.3, 0.3), (0.0, 0.3)))
    short, long = (Guess(1, {1: 0.9}), NOTHING), (Guess(2, {1: 0.9}), NOTHING)
    for _ in range(500):
        blend.observe(short, 5)
        blend.observe(long, 1)
    assert blend.mix(short)[1] < 0.05
    assert blend.mix(long)[1] > 0.8


def test_every_pair_of_grades_has_its_own_cell() -> None:
    """Fails when two of them share one, or one lies outside the table."""
    trusts = ((0.0, 0.1, 0.2), (0.0, 0.1), (0.0, 0.1, 0.2, 0.3))
    blend = Blend(trusts)
    pairs = itertools.product(*(range(len(t)) for t in trusts))
    cells = [blend.cell([Guess(grade, {}) for grade in grades]) for grades in pairs]
    assert sorted(cells) == list(range(3 * 2 * 4))


def test_nothing_known_mixes_to_nothing() -> None:
    """Fails when grade 0 has a say."""
    blend = Blend(TRUSTS)
    assert blend.mix((NOTHING, NOTHING)) == {}
    assert weights(blend, (NOTHING, NOTHING))[:2] == [0.0, 0.0]


def test_the_same_token_twice_is_one_token_likelier() -> None:
    """Fails when two sources that agree make two candidates, or the second one's word is lost."""
    blend = Blend(TRUSTS)
    one = blend.mix((Guess(1, {1: 0.5}), NOTHING))
    both = blend.mix((Guess(1, {1: 0.5}), Guess(1, {1: 0.5})))
    assert list(both) == [1]
    assert both[1] > one[1] * 0.99


def test_chances_stay_below_one() -> None:
    """Sources that are sure and always right. Fails when nothing is left for what nobody foresees: the tree's chances
    would promise more than there is, and a mistake would divide by nothing."""
    blend = Blend(TRUSTS)
    sure = Guess(1, {1: 1.0}), Guess(1, {1: 1.0})
    for _ in range(5000):
        blend.observe(sure, 1)
    assert 0.99 < sum(blend.mix(sure).values()) < 1
    blend.observe(sure, 77)
    assert all(np.isfinite(weights(blend, sure)))
    assert sum(weights(blend, sure)) == pytest.approx(1)


def test_what_was_learnt_survives_a_file() -> None:
    """Fails when the next session begins anew."""
    blend, again = Blend(TRUSTS), Blend(TRUSTS)
    for _ in range(100):
        blend.observe(EITHER, 1)
    again.take(json.loads(json.dumps(blend.to_dict())))
    assert again.mix(EITHER) == pytest.approx(blend.mix(EITHER))
    blend.observe(EITHER, 2)
    again.observe(EITHER, 2)  # as slowly as the one that learnt it
    assert again.mix(EITHER) == pytest.approx(blend.mix(EITHER))


def changed(name: str, at: tuple[int, ...], value: object) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(Blend(TRUSTS).to_dict()))
    part = data[name]
    for i in at[:-1]:
        part = part[i]
    part[at[-1]] = value
    return data


@pytest.mark.parametrize(
    "data",
    [
        None,
        7,
        [],
        {},
        {"weights": 1, "seen": 2},
        {"weights": Blend(TRUSTS).to_dict()["weights"]},
        Blend((*TRUSTS, (0.0, 0.1))).to_dict(),
        changed("weights", (3, 0), -0.1),
        changed("weights", (3, 0), 0.9),
        changed("weights", (3, 0), float("nan")),
        changed("weights", (3, 0), float("inf")),
        changed("weights", (3, 0), "much"),
        changed("weights", (3, 0), [1.0]),
        changed("weights", (3,), [1.0]),
        changed("weights", (3, 0), 10**400),
        changed("seen", (0,), 0),
        changed("seen", (0,), float("nan")),
        changed("seen", (0,), None),
        changed("seen", (0,), 10**400),
    ],
)
def test_nonsense_counts_as_nothing_learnt(data: object) -> None:
    """A file edited by hand, or another version's. Fails when it raises, or is believed."""
    blend = Blend(TRUSTS)
    blend.take(data)
    assert blend.to_dict() == Blend(TRUSTS).to_dict()
