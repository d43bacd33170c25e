"""How far a drafter's chances are believed: what it promised beside what came."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgespec.speculation.reliability import MOST, N_KINDS, Kinds, Reliability, classes_of
from edgespec.types import TokenTree, Verdict
from tests.helpers import random_tree, tree_of

WORDS, SYMBOLS, DIGITS = range(N_KINDS)


def promising(tree: TokenTree, *edges: float) -> TokenTree:
    """The tree with this chance on the edge into each node but the root."""
    logprob = np.zeros(len(tree), np.float32)
    for node, edge in enumerate(edges, start=1):
        logprob[node] = logprob[tree.parent[node]] + np.log(edge)
    return TokenTree(tree.token, tree.parent, tree.depth, logprob)


ONE = promising(tree_of([0, 7], [-1, 0]), 0.8)
PAIR = promising(tree_of([0, 7, 8], [-1, 0, 0]), 0.5, 0.3)
CHAIN = promising(tree_of([0, 7, 8, 9], [-1, 0, 1, 2]), 0.5, 0.5, 0.5)
HIT, MISS = Verdict((0, 1), (7, 99), None), Verdict((0,), (99,), None)


def seen(tree: TokenTree, *verdicts: Verdict, n: int = 300, kind: int = WORDS) -> Reliability:
    found = Reliability()
    for i in range(n):
        found.observe(tree, verdicts[i % len(verdicts)], kind)
    return found


def test_chances_are_the_drafters_where_nothing_was_seen() -> None:
    """Fails when a drafter that was never tried is already doubted, or depth counts twice."""
    rng = np.random.default_rng(0)
    for kind in range(N_KINDS):
        tree = random_tree(rng, 12, 40, 0)
        tree = promising(tree, *rng.uniform(0.05, 0.9, 11))
        assert Reliability().chances(tree, kind) == pytest.approx(np.exp(tree.draft_logprob), rel=1e-5)


def test_a_drafter_that_promises_twice_too_much_is_believed_half() -> None:
    """Promises 0.8, right in four of ten. Fails when the factor is anything but hits over promises."""
    found = seen(ONE, HIT, MISS, HIT, MISS, MISS)
    assert found.chances(ONE, WORDS) == pytest.approx([1.0, 0.4], abs=0.03)


def test_a_drafter_that_promises_too_little_is_believed_more() -> None:
    """Fails when factors stop at 1: a copy that is always right is worth a wide pass. No edge is ever certain."""
    found = seen(ONE, HIT)
    low = promising(tree_of([0, 7], [-1, 0]), 0.4)
    assert found.chances(low, WORDS)[1] == pytest.approx(0.4 / 0.8, abs=0.03)
    assert found.chances(ONE, WORDS)[1] == pytest.approx(MOST, abs=0.01)
    assert seen(low, HIT).chances(ONE, WORDS)[1] == MOST


def test_depths_are_apart() -> None:
    """Right at the first place and wrong at the second. Fails when one figure is kept for a whole path: then trees are
    as deep where the drafter knows nothing."""
    found = seen(CHAIN, HIT)
    first, second = found.chances(CHAIN, WORDS)[1:3]
    assert first > 0.8
    assert second / first < 0.1


def test_ranks_are_apart() -> None:
    """The second child is never the draw. Fails when siblings are believed alike."""
    found = seen(PAIR, Verdict((0, 1), (7, 99), None), MISS)
    chances = found.chances(PAIR, WORDS)
    assert chances[1] == pytest.approx(0.5, abs=0.05)
    assert chances[2] < 0.03


def test_kinds_of_text_are_apart_and_unseen_ones_are_told() -> None:
    """Right in words, wrong in digits. Fails when code pays for prose; a kind never seen begins with what all others
    came to, between the two."""
    found = Reliability()
    for _ in range(200):
        found.observe(ONE, HIT, WORDS)
        found.observe(ONE, MISS, DIGITS)
    words, symbols, digits = (float(found.chances(ONE, kind)[1]) for kind in (WORDS, SYMBOLS, DIGITS))
    assert digits < 0.1 < 0.3 < symbols < 0.7 < 0.9 < words


def test_only_children_of_walked_nodes_are_counted() -> None:
    """A node that was never reached says nothing. Fails when a miss above it counts against it."""
    short = promising(tree_of([0, 7], [-1, 0]), 0.5)
    assert seen(CHAIN, MISS).to_list() == seen(short, MISS).to_list()
    assert seen(CHAIN, HIT).to_list() != seen(short, HIT).to_list()


def test_a_filler_is_no_broken_promise() -> None:
    """Fillers only round a pass up. Fails when a promise of nothing is counted as a hit or spoils a figure."""
    filled = TokenTree(PAIR.token, PAIR.parent, PAIR.depth, np.array([0, np.log(0.5), -np.inf], np.float32))
    found = seen(filled, Verdict((0, 2), (8, 99), None), n=5)
    assert np.isfinite(found.chances(PAIR, WORDS)).all()
    assert found.chances(filled, WORDS)[2] == 0.0
    assert np.array(found.to_list())[0].sum() == 0


def test_chances_never_rise_along_a_path() -> None:
    """A child is walked only where its parent is. Fails when a factor above 1 makes a part of a tree no tree."""
    rng, found = np.random.default_rng(3), seen(CHAIN, Verdict((0, 1, 2, 3), (7, 8, 9, 99), None))
    for _ in range(20):
        tree = random_tree(rng, 20, 60, 0)
        tree = promising(tree, *rng.uniform(0.05, 1.0, 19))
        chances = found.chances(tree, WORDS)
        assert chances[0] == 1.0
        assert all(chances[node] <= chances[tree.parent[node]] for node in range(1, 20))


def test_older_rounds_count_for_less() -> None:
    """Fails when a drafter that has become good is doubted for ever."""
    found = seen(ONE, MISS, n=2000)
    for _ in range(400):
        found.observe(ONE, HIT, WORDS)
    assert found.chances(ONE, WORDS)[1] > 0.6


def test_what_was_counted_survives_a_file() -> None:
    """Fails when the next session begins anew."""
    found = seen(PAIR, HIT, MISS, n=41)
    again = Reliability()
    again.take(json.loads(json.dumps(found.to_list())))
    assert again.chances(PAIR, WORDS) == pytest.approx(found.chances(PAIR, WORDS))


def nonsense(value: object) -> list:
    counts = Reliability().to_list()
    counts[0][0][0][0] = value
    return counts


@pytest.mark.parametrize(
    "data",
    [
        None,
        7,
        "counts",
        [],
        {},
        Reliability().to_list()[0],
        *(nonsense(v) for v in (-1, float("nan"), float("inf"), "x", [1], None, 10**400)),
    ],
)
def test_nonsense_counts_as_nothing_seen(data: object) -> None:
    """A file edited by hand, or another version's. Fails when it raises, or is believed."""
    found = Reliability()
    found.take(data)
    assert found.to_list() == Reliability().to_list()
    found = Reliability()
    found.take(data)
    assert found.to_list() == Reliability().to_list()


