"""Drafts from the target alone: a Jacobi window and the n-grams it leaves behind, in spare rows of the target's pass.

The tree below the pending token holds n-grams that began with it before, and a chain of guesses, the window. Where the
next guesses are what the target said at the last ones this is Jacobi iteration, which is right after at most as many
passes as there are guesses (arXiv 2305.10427). On the way it leaves n-grams that come true later at other places
(lookahead decoding, arXiv 2402.02057, section 3). Three things are done otherwise. Noise belongs to positions here
(sampling.py), so a guess can be the draw that the target would make there, and Jacobi iteration works at any
temperature. Lookahead lays n - 1 levels of guesses over the window; here one level is read, and an n-gram is what was
said along the tree or from pass to pass: (n - 1) times fewer rows, for machines whose rows cost. And guesses come from
the pool and the text first, which are right more often (docs/lookahead.md).
Not covered: whether spare rows pay (speculation/spare_rows.py), n-grams of the prompt (other drafters look those up).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgespec.speculation.drafters.ngram_pool import NgramPool
from edgespec.speculation.sampling import Noise, Process, draw
from edgespec.speculation.tree import GrowingTree
from edgespec.types import Choice, Ids, Rows, TokenTree, Verdict

# Tokens of an n-gram, and guesses that n-grams leave room for (benchmarks/lookahead.py).
N_GRAM, WINDOW = 4, 0
# Levels of a walk that the chance of a level is counted over.
N_LEVELS = 512
# An odd step through the text, for guesses that nothing is known of.
STRIDE = 7919

# (position, token): what was said up to and with that token, at most n_gram - 1 tokens.
Trails = dict[tuple[int, int], tuple[int, ...]]


@dataclass(frozen=True)
class _Asked:
    """What the last draft was for: the text's length, how its tokens are drawn, and the guesses in its tree."""

    n_history: int
    process: Process
    noise: Noise
    window: tuple[int, ...]


class LookaheadDrafter:
    """Drafts for one conversation; n-grams outlive it. A choice of width 1 makes plain Jacobi decoding.

    n_gram  most tokens of an n-gram, 2 or more
    window  guesses that n-grams leave room for, where depth allows so many
    Learnt are the pool, what the last pass said (two tokens a row at most) and two counts, and never by draft().
    """

    def __init__(self, n_gram: int = N_GRAM, window: int = WINDOW, pool: NgramPool | None = None) -> None:
        self.pool = NgramPool() if pool is None else pool
        self._n_trail, self._window = n_gram - 1, window
        self._n_accepted, self._n_tried = 0.0, 0.0
        self._asked: _Asked | None = None
        # Tokens said at the window's nodes, and the position of the first of them.
        self._said: tuple[int, tuple[int, ...]] = (0, ())
        self._trails: Trails = {}

    def draft(self, history: Ids, choice: Choice, process: Process, noise: Noise) -> TokenTree:
        """At most width - 1 n-grams of the pool, newest first, and the window, which has all rows that they leave."""
        n_drafted = choice.rows - 1
        guesses = self._guesses(history, min(choice.depth, n_drafted), jacobi=choice.width == 1)
        self._asked = _Asked(len(history), process, noise, tuple(guesses))
        branches = _Branches(int(history[-1]), self._level_chance())
        room = n_drafted - min(self._window, len(guesses))
        for rest in self.pool.after(int(history[-1]))[: choice.width - 1]:
            branches.add(rest[: choice.depth], 1 + room)
        branches.add(guesses, 1 + n_drafted)
        return branches.tree()

    def _level_chance(self) -> float:
        """Of a level of the tree: that one of its nodes is the draw."""
        return (1 + self._n_accepted) / (2 + self._n_tried)

    def _guesses(self, history: Ids, n: int, jacobi: bool) -> list[int]:
        """The n tokens of the window: n-grams, else what followed in the text, else what the last pass said at their
        places, else any token of the text (both papers begin with such).

        jacobi: what the last pass said goes first, as in both papers. It was said behind a guess that turned out wrong,
        and is right less often than the other two (benchmarks/lookahead.py).
        """
        start, said = self._said
        said = said[len(history) - start :] if len(history) >= start else ()
        guesses: list[int] = list(said[:n]) if jacobi else []
        while len(guesses) < n:
            last, i = guesses[-1] if guesses else int(history[-1]), len(guesses)
            if rest := self.pool.after(last):
                guesses += rest[0]
                continue
            places = np.flatnonzero(history[:-1] == last)
            if len(places):
                guesses.append(int(history[places[-1] + 1]))
            else:
                guesses.append(said[i] if i < len(said) else int(history[STRIDE * (len(history) + i) % len(history)]))
        return guesses[:n]

    def learn(self, history: Ids, tree: TokenTree, rows: Rows) -> None:
        """Harvest a verified pass, whoever drafted its tree; history: up to and with the tree's pending token.

        rows: one a node, in the tree's order. Where the last draft was for this history the rows are drawn from as its
        tokens are, and the window moves on; of another drafter's tree only the likeliest tokens are taken. Raises
        DecodeFailed where a row is not a number.
        """
        columns = rows.logits.argmax(axis=1)
        best: list[int] = (columns if rows.ids is None else rows.ids[columns]).tolist()
        asked = self._asked if self._asked is not None and self._asked.n_history == len(history) else None
        drawn = best if asked is None else _draws(asked, history, tree, rows, best)
        self._harvest(len(history), tree, best, drawn)
        if asked is not None:
            nodes = _walk(tree, asked.window)
            self._said = (len(history), tuple(drawn[node] for node in nodes))

    def _harvest(self, n_history: int, tree: TokenTree, best: list[int], drawn: list[int]) -> None:
        """Put what was said into the pool, what hangs nearest to the pending token last: its context is the surest.

        A token that was said at its parent continues the parent's n-gram; a guess that was said in the pass before
        continues that pass's; any other begins one.
        """
        before, self._trails = self._trails, {}
        trails: list[tuple[int, ...]] = []
        grams: list[tuple[int, ...]] = []
        rows = zip(tree.token.tolist(), tree.parent.tolist(), tree.depth.tolist(), best, drawn, strict=True)
        for token, parent, depth, likeliest, draw_here in rows:
            if parent >= 0 and token in (best[parent], drawn[parent]):
                trail = (*trails[parent], token)[-self._n_trail :]
            else:
                trail = before.get((n_history - 1 + depth, token), (token,))
            trails.append(trail)
            for said in dict.fromkeys((draw_here, likeliest)):
                gram = (*trail, said)
                grams.append(gram)
                self._trails.setdefault((n_history + depth, said), gram[-self._n_trail :])
        for gram in reversed(grams):
            for first in range(len(gram) - 1):
                self.pool.add(gram[first:])

    def commit(self, history: Ids, verdict: Verdict, rows: Rows | None = None) -> None:
        """Count the levels of the walk; the rest is learnt from the whole pass (learn)."""
        if self._n_tried > N_LEVELS:
            self._n_accepted, self._n_tried = self._n_accepted / 2, self._n_tried / 2
        self._n_accepted += verdict.n_accepted
        self._n_tried += verdict.n_accepted + 1

    def forget(self) -> None:
        self._asked, self._said, self._trails = None, (0, ()), {}

    def limit(self, window: int | None) -> None:
        """Nothing to do: there is no cache."""

    def close(self) -> None:
        """Nothing to do: nothing is held open."""


