"""Copies what followed the same words before: the longest suffix of the text that occurred earlier, and what came then.

SAM-Decoding (arXiv 2411.10666) takes the longest match, SuffixDecoding (arXiv 2411.04975) counts what followed; here
counts give the chances, and the length of the match and whether all its continuations agree say how far to trust them.
One automaton holds the conversation and whatever was put into it before: past sessions, files.
Not covered: the automaton (automaton.py), keeping it (store/tables.py).
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from edgespec.speculation.drafters.automaton import NOWHERE, Automaton, Match
from edgespec.speculation.drafters.sources import NOTHING, Guess
from edgespec.types import Ids, Rows, TokenTree

# Where the trust in a match changes with its length; each is two grades, the higher one where continuations agree.
LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34)
TRUST = (0.0, 0.01, 0.02, 0.01, 0.04, 0.02, 0.08, 0.05, 0.2, 0.1, 0.4, 0.3, 0.8, 0.4, 1.0, 0.5, 1.2)
N_CONTINUATIONS, N_COUNTED = 4, 16
# Tokens that are read again where a conversation was replaced, so that its end still has something to match.
OVERLAP = 64


class Suffix:
    """Follows one conversation at a time in an automaton that it owns."""

    trust = TRUST

    def __init__(self, automaton: Automaton) -> None:
        self.automaton = automaton
        self._known: Ids = np.zeros(0, np.int32)

    def follow(self, history: Ids) -> Match:
        n = min(len(self._known), len(history))
        differs = np.flatnonzero(self._known[:n] != history[:n])
        n_same = int(differs[0]) if len(differs) else n
        if n_same < len(self._known):
            self.automaton.separate()
            n_same = max(n_same - OVERLAP, 0)
        if n_same < len(history):
            self._extend(history[n_same:])
            self._known = history.copy()
        return self.automaton.here()

    def _extend(self, tokens: Ids) -> None:
        """A full table gives its older half up, or it would stand still; half a second, once in as many tokens."""
        n_half = self.automaton.n_most // 2
        if self.automaton.n_tokens + len(tokens) > self.automaton.n_most:
            self.automaton = self.automaton.compacted(n_half)
            if len(tokens) > n_half:
                self.automaton.separate()
                tokens = tokens[-n_half:]
        self.automaton.extend(tokens.tolist())

    def learn(self, history: Ids, tree: TokenTree, rows: Rows) -> None:
        """Read the text whoever drafts, so that it can be copied from later."""
        self.follow(history)

    def clear(self, n_most: int) -> None:
        """Forget every text."""
        self.automaton, self._known = Automaton(n_most), self._known[:0]

    def step(self, place: Match, token: int) -> Match:
        return self.automaton.advance(place, token)

    def guess(self, place: Match) -> Guess:
        tokens, counts = self.automaton.children(place, N_COUNTED)
        while not tokens and place != NOWHERE:
            place = self.automaton.shorter(place)
            tokens, counts = self.automaton.children(place, N_COUNTED)
        if not place.length or not tokens:
            return NOTHING
        total = sum(counts)  # occurrences that nothing follows, such as the one just said, do not count
        grade = 2 * bisect_right(LENGTHS, place.length) - (len(tokens) > 1)
        return Guess(
            grade, {token: count / total for token, count in zip(tokens[:N_CONTINUATIONS], counts, strict=False)}
        )
