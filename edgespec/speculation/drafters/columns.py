"""A suffix automaton as numpy columns, for keeping, and what must hold of them before one is believed.

The check makes sure that nothing read from them can crash or never end: indices lie in their columns, links and edges
lead strictly to shorter and longer strings, rings close. Not covered: whether the columns describe the very texts
(a checksum does, store/tables.py).
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from edgespec.errors import BadSetting
from edgespec.types import Ids

N_TOKEN_IDS = 1 << 20
MOST_TOKENS = 1 << 20


@dataclass(frozen=True)
class Columns:
    """All int32, one-dimensional; what they mean stands in automaton.py and edges.py.

    sizes                                     [2]: n_most and the state of the text so far
    tokens                                    [n_tokens], ~token where a text begins
    length, link, count, end, first, more     [n_states]
    source, target, following                 [n_edges], edges beyond a state's first
    """

    sizes: Ids
    tokens: Ids
    length: Ids
    link: Ids
    count: Ids
    end: Ids
    first: Ids
    more: Ids
    source: Ids
    target: Ids
    following: Ids

    def named(self) -> dict[str, Ids]:
        """Each column under its name, as files keep them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def labels(self) -> Ids:
        """int32 [n_states]: the token at each state's end; -1 for the root."""
        token = self.tokens[self.end[1:]]
        return np.concatenate([np.full(1, -1, np.int32), np.where(token < 0, ~token, token)])


def from_named(arrays: Mapping[str, NDArray[np.generic]]) -> Columns:
    """The columns that `named` gave. Raises BadSetting where one is missing; others are passed over."""
    names = [field.name for field in fields(Columns)]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise _damaged(f"{len(missing)} of {len(names)} columns are missing, {missing[0]} first")
    return Columns(*(arrays[name] for name in names))  # type: ignore[arg-type]  # `checked` looks at the types


def to_numpy(column: array[int]) -> Ids:
    """A copy."""
    return np.array(column, np.int32)


def to_array(column: Ids) -> array[int]:
    """A copy that can grow."""
    return array("i", column.tobytes())


def checked(columns: Columns) -> Columns:
    """The same columns. Raises BadSetting, with what is wrong, for those an automaton could not work with."""
    for name, column in columns.named().items():
        if column.dtype != np.int32 or column.ndim != 1:
            raise _damaged(f"{name} is {column.dtype} of {column.ndim} dimensions, not int32 of 1")
    n_states = len(columns.length)
    _require("sizes", len(columns.sizes) == 2)
    for name in ("link", "count", "end", "first", "more"):
        _require(name, len(columns.named()[name]) == n_states)
    _require("edges", len(columns.source) == len(columns.target) == len(columns.following))
    _require("states", n_states >= 1)
    n_most, last = columns.sizes.tolist()
    _require("sizes", len(columns.tokens) <= n_most <= MOST_TOKENS and n_most >= 1 and 0 <= last < n_states)
    _require("tokens", _within(columns.tokens, -N_TOKEN_IDS, N_TOKEN_IDS) and not (columns.tokens[:1] >= 0).any())
    _check_states(columns)
    _check_edges(columns)
    return columns


def _check_states(columns: Columns) -> None:
    """Links lead to shorter strings and end at the root, the shortest; ends lie in the texts."""
    n_states, n_tokens = len(columns.length), len(columns.tokens)
    length, link, child = columns.length, columns.link[1:], columns.first
    _require("root", (length[0], columns.link[0], columns.count[0], columns.end[0]) == (0, -1, 0, -1))
    _require("length", _within(length[1:], 1, n_tokens + 1))
    _require("link", _within(link, 0, n_states) and bool((length[link] < length[1:]).all()))
    _require("count", _within(columns.count[1:], 1, n_tokens + 1))
    _require("end", _within(columns.end[1:], 0, n_tokens))
    _require("first", _within(child, 0, n_states) and bool(((length[child] > length) | (child == 0)).all()))


def _check_edges(columns: Columns) -> None:
    """Edges lead to longer strings, no state has two with one token, and rings stay with their state and close."""
    source, target, following, more = columns.source, columns.target, columns.following, columns.more
    n_states, n_edges, length = len(columns.length), len(source), columns.length
    _require("source", _within(source, 0, n_states))
    _require("target", _within(target, 1, n_states) and bool((length[target] > length[source]).all()))
    _require("following", _within(following, 0, n_edges) and _distinct(following))
    _require("following", bool((source[following] == source).all()))
    _require("more", _within(more, -1, n_edges))
    owner = np.flatnonzero(more >= 0)
    _require("more", bool((source[more[owner]] == owner).all()) and bool((more[source] >= 0).all()))
    _require("first", bool((columns.first[source] > 0).all()))
    parent = np.flatnonzero(columns.first)
    label, state = columns.labels().astype(np.int64), np.concatenate([parent, source]).astype(np.int64)
    key = state * N_TOKEN_IDS + label[np.concatenate([columns.first[parent], target])]
    _require("edges", _distinct(key))


def _within(column: Ids, low: int, high: int) -> bool:
    """Whether all lie in low..high-1."""
    return not len(column) or bool(column.min() >= low and column.max() < high)


def _distinct(values: NDArray[np.integer]) -> bool:
    """Whether no value stands twice; by sorting, which is ten times faster than np.unique."""
    ordered = np.sort(values)
    return not bool((ordered[1:] == ordered[:-1]).any())


def _require(what: str, holds: bool) -> None:
    if not holds:
        raise _damaged(f"its {what} cannot be")


def _damaged(why: str) -> BadSetting:
    return BadSetting(f"a kept suffix table cannot be used: {why}; remove it, and it is learnt again")
