"""How many rows of a head pay."""

from __future__ import annotations

import pytest

from edgespec.memory.rows import Bytes, best_rows, candidates, goodput

SIZES = Bytes(target=1000, body=20, row=1)


def test_goodput_is_the_paper_s_mbsu_worked_by_hand() -> None:
    """Fails when a draft is counted once too often, or the head's bytes are forgotten.

    2 drafts, agreement .8, coverage .5: 1 + .4 + .16 tokens; 2 drafts of 20 + 80 of 1000 bytes.
    """
    assert goodput(80, 0.5, SIZES, 0.8, 2) == pytest.approx(1.56 / 1.2)


def test_a_head_is_cut_where_its_bytes_weigh_more_than_its_tail() -> None:
    """Fails when all rows stay though the last half never comes up, or rows go that come up."""
    flat = {k: min(1.0, 0.9 + k / 1000) for k in range(2000)}
    large = Bytes(10_000, 20, 1)
    assert 80 <= best_rows(8, 800, flat.__getitem__, large, 0.8, 4) <= 136
    steep = {k: k / 800 for k in range(801)}
    assert best_rows(8, 800, steep.__getitem__, Bytes(100_000, 20, 1), 0.8, 4) == 800


def test_equal_goodput_takes_the_fewest_rows() -> None:
    """Fails when rows without use stay."""
    assert best_rows(8, 64, lambda _: 1.0, Bytes(1000, 20, 0), 0.8, 4) == 8


def test_candidates_reach_from_what_must_stay_to_all() -> None:
    """Fails when an end is missing, one lies outside, or groups are broken."""
    found = candidates(272, 8192)
    assert (found[0], found[-1]) == (272, 8192)
    assert list(found) == sorted(set(found))
    assert all(k % 8 == 0 for k in found[1:-1])
    assert len(found) > 15
    assert candidates(10, 10) == [10]