def test_pieces_are_told_apart_by_their_bytes() -> None:
    """Fails when letters of other scripts count as symbols, or a piece with a digit is a word."""
    pieces = [
        b"word",
        b" Word",
        "ä".encode(),
        "日".encode(),
        b"{",
        b" ",
        b"",
        b"\n    ",
        b"7",
        b"x1",
        b"_",
        b"`",
        b"@[",
    ]
    classes = classes_of(pieces)
    assert classes.dtype == np.int8
    assert classes.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("words", "symbols", "digits", "kind"),
    [(32, 0, 0, 0), (26, 6, 0, 0), (18, 14, 0, 1), (0, 32, 0, 1), (24, 0, 8, 2), (10, 12, 10, 2), (31, 0, 1, 0)],
)
def test_a_text_is_what_its_last_tokens_are(words: int, symbols: int, digits: int, kind: int) -> None:
    """Fails when the whole conversation decides, or a lone digit makes a text one of numbers."""
    kinds = Kinds(np.array([0, 1, 2], np.int8))
    recent = np.array([0] * words + [1] * symbols + [2] * digits, np.int32)
    for before in (0, 1, 2):
        assert kinds.of(np.concatenate([np.full(100, before, np.int32), recent])) == kind
    assert kinds.of(recent[:1]) in range(N_KINDS)
