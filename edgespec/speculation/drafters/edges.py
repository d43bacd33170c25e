"""The edges of a suffix automaton in flat columns: who follows whom, with which token.

All edges into a state carry the same token (strings of a state end alike), so a state has a label and an edge has none.
Most states have one child, kept in the state itself; every further edge is a row of the edge columns, found by an open
hash table of (state, token) and chained in a ring per state, oldest first, so that a state can be copied and its
children listed. Edges are redirected and never removed. Not covered: what a state means (automaton.py).
"""

from __future__ import annotations

import sys
from array import array

import numpy as np
from numpy.typing import NDArray

ROOT = 0
NO_EDGE = -1
# Of a state with more children, this many are listed: those seen first, which are mostly those seen often, and the
# newest. Keeps a look at a frequent word, which thousands of words may follow, to some microseconds.
MOST_LISTED = 64
# Odd numbers near 2^32 over the golden ratio and its square root: products are spread over their middle bits.
_SPREAD_STATE, _SPREAD_TOKEN, _SHIFT = 0x9E3779B1, 0x85EBCA77, 15
_FEWEST_SLOTS = 64


class Edges:
    """Edges between states 0..n-1; state 0 is the root, which is nobody's child.

    label   token of every edge into a state; -1 for the root
    first   a state's first child; 0: none
    more    the newest edge of a state's ring of further edges; -1: none
    source, target, following   one row a further edge; following[more[state]] is the ring's oldest
    """

    def __init__(self) -> None:
        self.label, self.first, self.more = array("i"), array("i"), array("i")
        self.source, self.target, self.following = array("i"), array("i"), array("i")
        self._slots = array("i", bytes(4 * _FEWEST_SLOTS))  # an edge plus one; 0: empty
        self._mask = _FEWEST_SLOTS - 1

    @property
    def n_bytes(self) -> int:
        """Bytes held, spare room of the columns included."""
        columns = (self.label, self.first, self.more, self.source, self.target, self.following, self._slots)
        return sum(map(sys.getsizeof, columns))

    def new_state(self, label: int) -> int:
        """A state without children; its number."""
        self.label.append(label)
        self.first.append(ROOT)
        self.more.append(NO_EDGE)
        return len(self.label) - 1

    def find(self, state: int, token: int) -> int:
        """The child of state by token; 0: none."""
        child = self.first[state]
        if self.label[child] == token:
            return child
        if self.more[state] < 0:
            return ROOT
        edge = self._edge(state, token)
        return self.target[edge] if edge >= 0 else ROOT

    def add(self, state: int, child: int) -> None:
        """A new edge; state has no child with that label."""
        if not self.first[state]:
            self.first[state] = child
            return
        edge, newest = len(self.source), self.more[state]
        self.source.append(state)
        self.target.append(child)
        if newest < 0:
            self.following.append(edge)
        else:
            self.following.append(self.following[newest])
            self.following[newest] = edge
        self.more[state] = edge
        if 2 * edge >= self._mask:
            self.index()
            return
        slots, mask = self._slots, self._mask
        slot = (state * _SPREAD_STATE ^ self.label[child] * _SPREAD_TOKEN) >> _SHIFT & mask
        while slots[slot]:
            slot = slot + 1 & mask
        slots[slot] = edge + 1

    def redirect(self, state: int, old: int, new: int) -> bool:
        """Let the edge state -> old lead to new, which has the same label; False: state has no such edge."""
        if self.first[state] == old:
            self.first[state] = new
            return True
        if self.more[state] < 0:
            return False
        edge = self._edge(state, self.label[old])
        if edge < 0 or self.target[edge] != old:
            return False
        self.target[edge] = new
        return True

    def copy(self, state: int, to: int) -> None:
        """Give `to`, which has none, the children of state."""
        self.first[to] = self.first[state]
        newest = self.more[state]
        if newest < 0:
            return
        edge = newest
        while True:
            edge = self.following[edge]
            self.add(to, self.target[edge])
            if edge == newest:
                return

    def children(self, state: int) -> list[int]:
        """States one token below, oldest edge first; of more than MOST_LISTED, the oldest and the newest."""
        child = self.first[state]
        if not child:
            return []
        found = [child]
        newest = self.more[state]
        if newest >= 0:
            following, target = self.following, self.target
            edge = following[newest]
            while edge != newest and len(found) < MOST_LISTED - 1:
                found.append(target[edge])
                edge = following[edge]
            found.append(target[newest])
        return found

    def index(self) -> None:
        """Build the hash table anew from the columns, with room to grow."""
        source, child = np.array(self.source, np.int64), np.array(self.target, np.int64)
        n_slots = max(_FEWEST_SLOTS, 2 << len(source).bit_length())
        table = _table(source, np.array(self.label, np.int64)[child], n_slots)
        self._slots, self._mask = array("i", table.tobytes()), n_slots - 1

    def _edge(self, state: int, token: int) -> int:
        """The row of a further edge, or NO_EDGE; ends because half of the slots at least are empty."""
        slots, mask = self._slots, self._mask
        slot = (state * _SPREAD_STATE ^ token * _SPREAD_TOKEN) >> _SHIFT & mask
        while edge := slots[slot]:
            edge -= 1
            if self.source[edge] == state and self.label[self.target[edge]] == token:
                return edge
            slot = slot + 1 & mask
        return NO_EDGE


def _table(source: NDArray[np.int64], token: NDArray[np.int64], n_slots: int) -> NDArray[np.int32]:
    """Open hash table by linear probing, all rows at once: those that lose a slot try the next one together."""
    table = np.zeros(n_slots, np.int32)
    rows = np.arange(len(source))
    slot = (source * _SPREAD_STATE ^ token * _SPREAD_TOKEN) >> _SHIFT & (n_slots - 1)
    while len(rows):
        free = table[slot] == 0
        table[slot[free]] = rows[free] + 1  # of several, the last one stays
        lost = table[slot] != rows + 1
        rows, slot = rows[lost], slot[lost] + 1 & (n_slots - 1)
    return table
