"""Which tokens are emitted: counts that fade, and how much of the last ones a head would have had."""

from __future__ import annotations

import numpy as np
import pytest

from edgespec.speculation import usage as module
from edgespec.speculation.usage import Usage


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HALF_LIFE", 100)
    monkeypatch.setattr(module, "N_RECENT", 50)
    monkeypatch.setattr(module, "LEAST_RECENT", 20)
    monkeypatch.setattr(module, "_FOLD", 10)


def test_counts_fade_with_what_comes_after() -> None:
    """Fails when an old topic weighs as much as today's: 100 tokens later it is half."""
    usage = Usage(8)
    usage.observe([3] * 10)
    assert usage.counts[3] == 10
    for _ in range(10):
        usage.observe([5] * 10)
    assert usage.counts[3] == pytest.approx(5, rel=1e-5)
    assert 50 < usage.counts[5] < 100


def test_coverage_is_of_the_last_tokens_alone() -> None:
    """Fails when what is no longer said counts, or a few tokens decide."""
    usage = Usage(8)
    usage.observe([1] * 19)
    assert usage.coverage(np.array([1], np.int32)) is None
    usage.observe([2])
    assert usage.coverage(np.array([1], np.int32)) == 0.95
    usage.observe([2] * 40)
    assert usage.coverage(np.array([1], np.int32)) == 9 / 50


def test_what_was_counted_goes_on_from_a_file() -> None:
    """Fails when a part is lost between sessions."""
    first, again = Usage(8), Usage(8)
    first.observe([1, 2, 2, 7] * 8)
    assert again.take(first.arrays())
    assert np.array_equal(again.counts, first.counts)
    assert again.coverage(np.array([2], np.int32)) == first.coverage(np.array([2], np.int32)) == 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"ids": np.array([8], np.int32)},
        {"ids": np.array([-1], np.int32)},
        {"recent": np.array([9], np.int32)},
        {"counts": np.array([np.nan], np.float32)},
        {"counts": np.array([-1.0], np.float32)},
        {"counts": np.array([1.0, 2.0], np.float32)},
        {"ids": np.array([1], np.int64)},
    ],
)
def test_what_makes_no_sense_is_not_taken(wrong: dict[str, np.ndarray]) -> None:
    """Fails when a file of another vocabulary ends in an index error, or in half of its counts."""
    right = {"ids": np.array([1], np.int32), "counts": np.ones(1, np.float32), "recent": np.array([1], np.int32)}
    usage = Usage(8)
    assert usage.take(right)
    assert not usage.take({**right, **wrong} if wrong else {})
    assert usage.counts[1] == 1
