"""Figures from samples whose answers are known by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgespec.bench.figures import figures, paired_median, paired_ratio, share_cut
from edgespec.bench.measure import Cut, Sample

PLAIN = Sample("plain", "q1", "a", 0, 0, 5, 11, 1, 0, (0,) * 10, 50.0, 1000.0, 990.0, 0.0)
FAST = Sample("chain", "q1", "a", 0, 0, 5, 11, 1, 12, (2, 3, 2, 0, 0), 60.0, 400.0, 300.0, 80.0)


def test_a_rate_is_of_all_tokens_but_one_after_the_first_came() -> None:
    """Fails when methods are counted differently: 10 tokens follow the first in 0.4 s, and in 1 s."""
    assert figures([FAST], [PLAIN])["tokens_per_second"] == pytest.approx(25)
    assert figures([PLAIN], [PLAIN])["tokens_per_second"] == pytest.approx(10)


def test_tokens_that_came_at_once_are_not_counted_as_fast() -> None:
    """Fails when a first round of several tokens flatters the rate: 6 of 11 tokens follow it in 0.4 s."""
    at_once = replace(FAST, n_first=5, accepted=(2, 2))
    assert figures([at_once], [PLAIN])["tokens_per_second"] == pytest.approx(15)
    assert figures([at_once], [PLAIN])["ratio_to_plain"] == pytest.approx(1.5)


def test_whole_answers_are_compared_too() -> None:
    """Fails when what a method moves into the time to first token is seen nowhere."""
    assert figures([FAST], [PLAIN])["answer_ratio_to_plain"] == pytest.approx(1050 / 460)


def test_what_a_pass_yields() -> None:
    """Fails when passes, accepted drafts or their histogram are miscounted."""
    f = figures([FAST], [PLAIN])
    assert f["tokens_per_pass"] == pytest.approx(10 / 5)
    assert f["acceptance_rate"] == pytest.approx(7 / 12)
    assert f["accepted_lengths"] == [2, 0, 2, 1]
    assert figures([PLAIN], [PLAIN])["acceptance_rate"] is None


def test_the_split_of_time_adds_up() -> None:
    """Fails when a part of the time is lost."""
    split = figures([FAST], [PLAIN])["time_split"]
    assert split == pytest.approx({"target": 0.75, "draft": 0.2, "overhead": 0.05})


def test_ratios_are_paired_prompt_by_prompt() -> None:
    """Fails when sums are compared: a machine that is ten times slower on one prompt must not change its ratio."""
    plain, fast = (
        [replace(s, question=str(i), decode_ms=10**i * s.decode_ms) for i in range(5)] for s in (PLAIN, FAST)
    )
    f = figures(fast, plain)
    assert f["ratio_to_plain"] == pytest.approx(2.5)
    assert f["ratio_to_plain_low"] == pytest.approx(2.5)
    assert f["ratio_to_plain_n"] == 5


def test_few_prompts_have_no_interval() -> None:
    """Fails when one prompt looks certain: an interval of no width."""
    f = figures([FAST], [PLAIN])
    assert (f["ratio_to_plain"], f["ratio_to_plain_low"], f["ratio_to_plain_high"]) == (pytest.approx(2.5), None, None)


def test_repeats_of_a_prompt_are_one_pair_by_their_medians() -> None:
    """Fails when one disturbed repeat moves the ratio or is hidden from the spread."""
    repeats = [replace(FAST, repeat=i, decode_ms=ms) for i, ms in enumerate((400.0, 4000.0, 400.0))]
    f = figures(repeats, [PLAIN])
    assert f["ratio_to_plain"] == pytest.approx(2.5)
    assert f["ratio_to_plain_n"] == 1
    assert (f["tokens_per_second_low"], f["tokens_per_second"], f["tokens_per_second_high"]) == pytest.approx(
        (2.5, 25, 25)
    )


def test_categories_have_figures_of_their_own() -> None:
    """Fails when a category sees another one's samples."""
    other = [replace(s, question="q2", category="b") for s in (PLAIN, replace(FAST, decode_ms=800.0))]
    found = figures([FAST, other[1]], [PLAIN, other[0]])["categories"]
    assert {c: f["ratio_to_plain"] for c, f in found.items()} == pytest.approx({"a": 2.5, "b": 1.25})


def test_what_cannot_be_said_is_none() -> None:
    """Fails when an answer of one round divides by nothing, or an empty method hides that it is empty."""
    one = replace(FAST, n_tokens=1, accepted=(), decode_ms=0.0, target_ms=0.0, draft_ms=0.0)
    f = figures([one], [PLAIN])
    assert (f["tokens_per_second"], f["ratio_to_plain"], f["time_split"]) == (None, None, None)
    empty = figures([], [PLAIN])
    assert (empty["n_answers"], empty["tokens_per_pass"], empty["categories"]) == (0, None, {})


def test_the_share_cut_counts_tokens_and_answers() -> None:
    """Fails when a cut is hidden."""
    found = share_cut([Cut("a", 0, 100, 40), Cut("b", 0, 100, 100)])
    assert found == {"n_answers": 2, "n_answers_cut": 1, "share_of_tokens": pytest.approx(0.3)}


def test_a_median_of_ratios_survives_a_disturbed_pair() -> None:
    """Fails when one stolen core decides the figure; the ratio of sums is there for where it should."""
    found = paired_median([2.0] * 19 + [0.1])
    assert (found["ratio"], found["low"], found["high"], found["n"]) == (2, 2, 2, 20)
    assert paired_ratio([2.0] * 19 + [40.0], [1.0] * 20)["ratio"] == pytest.approx(78 / 20)
