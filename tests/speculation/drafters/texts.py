"""Texts for the suffix automaton, and a search through them that says what it should say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgespec.speculation.drafters.automaton import NOWHERE, Automaton, Match
from edgespec.speculation.drafters.columns import Columns

Texts = list[list[int]]


def followers(texts: Texts, string: list[int]) -> list[tuple[int, int]]:
    """Each occurrence, oldest first: its place over all texts and the token behind it, or -1."""
    found, n, start = [], len(string), 0
    for text in texts:
        for i in range(len(text) - n + 1):
            if text[i : i + n] == string:
                found.append((start + i, text[i + n] if i + n < len(text) else -1))
        start += len(text)
    return found


def expected_children(texts: Texts, string: list[int]) -> tuple[list[int], list[int]]:
    count: dict[int, int] = {}
    latest: dict[int, int] = {}
    for place, token in followers(texts, string):
        if token >= 0:
            count[token], latest[token] = count.get(token, 0) + 1, place
    order = sorted(count, key=lambda t: (-count[t], -latest[t]))
    return order, [count[t] for t in order]


def longest(texts: Texts, string: list[int], n_times: int = 1) -> list[int]:
    """The longest suffix of string that occurs so often at least."""
    while string and len(followers(texts, string)) < n_times:
        string = string[1:]
    return string


def random_texts(seed: int) -> Iterator[Texts]:
    """Texts of 1 to 12 different tokens, with passages copied from earlier ones, as answers copy from prompts."""
    rng = np.random.default_rng(seed)
    for _ in range(25):
        texts: Texts = []
        n_vocab = int(rng.integers(1, 13))
        for _ in range(int(rng.integers(1, 5))):
            text = rng.integers(0, n_vocab, int(rng.integers(0, 30))).tolist()
            if texts and rng.random() < 0.5:
                source = texts[int(rng.integers(0, len(texts)))]
                start = int(rng.integers(0, len(source) + 1))
                text = source[start : start + 12] + text if rng.random() < 0.5 else text + source[start : start + 12]
            texts.append(text)
        yield texts


def built(texts: Texts, n_most: int = 1000) -> Automaton:
    automaton = Automaton(n_most)
    for text in texts:
        automaton.separate()
        automaton.extend(text)
    return automaton


def match_of(automaton: Automaton, string: list[int]) -> Match:
    match = NOWHERE
    for token in string:
        match = automaton.advance(match, token)
    return match


def look(automaton: Automaton, texts: Texts, string: list[int]) -> None:
    """Everything asked about a string that occurs agrees with the search."""
    match = match_of(automaton, string)
    assert match.length == len(string)
    found = followers(texts, string)
    assert automaton.children(match, 99) == expected_children(texts, string)
    followed = [token for _, token in found if token >= 0]
    assert automaton.latest(match) == (followed[-1] if followed else -1)
    if string:
        assert automaton.count(match) == len(found)


def assert_same(a: Columns, b: Columns) -> None:
    for (name, column), other in zip(a.named().items(), b.named().values(), strict=True):
        np.testing.assert_array_equal(column, other, err_msg=name)
