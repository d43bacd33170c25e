"""The recycled table: what it learns, what it says, what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgespec.speculation.drafters.recycle import N_SLOTS, N_SUCCESSORS, ORDERS, Recycled
from edgespec.speculation.drafters.sources import NOTHING, Guess
from edgespec.types import Rows, TokenTree
from tests.helpers import tree_of

N_VOCAB = 32
CHAIN = tree_of([7, 8, 9], [-1, 0, 1])


def rows_for(tree: TokenTree, *best: int, ids: list[int] | None = None) -> Rows:
    """A row a node whose largest logit is at that node's entry of `best`, the next ones behind it."""
    n = N_VOCAB if ids is None else len(ids)
    logits = np.zeros((len(tree), n), np.float32)
    for node, token in enumerate(best):
        logits[node, token] = 9.0
        logits[node, (token + 1) % n] = 6.0
    return Rows(logits, None if ids is None else np.array(ids, np.int32))


def history(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


def asked(table: Recycled, *tokens: int) -> Guess:
    return table.guess(table.follow(history(*tokens)))


def best(guess: Guess) -> int:
    return max(guess.chances, key=guess.chances.__getitem__)


def taught(n_slots: int = N_SLOTS) -> Recycled:
    table = Recycled(n_slots)
    table.learn(history(5, 6, 7), CHAIN, rows_for(CHAIN, 20, 22, 24))
    return table


def test_a_rejected_row_is_learnt_like_an_accepted_one() -> None:
    """The table knows of no verdict (Token Recycling, section 3). Fails when only the walked path or the last row is
    kept: two siblings cannot both have been walked."""
    table, tree = Recycled(), tree_of([7, 8, 9], [-1, 0, 0])
    table.learn(history(5, 6, 7), tree, rows_for(tree, 20, 22, 24))
    assert [best(asked(table, 6, 7, t)) for t in (8, 9)] == [22, 24]
    assert best(asked(table, 5, 6, 7)) == 20


def test_a_key_is_the_text_in_front_of_the_row() -> None:
    """Fails when a node's own token or a token of its sibling is missing from the key: the text 6 7 8 9 was never read
    behind 5, and 9 was read behind 8 alone."""
    table, tree = Recycled(), tree_of([7, 8, 9, 9], [-1, 0, 0, 1])
    table.learn(history(5, 6, 7), tree, rows_for(tree, 20, 22, 24, 26))
    assert best(asked(table, 7, 8, 9)) == 26
    assert best(asked(table, 6, 7, 9)) == 24


def test_the_longest_key_known_is_asked_alone() -> None:
    """Fails when shorter keys are mixed in, or asked first: they were seen behind other text."""
    table = taught()
    root = tree_of([7], [-1])
    table.learn(history(1, 2, 7), root, rows_for(root, 12))  # the newer word on 7 alone
    assert [(g.grade, best(g)) for g in (asked(table, 5, 6, 7), asked(table, 1, 2, 7))] == [(3, 20), (3, 12)]
    assert [(g.grade, best(g)) for g in (asked(table, 0, 6, 7), asked(table, 0, 0, 7))] == [(2, 20), (1, 12)]
    assert asked(table, 5, 6, 30) == NOTHING
    assert len(table.trust) == len(ORDERS) + 1


def test_a_short_history_is_a_short_key() -> None:
    """Fails when the first tokens of a conversation are padded, or end it."""
    table, root = Recycled(), tree_of([7], [-1])
    table.learn(history(7), root, rows_for(root, 12))
    assert (asked(table, 7).grade, best(asked(table, 7))) == (1, 12)
    assert asked(table, 3, 4, 7).grade == 1


def test_chances_are_a_softmax_of_the_largest_logits() -> None:
    """By hand. Fails when they sum to more than 1 or are not normalised: nothing promises so much as a sum above 1."""
    guess = asked(taught(), 5, 6, 7)
    weights = np.exp([0.0, -3.0, *[-9.0] * (N_SUCCESSORS - 2)])
    assert len(guess.chances) == N_SUCCESSORS
    assert list(guess.chances.values()) == pytest.approx(list(weights / weights.sum()), rel=1e-3)
    assert sum(guess.chances.values()) <= 1 + 1e-12


def test_columns_of_a_trimmed_head_are_named_by_their_ids() -> None:
    """Fails when a column's number is taken for a token, or a row of fewer columns than successors adds tokens that
    are none: a draft of id -1 ends in the runtime."""
    table, root = Recycled(), tree_of([7], [-1])
    table.learn(history(5, 6, 7), root, rows_for(root, 1, ids=[4, 30, 2]))
    guess = asked(table, 5, 6, 7)
    assert best(guess) == 30
    assert set(guess.chances) == {4, 30, 2}


def test_bytes_are_bounded_whatever_is_learnt() -> None:
    """Fails when the table grows with the conversation: it was planned with 2 MB."""
    table = Recycled(64)
    before = table.n_bytes
    for i in range(200):
        table.learn(history(i, i + 1, 7), CHAIN, rows_for(CHAIN, 1, 2, 3))
    assert table.n_bytes == before
    assert Recycled().n_bytes <= 2 << 20


def test_a_new_key_replaces_an_old_one_that_hashes_alike() -> None:
    """In one slot everything collides. Fails when an old entry stays, or answers for a key that it is not."""
    table, root = Recycled(1), tree_of([7], [-1])
    table.learn(history(7), root, rows_for(root, 12))
    assert best(asked(table, 7)) == 12
    other = tree_of([8], [-1])
    table.learn(history(8), other, rows_for(other, 14))
    assert best(asked(table, 8)) == 14
    assert asked(table, 7) == NOTHING


def test_a_key_seen_again_says_what_was_seen_last() -> None:
    """Fails when the first row wins for ever: the text before the key was another one."""
    table = taught()
    table.learn(history(5, 6, 7), CHAIN, rows_for(CHAIN, 3, 4, 5))
    assert best(asked(table, 5, 6, 7)) == 3


def test_reading_has_no_lasting_effect() -> None:
    """Fails when a look at what may never be said changes the table, or the place that it was taken from."""
    table = taught()
    before = copy.deepcopy(table.arrays())
    place = table.follow(history(5, 6, 7))
    first = table.guess(place)
    further = place
    for token in (8, 9, 31, 1):
        further = table.step(further, token)
        table.guess(further)
    assert table.guess(place) == first
    for name, array in table.arrays().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_a_kept_table_says_the_same() -> None:
    """Fails when a column is lost on the way to a file, or the kept arrays go on changing with the new table."""
    old, new = taught(), Recycled()
    arrays = old.arrays()
    assert new.take(arrays, N_VOCAB)
    for tokens in ((5, 6, 7), (6, 7, 8), (7, 8, 9), (0, 0, 8), (1, 2, 3)):
        assert asked(new, *tokens) == asked(old, *tokens)
    new.learn(history(5, 6, 7), CHAIN, rows_for(CHAIN, 1, 2, 3))
    assert best(asked(old, 5, 6, 7)) == 20
    assert arrays["ids"].max() >= 20


def damaged(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[dict[str, Any]], None]:
    def apply(arrays: dict[str, Any]) -> None:
        arrays[name] = change(np.array(arrays[name]))

    return apply


def one(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.reshape(-1)[0] = value
        return array

    return change


@pytest.mark.parametrize(
    "damage",
    [
        *(lambda a, n=name: a.pop(n) for name in ("keys", "ids", "logits")),
        *(damaged(name, lambda a: a[:-1]) for name in ("keys", "ids", "logits")),
        *(damaged(name, lambda a: a.astype(np.float64)) for name in ("keys", "ids", "logits")),
        damaged("keys", lambda a: a.view(np.uint64)),
        damaged("ids", lambda a: a.astype(np.int64)),
        damaged("ids", lambda a: a[:, :-1]),
        damaged("ids", lambda a: a.T),
        damaged("ids", one(N_VOCAB)),
        damaged("ids", one(-2)),
        damaged("logits", one(0.5)),
        damaged("logits", one(-61.0)),
        damaged("logits", one(np.nan)),
        damaged("logits", one(-np.inf)),
        damaged("keys", lambda a: "keys"),
        damaged("keys", lambda a: None),
        damaged("logits", lambda a: [[1.0], [1.0, 2.0]]),
    ],
)
def test_damage_of_any_kind_is_refused_and_changes_nothing(damage: Callable[[dict[str, Any]], Any]) -> None:
    """A file that another version or a fault wrote. Fails when it raises, or an id that the model lacks gets through:
    drafting that id ends in the runtime."""
    arrays = dict(taught().arrays())
    damage(arrays)
    table = Recycled()
    table.learn(history(5, 6, 7), CHAIN, rows_for(CHAIN, 1, 2, 3))
    before = copy.deepcopy(table.arrays())
    assert not table.take(arrays, N_VOCAB)
    for name, array in table.arrays().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_a_table_of_another_size_is_refused() -> None:
    """Fails when slots of one size are looked up by the keys of another."""
    assert not Recycled().take(taught(64).arrays(), N_VOCAB)
