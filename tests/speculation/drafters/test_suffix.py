"""The suffix source: what it follows, what it copies, how far it says to be trusted."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from edgespec.speculation.drafters.automaton import Automaton
from edgespec.speculation.drafters.sources import NOTHING, Guess
from edgespec.speculation.drafters.suffix import LENGTHS, OVERLAP, TRUST, Suffix


def source(n_most: int = 10_000, *texts: list[int]) -> Suffix:
    automaton = Automaton(n_most)
    for text in texts:
        automaton.extend(text)
        automaton.separate()
    return Suffix(automaton)


def guess(suffix: Suffix, text: list[int]) -> Guess:
    return suffix.guess(suffix.follow(np.array(text, np.int32)))


def test_an_append_only_history_is_read_once() -> None:
    """Fails when a round reads the text again, which would count it twice, or misses what the last one said."""
    suffix = source()
    text = [1, 2, 3, 4]
    for n in (0, 1, 3, 2, 0):
        text += list(range(10, 10 + n))
        suffix.follow(np.array(text, np.int32))
        assert suffix.automaton.n_tokens == len(text)
    assert guess(suffix, [*text, 2]).chances == {3: 1.0}


def test_what_followed_the_same_words_is_copied_token_by_token() -> None:
    """Fails when a step into the tree is not a step into the earlier text."""
    suffix = source(10_000, [1, 2, 3, 4, 5])
    place = suffix.follow(np.array([9, 1, 2], np.int32))
    for token in (3, 4, 5):
        assert list(suffix.guess(place).chances) == [token]
        place = suffix.step(place, token)
    assert suffix.guess(place) == NOTHING


def test_reading_has_no_lasting_effect() -> None:
    """Fails when a guess that was never said becomes text to copy from."""
    suffix = source(10_000, [1, 2, 3, 4, 5])
    text = np.array([9, 1, 2], np.int32)
    place = suffix.follow(text)
    first, n_tokens = suffix.guess(place), suffix.automaton.n_tokens
    for token in (3, 8, 8, 1):
        place = suffix.step(place, token)
        suffix.guess(place)
    assert suffix.automaton.n_tokens == n_tokens
    assert suffix.guess(suffix.follow(text)) == first


def test_nothing_matches_across_a_replaced_conversation() -> None:
    """Fails when the end of one conversation and the beginning of the next count as text that was said: 7 never
    followed 5."""
    suffix = source()
    suffix.follow(np.array([1, 2, 3, 4, 5], np.int32))
    suffix.follow(np.array([7, 8, 9], np.int32))
    assert guess(suffix, [7, 8, 9, 5]) == NOTHING


@pytest.mark.parametrize("n_same", [0, 3, OVERLAP - 1, OVERLAP, OVERLAP + 40])
def test_a_replaced_conversation_keeps_its_end(n_same: int) -> None:
    """A turn that was edited. Fails when what both conversations begin with is not in front of the new end: then there
    is nothing behind which to look for it."""
    suffix = source()
    before = [*range(100, 100 + n_same), 1, 2, 3]
    after = [*range(100, 100 + n_same), 4, 5]
    suffix.follow(np.array(before, np.int32))
    suffix.follow(np.array(after, np.int32))
    here = guess(suffix, [*after, 7, 4])
    assert list(here.chances) == [5]
    if n_same:  # the way on from what both have in common: once as it was, once as it is now
        assert set(guess(suffix, [*after, 7, 100 + n_same - 1]).chances) == {1, 4}


def test_a_conversation_that_was_cut_goes_on_from_its_end() -> None:
    """A turn taken back: history is a beginning of what was followed. Fails when it still stands at the old end, or
    what was taken back is lost: it may be said again."""
    suffix = source()
    suffix.follow(np.array([1, 2, 3, 1, 2, 4], np.int32))
    assert list(guess(suffix, [1, 2, 3, 1, 2]).chances) == [4]
    assert list(guess(suffix, [1, 2, 3, 1]).chances) == [2]


def test_grades_rise_with_the_length_of_the_match() -> None:
    """Fails when a match of one token is trusted like a match of a page, or a grade has no trust."""
    text = list(range(100, 150))
    grades = []
    for n in range(1, len(text)):
        suffix = source(10_000, text)
        grades.append(guess(suffix, [1, *text[:n]]).grade)
    assert all(a <= b for a, b in pairwise(grades))
    assert grades[0] > 0
    assert len({grades[n - 1] for n in LENGTHS}) == len(LENGTHS)
    assert max(grades) == len(TRUST) - 1


def test_agreement_is_a_higher_grade_than_disagreement() -> None:
    """Of the same length. Fails when a word that anything may follow is trusted like one that is always followed by
    the same."""
    agreed = guess(source(10_000, [1, 2, 3], [9, 2, 3]), [5, 2])
    split = guess(source(10_000, [1, 2, 3], [9, 2, 4]), [5, 2])
    assert agreed.grade > split.grade > 0
    assert TRUST[agreed.grade] > TRUST[split.grade]


def test_chances_are_counts() -> None:
    """By hand: 1 2 was said five times, followed by 3 three times, by 4 once, and once by nothing yet, which says
    nothing. Fails when chances are ranks, or the text's own end counts against what followed."""
    suffix = source(10_000, [1, 2, 3], [1, 2, 3], [1, 2, 4], [1, 2, 3])
    found = guess(suffix, [8, 1, 2])
    assert found.chances == {3: pytest.approx(3 / 4), 4: pytest.approx(1 / 4)}
    assert next(iter(found.chances)) == 3


def test_chances_sum_to_at_most_one() -> None:
    """Fails when counts that were bounded are divided by too few. A run of one token is the worst case."""
    rng = np.random.default_rng(0)
    for n_vocab in (1, 2, 5):
        suffix, text = source(), []
        for _ in range(60):
            text += rng.integers(0, n_vocab, 3).tolist()
            found = guess(suffix, text)
            assert sum(found.chances.values()) <= 1 + 1e-12
            assert all(chance > 0 for chance in found.chances.values())


def test_a_match_without_continuation_gives_way_to_a_shorter_one() -> None:
    """The longest match may be the text's own end. Fails when it says nothing though its last words were followed."""
    suffix = source(10_000, [1, 2, 3], [7, 2, 5], [6, 1, 2])
    text = [6, 1, 2]
    assert guess(suffix, text).chances  # 6 1 2 was followed by nothing, 1 2 by 3
    assert 3 in guess(suffix, text).chances


def test_a_full_table_makes_room_for_what_is_said_now() -> None:
    """Fails when an old table that is full takes nothing of the conversation: then it neither copies from it nor knows
    where it stands, and drafts what followed some other words."""
    old = np.random.default_rng(0).integers(100, 200, 100).tolist()
    suffix = source(100, old)
    text = [*range(20), *range(10)]
    assert suffix.automaton.full
    assert list(guess(suffix, text).chances) == [10]
    assert suffix.automaton.n_tokens <= 100
    for token in range(10, 400):  # a conversation longer than the table goes on
        text.append(token)
        suffix.follow(np.array(text, np.int32))
        assert suffix.automaton.n_tokens <= 100
    assert list(guess(suffix, [*text, *text[-8:-3]]).chances) == [text[-3]]
