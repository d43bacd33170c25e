"""Sequential rejection without replacement, `--verify rejection` (Sequoia, arXiv 2402.12374, algorithm 2; RSD).

At a node its children are tried in the order they were drawn. Child x is accepted with probability
min(1, target_probs[x] / draft_probs[x]); a rejection leaves target_probs <- norm(max(target_probs - draft_probs, 0))
and takes x out of draft_probs; after the last one the token is drawn from what is left of target_probs. Exact where
each child is a draw, whether it exists was decided before it was drawn (drawing.py), and none of the noise here was
used to draft. Not covered: draft and target sharing one noise (verify.py), several drafters in one tree.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgespec.errors import BadSetting
from edgespec.speculation.sampling import Noise, Process, draw
from edgespec.speculation.verify import NextToken
from edgespec.types import Dist, Ids, Rows, TokenTree

# Streams of the engine's noise: what drafts are drawn with, and what decides whether they are accepted. The noise
# itself stays for the target's own draws, so that a round without drafts says what it says under draw and match.
DRAFT_STREAM, ACCEPT_STREAM = 1, 2

_Probs = NDArray[np.float64]


def rejection_draws(tree: TokenTree, rows: Rows, process: Process, noise: Noise, history: Ids) -> NextToken:
    """The `draws` of `verify`: an accepted child's token, else a draw from the residual, which no child can hold.

    tree: with draft_probs, unless the target leaves no choice (temperature 0). rows: one a node, in its order; history:
    every id up to and with the pending token. The token drawn raises BadSetting where children have no draft_probs.
    """
    accepting = noise.stream(ACCEPT_STREAM)

    def decided(node: int, tokens: Sequence[int]) -> int:
        target, position = (
            process(history, [tokens], rows.logits[node : node + 1], rows.ids),
            len(history) + len(tokens),
        )
        children = tree.token[tree.parent == node]
        if not len(children) or target.ids.shape[1] == 1:  # of one possible token no residual is ever left
            return draw(target, noise, position)
        u = accepting.uniform([position], children[None])[0]
        left = accept(target, _drawn_from(tree, node), children, u)
        return left if isinstance(left, int) else draw(left, noise, position)

    return decided


def accept(target: Dist, draft: Dist, children: Ids, u: _Probs) -> int | Dist:
    """The first child that is accepted, or what is left of the target once all of them were rejected.

    target, draft: one row each; children int32 [n], distinct, in the order they were drawn from draft; u float64 [n],
    uniform on (0, 1) and independent of how they were drawn.
    """
    p, q = _normalised(target), _normalised(draft)
    q_at_target = _looked_up(draft.ids[0], q, target.ids[0])
    for child, threshold in zip(children.tolist(), u.tolist(), strict=True):
        at = np.flatnonzero(draft.ids[0] == child)
        if not len(at) or q[at[0]] <= 0:  # exhausted: no draw from this draft could be it
            continue
        n_left = q.sum()
        is_child = target.ids[0] == child
        if threshold * q[at[0]] / n_left < p[is_child].sum():
            return int(child)
        residual = np.maximum(p - q_at_target / n_left, 0)
        if not residual.any():  # both agree to the last bit, so that only rounding rejected
            return int(child)
        p = residual / residual.sum()
        q[at[0]] = 0
    with np.errstate(divide="ignore"):
        return Dist(target.ids, np.log(p)[None].astype(np.float32))


def _normalised(dist: Dist) -> _Probs:
    """float64 [k]; float32 rows sum to 1 only nearly, and the residual is a difference of small numbers."""
    probs = np.exp(dist.logprob[0].astype(np.float64))
    return np.asarray(probs / probs.sum())


def _looked_up(ids: Ids, probs: _Probs, wanted: Ids) -> _Probs:
    """The probability of each wanted id, 0 for one that is not among ids."""
    order = np.argsort(ids)
    at = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)]
    return np.where(ids[at] == wanted, probs[at], 0.0)


def _drawn_from(tree: TokenTree, node: int) -> Dist:
    probs = tree.draft_probs
    if probs is None or probs.logprob[node].max() == -np.inf:
        raise BadSetting(
            "--verify rejection needs drafts drawn from probabilities, and this drafter has none; "
            "use --method model, or --verify match"
        )
    return Dist(probs.ids[node : node + 1], probs.logprob[node : node + 1])