class _Branches:
    """Paths below a pending token, grown into one tree without equal siblings.

    level_chance: that a level holds the draw; each child of a node is held to be as likely, of what its elder siblings
    leave.
    """

    def __init__(self, pending: int, level_chance: float) -> None:
        self._tree = GrowingTree([pending])
        self._children: dict[tuple[int, int], int] = {}
        self._n_children = [0]
        self._log_hit, self._log_miss = math.log(level_chance), math.log1p(-level_chance)

    def add(self, tokens: Sequence[int], n_most: int) -> None:
        """One more path from the root, as far as n_most nodes in all allow."""
        tree, node = self._tree, 0
        for token in tokens:
            child = self._children.get((node, token))
            if child is None:
                if len(tree.token) >= n_most:
                    return
                score = tree.score[node] + self._log_hit + self._n_children[node] * self._log_miss
                child = tree.append(token, node, tree.depth[node] + 1, score)
                self._children[node, token] = child
                self._n_children[node] += 1
                self._n_children.append(0)
            node = child

    def tree(self) -> TokenTree:
        return self._tree.cut(range(len(self._tree.token)))[0]


def _draws(asked: _Asked, history: Ids, tree: TokenTree, rows: Rows, best: list[int]) -> list[int]:
    """What the target draws at each node; where nothing but the row decides, its best token."""
    process = asked.process
    if process.sampling.greedy and not process.edits:
        return best
    paths: list[list[int]] = []
    for token, parent in zip(tree.token.tolist(), tree.parent.tolist(), strict=True):
        paths.append([*paths[parent], token] if parent >= 0 else [])
    drawn = []
    for node, path in enumerate(paths):
        dist = process(history, [path], rows.logits[node : node + 1], rows.ids)
        drawn.append(draw(dist, asked.noise, len(history) + len(path)))
    return drawn


def _walk(tree: TokenTree, tokens: Sequence[int]) -> list[int]:
    """The root and the nodes that hold `tokens` one below the other, as far as the tree has them."""
    nodes = [0]
    for token in tokens:
        found = np.flatnonzero((tree.parent == nodes[-1]) & (tree.token == token))
        if not len(found):
            break
        nodes.append(int(found[0]))
    return nodes
