"""Drafts k tokens from ONE pass of a drafter that was taught to fill in masks (PARD, arXiv 2504.18583).

The pass reads the pending token and k - 1 mask tokens below it; row j (0: the pending token's) predicts draft j + 1
without knowing drafts 1 to j. So what may stand at a depth does not depend on what was taken above it: a tree's scores
are sums over depths, and the best tree grows from the same rows without another pass. The masks' cells are dropped at
once; accepted tokens are read in front of the next round's pass. The same weights draft in a chain as well (model.py).

Agreement is fitted by place, since later places know less. With penalties a row knows those of the likeliest path only.
Not covered: where the mask's id comes from (loading), teaching a drafter (benchmarks/training), how many places pay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgespec.speculation.drafters.agreement import Agreement, logprobs
from edgespec.speculation.drafters.ranking import Scored, children, place_of, scored
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.policies import MAX_LEAVES, Children, Limits, grow
from edgespec.speculation.sampling import Noise, Process
from edgespec.speculation.tree import GrowingTree
from edgespec.types import Choice, Ids, Rows, TokenTree, Verdict

# As much unread text goes in front of the masks: what was accepted of the last block must not take a pass of its own.
MAX_UNREAD = 32


class ParallelDrafter:
    """Drafts what its reader's model makes of masks, one pass a round."""

    def __init__(self, reader: Reader, mask_id: int) -> None:
        """mask_id: an id of the drafter's vocabulary that no text has."""
        self._reader, self._mask_id = reader, mask_id
        self._agreement: dict[tuple[bool, int], Agreement] = {}
        self._scored: Scored | None = None

    def draft(self, history: Ids, choice: Choice, process: Process, noise: Noise) -> TokenTree:
        """As Drafter.draft; no deeper than choice.depth, choice.rows - 1 and the rows of the context's pass."""
        n_places = min(choice.depth, choice.rows - 1, self._reader.caps.max_nodes)
        block = self._block(history, n_places)
        rows = self._reader.read(block, range(block.root, len(block.token)))
        self._scored = found = _scored(history, rows, choice.width, process, noise)
        self._reader.keep(history, [block.root])  # nothing later may see the masks
        return self._grown(int(history[-1]), children(found, self._chances(found), choice.width), choice, n_places)

    def _block(self, history: Ids, n_places: int) -> GrowingTree:
        """The pending token and the masks below it, behind what the cache lacks."""
        caps = self._reader.caps
        n_silent = min(max(caps.max_silent, caps.max_nodes - n_places), MAX_UNREAD)
        block = GrowingTree(self._reader.begin(history, max_lead=1 + n_silent))
        for node in range(block.root, block.root + n_places - 1):
            block.append(self._mask_id, node, node + 1, 0.0)
        return block

    def _chances(self, found: Scored) -> NDArray[np.floating]:
        """Log-chances of every candidate [n_places, k]."""
        return logprobs([self._at(found.greedy, place) for place in range(len(found.score))], found.score)

    def _at(self, greedy: bool, place: int) -> Agreement:
        if (greedy, place) not in self._agreement:
            self._agreement[greedy, place] = Agreement()
        return self._agreement[greedy, place]

    def _grown(self, pending: int, by_place: Children, choice: Choice, n_places: int) -> TokenTree:
        """The best tree of choice.rows nodes whose nodes of one depth all have the same children: reading is free, so
        it is grown exactly, a node at a time (policies.py: those rows nodes suffice)."""
        tree = GrowingTree([pending])

        def look_up(nodes: Sequence[int]) -> Children:
            depths = [tree.depth[n] for n in nodes]
            return Children([by_place.token[d] for d in depths], [by_place.logprob[d] for d in depths])

        n_leaves = min(choice.rows, MAX_LEAVES)
        limits = Limits(
            choice.rows, n_places, choice.width, n_leaves, n_beams=1, n_waves=choice.rows, row_prices=choice.row_prices
        )
        return grow(tree, look_up, limits)[0]

    def commit(self, history: Ids, verdict: Verdict) -> None:
        """The draw at depth j + 1 of the walk teaches place j; the cache has all that it can have already."""
        found, self._scored = self._scored, None
        if found is None:
            return
        for place, (token, ids, score) in enumerate(zip(verdict.tokens, found.ids, found.score, strict=False)):
            self._at(found.greedy, place).observe(score, place_of(token, ids, score))

    def forget(self) -> None:
        self._reader.forget()
        self._scored = None

    def limit(self, window: int | None) -> None:
        self._reader.limit(window)

    def close(self) -> None:
        self._reader.close()


def _scored(history: Ids, rows: Rows, width: int, process: Process, noise: Noise) -> Scored:
    """Row j's candidates for the token j places behind the pending one, with the noise of that position."""
    n_places = len(rows.logits)
    if not process.edits:
        positions = range(len(history), len(history) + n_places)
        return scored(history, [()] * n_places, rows, positions, process, noise, width)
    path: list[int] = []
    found: list[Scored] = []
    for place in range(n_places):
        row = Rows(rows.logits[place : place + 1], rows.ids)
        found.append(scored(history, [path], row, [len(history) + place], process, noise, width))
        path.append(int(found[-1].ids[0, found[-1].score[0].argmax()]))
    ids, score = np.concatenate([f.ids for f in found]), np.concatenate([f.score for f in found])
    return Scored(ids, score, process.sampling.greedy)
