"""The suffix automaton beside a search through the texts themselves."""

from __future__ import annotations

import numpy as np
import pytest

from edgespec.errors import BadSetting
from edgespec.speculation.drafters import automaton as automaton_module
from edgespec.speculation.drafters import edges
from edgespec.speculation.drafters.automaton import NOWHERE, Automaton
from tests.speculation.drafters.texts import (
    assert_same,
    built,
    expected_children,
    followers,
    longest,
    look,
    match_of,
    random_texts,
)


@pytest.fixture(autouse=True)
def every_suffix_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random texts of few tokens repeat themselves more than language does; the bound has a test of its own."""
    monkeypatch.setattr(automaton_module, "MOST_COUNTED", 10_000)


@pytest.mark.parametrize("seed", range(4))
def test_occurrences_and_continuations_are_those_of_the_texts(seed: int) -> None:
    """Fails when a clone does not inherit counts or children, or a separator is crossed or counted."""
    for texts in random_texts(seed):
        automaton = built(texts)
        assert automaton.count(NOWHERE) == automaton.n_tokens == sum(map(len, texts))
        look(automaton, texts, [])
        for text in texts:
            for i in range(len(text)):
                for n in range(1, min(8, len(text) - i) + 1):
                    look(automaton, texts, text[i : i + n])


@pytest.mark.parametrize("seed", range(4))
def test_here_is_the_longest_suffix_that_ended_elsewhere_before(seed: int) -> None:
    """After every token; fails when a text that repeats an earlier one from its beginning loses its match."""
    for texts in random_texts(seed):
        automaton, said = Automaton(1000), []
        for text in texts:
            automaton.separate()
            said.append([])
            assert automaton.here() == NOWHERE
            for token in text:
                automaton.append(token)
                said[-1].append(token)
                expected = longest(said, said[-1], 2)
                assert automaton.here() == match_of(automaton, expected)
                assert automaton.here().length == len(expected)


@pytest.mark.parametrize("seed", range(4))
def test_advance_follows_the_longest_suffix_that_occurs(seed: int) -> None:
    """Fails when a token that cannot follow drops more of the match than it must, or less."""
    rng = np.random.default_rng(seed)
    for texts in random_texts(seed):
        automaton, match, string = built(texts), NOWHERE, []
        for token in rng.integers(0, 13, 60).tolist():
            match, string = automaton.advance(match, token), longest(texts, [*string, token])
            assert match == match_of(automaton, string)
            assert match.length == len(string)


@pytest.mark.parametrize("seed", range(2))
def test_shorter_drops_to_the_next_suffix_that_occurs_oftener(seed: int) -> None:
    """Fails when it skips one, which hides continuations, or never ends."""
    for texts in random_texts(seed):
        automaton = built(texts)
        for text in texts:
            string = text[-8:]
            match = match_of(automaton, string)
            while match != NOWHERE:
                n = len(followers(texts, string))
                while string and len(followers(texts, string)) == n:
                    string = string[1:]
                match = automaton.shorter(match)
                assert match == match_of(automaton, string)


@pytest.mark.parametrize("seed", range(2))
def test_a_match_stays_what_it_was_while_texts_are_added(seed: int) -> None:
    """A clone takes over a state's shorter strings; fails when a match found before reads the longer ones' figures."""
    for texts in random_texts(seed):
        first, second = texts[: len(texts) // 2 + 1], texts[len(texts) // 2 + 1 :]
        automaton = built(first)
        strings = [text[i : i + n] for text in first for i in range(0, len(text), 3) for n in (1, 2, 3, 5)]
        matches = [match_of(automaton, string) for string in strings]
        for text in second:
            automaton.separate()
            automaton.extend(text)
        for string, match in zip(strings, matches, strict=True):
            assert automaton.children(match, 99) == expected_children(texts, string)
            assert automaton.count(match) == len(followers(texts, string))
            for token in range(3):
                assert automaton.advance(match, token) == match_of(automaton, longest(texts, [*string, token]))
            settled = match_of(automaton, string)
            assert automaton.shorter(match) == automaton.shorter(settled)


def test_no_more_children_than_asked_for_and_the_best_of_them() -> None:
    """1 is followed by 2 three times, by 4 and 3 twice (3 last), by 5 once; worked by hand."""
    automaton = built([[1, 2, 1, 2, 1, 3, 1, 4, 1, 5, 1, 4, 1, 3, 1, 2]])
    one = match_of(automaton, [1])
    assert automaton.children(one, 3) == ([2, 3, 4], [3, 2, 2])
    assert automaton.children(one, 0) == ([], [])
    assert automaton.latest(one) == 2
    assert automaton.here() == match_of(automaton, [1, 2])
    assert automaton.latest(automaton.here()) == 1


def test_a_word_with_many_followers_lists_the_first_ones_and_the_newest() -> None:
    """Thousands of words follow a comma; fails when a look at it costs as much as all of them."""
    automaton = Automaton(10_000)
    for token in range(1, 2001):
        automaton.extend([0, token, token])
    zero = match_of(automaton, [0])
    tokens, counts = automaton.children(zero, 10_000)
    assert len(tokens) == len(counts) == edges.MOST_LISTED
    assert set(tokens) == {2000, *range(1, edges.MOST_LISTED)}
    assert automaton.latest(zero) == 2000
    assert automaton.advance(zero, 1500).length == 2


def test_only_short_suffixes_of_endless_repetition_are_counted_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of one token has a suffix a length; fails when an append then costs as much as the run is long."""
    monkeypatch.setattr(automaton_module, "MOST_COUNTED", 32)
    automaton = built([[7] * 200])
    for length in (1, 100, 168, 169, 190, 200):
        assert automaton.count(match_of(automaton, [7] * length)) == min(201 - length, 32)
    assert automaton.here().length == 199
    assert automaton.latest(automaton.here()) == 7


