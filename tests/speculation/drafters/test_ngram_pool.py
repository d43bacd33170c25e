"""The pool of n-grams."""

from __future__ import annotations

from edgespec.speculation.drafters.ngram_pool import NgramPool


def test_the_newest_continuation_comes_first() -> None:
    """Fails when what was said long ago is tried before what was said just now."""
    pool = NgramPool()
    for gram in [(1, 2, 3), (1, 4, 5), (1, 2, 3)]:
        pool.add(gram)
    assert pool.after(1) == ((2, 3), (4, 5))
    assert pool.after(9) == ()


def test_a_longer_ngram_takes_the_place_of_its_beginning() -> None:
    """Fails when rows go to the same tokens twice, or a short n-gram cuts a long one that says the same."""
    pool = NgramPool()
    pool.add((1, 2))
    pool.add((1, 7, 8))
    pool.add((1, 2, 3))
    assert pool.after(1) == ((2, 3), (7, 8))
    pool.add((1, 7))
    assert pool.after(1) == ((7, 8), (2, 3))


def test_the_pool_is_bounded_and_forgets_what_was_added_longest_ago() -> None:
    """Fails when an evening's text fills the memory, or the first tokens added are kept though they come up no more."""
    pool = NgramPool(n_keys=2, n_each=2)
    for rest in (10, 11, 12):
        pool.add((1, rest))
    pool.add((2, 20))
    pool.add((1, 13))
    pool.add((3, 30))
    assert pool.after(1) == ((13,), (12,))
    assert pool.after(2) == ()
    assert pool.after(3) == ((30,),)
    assert len(pool) == 3


def test_looking_up_changes_nothing() -> None:
    """Fails when a draft that is dropped leaves its mark on what is kept."""
    pool = NgramPool(n_keys=2)
    pool.add((1, 2))
    pool.add((3, 4))
    pool.after(1)
    pool.add((5, 6))
    assert pool.grams() == [(3, 4), (5, 6)]
