"""A suffix automaton that was kept: the same as before, or refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgespec.errors import BadSetting
from edgespec.speculation.drafters import automaton as automaton_module
from edgespec.speculation.drafters.automaton import NOWHERE, Automaton, from_columns
from edgespec.speculation.drafters.columns import Columns, checked, from_named
from tests.speculation.drafters.texts import assert_same, built, look, random_texts


@pytest.fixture(autouse=True)
def every_suffix_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in test_automaton.py."""
    monkeypatch.setattr(automaton_module, "MOST_COUNTED", 10_000)


@pytest.mark.parametrize("seed", range(2))
def test_a_kept_automaton_goes_on_as_if_it_had_never_stopped(seed: int) -> None:
    """Fails when anything is lost on the way: all columns agree after more of the text."""
    for texts in random_texts(seed):
        automaton = built(texts)
        kept = from_columns(from_named(automaton.arrays().named()))
        for more in (automaton, kept):
            more.extend([1, 2, 3, 1, 2])
            more.separate()
            more.extend(texts[0])
        assert_same(kept.arrays(), automaton.arrays())
        assert kept.here() == automaton.here()
        look(kept, [*texts[:-1], [*texts[-1], 1, 2, 3, 1, 2], texts[0]], texts[0][:5])


def test_a_damaged_column_neither_crashes_nor_hangs() -> None:
    """One entry of one column changed: refused, or used to the end. Fails when an index is believed unseen."""
    rng = np.random.default_rng(3)
    columns = built([rng.integers(0, 4, 60).tolist(), rng.integers(0, 4, 60).tolist()], 200).arrays()
    n_refused = 0
    for name, column in columns.named().items():
        for _ in range(60):
            value = int(rng.choice([-1, 0, 1, 2, int(rng.integers(0, 200)), 2**31 - 1, -(2**31)]))
            changed = column.copy()
            changed[rng.integers(0, len(column))] = value
            try:
                automaton = from_columns(dataclasses.replace(columns, **{name: changed}))
            except BadSetting:
                n_refused += 1
                continue
            use(automaton, rng)
    assert n_refused > 300


def use(automaton: Automaton, rng: np.random.Generator) -> None:
    """Every call, on a long text."""
    match = NOWHERE
    for token in rng.integers(0, 5, 100).tolist():
        automaton.append(token)
        match = automaton.advance(match, token)
        for at in (match, automaton.here()):
            while at != NOWHERE:
                automaton.children(at, 4)
                automaton.latest(at)
                at = automaton.shorter(at)
    automaton.compacted(50)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("length", lambda c: c[:-1]),
        ("following", lambda c: c[:-1]),
        ("tokens", lambda c: c[:0]),
        ("sizes", lambda c: c[:1]),
        ("count", lambda c: c.astype(np.int64)),
        ("end", lambda c: c.reshape(1, -1)),
        ("link", lambda c: np.arange(len(c), dtype=np.int32)),
        ("tokens", abs),
    ],
)
def test_columns_that_do_not_fit_together_are_refused(name: str, change) -> None:
    """Fails when a file of another table is believed."""
    columns = built([[1, 2, 1, 3, 1, 2, 4]]).arrays()
    assert checked(columns) is columns
    with pytest.raises(BadSetting, match="cannot be used"):
        from_columns(dataclasses.replace(columns, **{name: change(columns.named()[name])}))
    with pytest.raises(BadSetting, match="1 of 11 columns are missing"):
        from_named({key: value for key, value in columns.named().items() if key != name})


def one_changed(columns: Columns, name: str, place: int, value: int) -> Columns:
    column = columns.named()[name].copy()
    column[place] = value
    return dataclasses.replace(columns, **{name: column})


@pytest.mark.parametrize("what", ["link", "target", "following", "edges", "first"])
def test_a_knot_in_range_is_refused(what: str) -> None:
    """Every index is good and yet walking links, edges or a ring would never end, or two edges say the same token."""
    columns = built([[0, 1, 0, 2, 0, 3, 0, 4, 1, 2, 1, 3]]).arrays()
    length, (oldest, second, *_) = columns.length, np.flatnonzero(columns.source == 0).tolist()
    shortest, longest_state = int(np.flatnonzero(length == 1)[0]), int(length.argmax())
    newest, deep = int(columns.more[0]), int(length[columns.source].argmax())
    assert columns.following[newest] == oldest
    assert length[columns.source[deep]] >= 1
    knots = {
        "link": one_changed(columns, "link", shortest, longest_state),
        "target": one_changed(columns, "target", deep, shortest),
        "following": one_changed(columns, "following", newest, second),
        "edges": one_changed(columns, "target", oldest, int(columns.target[second])),
        "first": one_changed(columns, "first", 0, 0),
    }
    with pytest.raises(BadSetting, match=f"its {what} cannot be"):
        from_columns(knots[what])


def test_a_ring_that_runs_through_two_states_is_refused() -> None:
    """Two entries changed places: it closes, and lists the children of another state."""
    columns = built([[0, 1, 0, 2, 0, 3, 0, 4, 1, 2, 1, 3]]).arrays()
    a, b = int(columns.more[0]), int(np.flatnonzero(columns.source != 0)[0])
    following = columns.following.copy()
    following[[a, b]] = following[[b, a]]
    with pytest.raises(BadSetting, match="its following cannot be"):
        from_columns(dataclasses.replace(columns, following=following))