def test_what_is_beyond_the_bound_is_ignored() -> None:
    """Fails when a table grows past its share of the budget, or an answer dies of a full one."""
    automaton = Automaton(5)
    automaton.extend([1, 2, 1, 2])
    assert not automaton.full
    automaton.extend(np.array([1, 2, 3], np.int32))
    assert automaton.full
    assert automaton.n_tokens == 5
    here, n_bytes = automaton.here(), automaton.n_bytes
    automaton.append(9)
    automaton.separate()
    automaton.append(9)
    assert here.length == 3
    assert automaton.n_bytes == n_bytes
    assert automaton.advance(NOWHERE, 9) == NOWHERE


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("keep", [0, 1, 7, 20, 1000])
def test_compacted_is_what_the_newest_tokens_alone_would_have_built(seed: int, keep: int) -> None:
    """Fails when texts run together, or old ones stay."""
    for texts in random_texts(seed):
        n_drop = max(sum(map(len, texts)) - keep, 0)
        kept = []
        for text in texts:
            kept.append(text[n_drop:])
            n_drop = max(n_drop - len(text), 0)
        old = built(texts)
        new, expected = old.compacted(keep), built(kept)
        assert_same(new.arrays(), expected.arrays())
        if kept[-1]:  # the last text goes on
            new.append(1)
            expected.append(1)
            assert new.here() == expected.here()
        assert old.n_tokens == sum(map(len, texts))


def test_compacted_leaves_a_text_that_was_ended_ended() -> None:
    """Fails when the next answer continues the last one."""
    automaton = built([[1, 2, 3], [1, 2]])
    automaton.separate()
    new = automaton.compacted(5, n_most=50)
    new.append(3)
    assert new.n_most == 50
    assert new.count(match_of(new, [2, 3])) == 1


@pytest.mark.parametrize("text", [[5] * 3000, [1, 2] * 1500, list(range(3000)), [*range(1500), *range(1500)]])
def test_bytes_are_bounded_for_every_text(text: list[int]) -> None:
    """Two states a token at most; fails when a kind of text breaks the promise to the memory plan."""
    automaton = built([text], 3000)
    assert automaton.n_bytes < 130 * automaton.n_tokens + 4096


def test_n_bytes_is_what_the_columns_hold() -> None:
    """Fails when a column is left out: four bytes an entry, six and a sixteenth of spare room at most."""
    automaton = built([np.random.default_rng(0).integers(0, 50, 3000).tolist()], 3000)
    columns = automaton.arrays().named()
    n_entries = sum(len(column) for column in columns.values()) + len(columns["length"])  # and the labels
    n_slots = 2 << len(columns["source"]).bit_length()
    assert 4 * (n_entries + n_slots) <= automaton.n_bytes < 4 * (n_entries * 1.13 + n_slots) + 4096


@pytest.mark.parametrize("token", [-1, 1 << 20])
def test_a_token_that_is_no_id_is_refused(token: int) -> None:
    """Fails when a sign or a carry makes it another token."""
    with pytest.raises(BadSetting, match=f"token {token} is no id"):
        Automaton(10).append(token)


@pytest.mark.parametrize("n_most", [0, (1 << 20) + 1])
def test_a_size_that_cannot_be_is_refused(n_most: int) -> None:
    """Fails when a typing error asks for gigabytes."""
    with pytest.raises(BadSetting, match=f"{n_most} tokens"):
        Automaton(n_most)
