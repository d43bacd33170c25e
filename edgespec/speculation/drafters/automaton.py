"""What was said before and what followed it: an online suffix automaton with counts over texts of token ids.

A state stands for all strings that end at the same places (Blumer et al. 1985; for drafting: SAM-Decoding, arXiv
2411.10666; with counts: SuffixDecoding, 2411.04975): the longest earlier match of what was just said is one look away,
each token costs a few microseconds and about 60 bytes, however long matches are. Texts share the automaton and nothing
crosses from one to the next. Not covered: which continuations make a tree, files (store/tables.py), removing single
texts (`compacted` builds anew).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from edgespec.errors import BadSetting
from edgespec.speculation.drafters.columns import MOST_TOKENS, N_TOKEN_IDS, Columns, checked, to_array, to_numpy
from edgespec.speculation.drafters.edges import ROOT, Edges
from edgespec.types import Ids

# Suffixes that an append counts, longest first. Text has about ten at most (benchmarks/suffix.py); only what repeats
# itself without end has more, a run of one token one a length, and there the short ones are counted too low.
MOST_COUNTED = 32
_STATE_BITS = (1 << 22) - 1  # two states a token and the root


class Match(NamedTuple):
    """A string that occurs: the one of `length` tokens that ends where state ends. Stays valid while texts grow."""

    state: int
    length: int


# The empty string, which everything follows.
NOWHERE = Match(ROOT, 0)


class Automaton:
    """The texts so far, n_most tokens at most; what is appended beyond is ignored.

    Raises BadSetting for an n_most outside 1..MOST_TOKENS.
    """

    def __init__(self, n_most: int) -> None:
        if not 1 <= n_most <= MOST_TOKENS:
            raise BadSetting(f"a suffix table of {n_most} tokens was asked for; name 1 to {MOST_TOKENS}")
        self.n_most = n_most
        self._tokens = array("i")  # ~token where a text begins
        self._edges = Edges()
        # of each state: length of its longest string, state of that string's longest suffix that ends elsewhere too,
        # how often it ended, and where the last time (index of its last token)
        self._length, self._link, self._count, self._end = array("i"), array("i"), array("i"), array("i")
        self._new_state(0, -1, 0, -1, -1)
        self._last = ROOT  # of the text so far; the root where a text begins

    @property
    def n_tokens(self) -> int:
        return len(self._tokens)

    @property
    def full(self) -> bool:
        """No token more is taken."""
        return len(self._tokens) >= self.n_most

    @property
    def n_bytes(self) -> int:
        """Bytes held, spare room of the columns included."""
        columns = (self._tokens, self._length, self._link, self._count, self._end)
        return sum(map(sys.getsizeof, columns)) + self._edges.n_bytes

    def append(self, token: int) -> None:
        """The text goes on; ignored when full. Raises BadSetting for a token outside 0..N_TOKEN_IDS-1."""
        if not 0 <= token < N_TOKEN_IDS:
            raise BadSetting(f"token {token} is no id; suffix tables hold ids from 0 to {N_TOKEN_IDS - 1}")
        if len(self._tokens) >= self.n_most:
            return
        edges, last, place = self._edges, self._last, len(self._tokens)
        self._tokens.append(token if last else ~token)
        child = edges.find(last, token)
        if child:  # the whole text so far stands in an earlier one
            new = self._at(last, child)
        else:
            new = self._new_state(self._length[last] + 1, ROOT, 0, place, token)
            link = self._link
            while last >= 0 and not (child := edges.find(last, token)):
                edges.add(last, new)
                last = link[last]
            if last >= 0:
                link[new] = self._at(last, child)
        self._last = new
        self._count_suffixes(new, place)

    def extend(self, tokens: Sequence[int] | Ids) -> None:
        """Append them in order."""
        append = self.append
        for token in tokens:
            append(int(token))

    def separate(self) -> None:
        """A new text begins: no match and no continuation crosses from the last one into it."""
        self._last = ROOT

    def here(self) -> Match:
        """The longest suffix of the text so far that ended elsewhere before; NOWHERE: none, or the text is empty.

        O(1). Stands still when tokens were ignored: a full automaton has no say about them.
        """
        state = self._last
        if self._count[state] < 2:
            state = self._link[state]
        return Match(state, self._length[state]) if state > 0 else NOWHERE

    def advance(self, match: Match, token: int) -> Match:
        """The longest suffix of the match with token behind it that occurs; NOWHERE where not even token does."""
        state, length = self._settled(match)
        while not (child := self._edges.find(state, token)):
            state = self._link[state]
            if state < 0:
                return NOWHERE
            length = self._length[state]
        return Match(child, length + 1)

    def shorter(self, match: Match) -> Match:
        """The longest suffix of the match that ends elsewhere too, with as many continuations at least."""
        state = self._link[self._settled(match).state]
        return Match(state, self._length[state]) if state > 0 else NOWHERE

    def children(self, match: Match, n_most: int) -> tuple[list[int], list[int]]:
        """Tokens that followed the match, n_most at most, and how often; most often first, the latest first of equals.

        Exact up to MOST_COUNTED and edges.MOST_LISTED.
        """
        states = self._edges.children(self._settled(match).state)
        count, label = self._count, self._edges.label
        if len(states) > 1:
            end = self._end
            ranks = [count[s] << 42 | end[s] << 22 | s for s in states]  # one integer each sorts fastest
            ranks.sort(reverse=True)
            states = [rank & _STATE_BITS for rank in ranks[:n_most]]
        return [label[s] for s in states[:n_most]], [count[s] for s in states[:n_most]]

    def count(self, match: Match) -> int:
        """How often the match occurs, what is at the end of the text included; exact up to MOST_COUNTED."""
        state = self._settled(match).state
        return self._count[state] if state else len(self._tokens)

    def latest(self, match: Match) -> int:
        """The token behind the latest occurrence that something followed, or -1."""
        states = self._edges.children(self._settled(match).state)
        return self._edges.label[max(states, key=self._end.__getitem__)] if states else -1

    def compacted(self, keep: int, n_most: int | None = None) -> Automaton:
        """A new automaton of the newest `keep` tokens, texts in their order and the last one going on.

        n_most: of the new one, by default the same. Costs their appends anew. Matches of this one mean nothing there.
        """
        new = Automaton(self.n_most if n_most is None else n_most)
        for token in self._tokens[max(len(self._tokens) - max(keep, 0), 0) :]:
            if token < 0:
                new.separate()
            new.append(token if token >= 0 else ~token)
        if not self._last:
            new.separate()
        return new

    def arrays(self) -> Columns:
        """Everything, as copies."""
        edges = self._edges
        state = (self._length, self._link, self._count, self._end, edges.first, edges.more)
        edge = (edges.source, edges.target, edges.following)
        return Columns(*map(to_numpy, (array("i", (self.n_most, self._last)), self._tokens, *state, *edge)))

    def _new_state(self, length: int, link: int, count: int, end: int, label: int) -> int:
        self._length.append(length)
        self._link.append(link)
        self._count.append(count)
        self._end.append(end)
        return self._edges.new_state(label)

    def _at(self, state: int, child: int) -> int:
        """The state of just the longest string of `state` with child's label behind it: child, or a clone of it."""
        length, link, edges = self._length, self._link, self._edges
        n = length[state] + 1
        if length[child] == n:
            return child
        clone = self._new_state(n, link[child], self._count[child], self._end[child], edges.label[child])
        edges.copy(child, clone)
        link[child] = clone
        while state >= 0 and edges.redirect(state, child, clone):
            state = link[state]
        return clone

    def _count_suffixes(self, state: int, place: int) -> None:
        """Everything that ends at place occurred once more."""
        count, end, link = self._count, self._end, self._link
        for _ in range(MOST_COUNTED):
            if not state:
                return
            count[state] += 1
            end[state] = place
            state = link[state]

    def _settled(self, match: Match) -> Match:
        """The match in the state its string belongs to now: later texts may have split the one it was found in."""
        state, length = match
        link = self._link[state]
        while state and length <= self._length[link]:
            state, link = link, self._link[link]
        return Match(state, length)


def from_columns(columns: Columns) -> Automaton:
    """The automaton that `arrays` gave. Raises BadSetting for columns that no automaton could have, in their shape."""
    columns = checked(columns)
    n_most, last = columns.sizes.tolist()
    found = Automaton(n_most)
    found._last, found._tokens = last, to_array(columns.tokens)
    found._length, found._link = to_array(columns.length), to_array(columns.link)
    found._count, found._end = to_array(columns.count), to_array(columns.end)
    edges = found._edges
    edges.label = to_array(columns.labels())
    edges.first, edges.more = to_array(columns.first), to_array(columns.more)
    edges.source, edges.target = to_array(columns.source), to_array(columns.target)
    edges.following = to_array(columns.following)
    edges.index()
    return found
