"""Draw and match: walk the tree along the target's own draws (the walk of SpecExec, arXiv 2406.02532, drawn lazily).

Lossless for any tree from any drafter: every emitted token is the target's own draw at its place, and the tree only
decides how many of them one pass yields. Not covered: rejection sampling against draft probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import numpy as np

from edgespec.speculation.sampling import Noise, Process, draw
from edgespec.types import FinishReason, Ids, Rows, TokenTree, Verdict


class Judge(Protocol):
    """What says which drafted tokens hold: `verify`, or a recorded text (`along`)."""

    def __call__(
        self,
        tree: TokenTree,
        rows: Rows,
        process: Process,
        noise: Noise,
        history: Ids,
        *,
        end_ids: Collection[int],
        max_tokens: int,
    ) -> Verdict: ...


def verify(
    tree: TokenTree,
    rows: Rows,
    process: Process,
    noise: Noise,
    history: Ids,
    *,
    end_ids: Collection[int],
    max_tokens: int,
) -> Verdict:
    """The accepted path and the bonus token, cut at the first end token and at max_tokens (1 or more).

    rows: one a node of the tree, in its order. history: every id up to and with the pending token.
    """

    def drawn(node: int, tokens: Sequence[int]) -> int:
        dist = process(history, [tokens], rows.logits[node : node + 1], rows.ids)
        return draw(dist, noise, len(history) + len(tokens))

    return _walk(tree, drawn, end_ids, max_tokens)


def along(text: Sequence[int]) -> Judge:
    """A judge for which every draw is the next token of a recorded answer: real text at the real cost of a pass.

    text: ids of prompt and answer; the generation must end with it (its max_tokens is the caller's affair).
    """

    def judge(
        tree: TokenTree,
        rows: Rows,
        process: Process,
        noise: Noise,
        history: Ids,
        *,
        end_ids: Collection[int],
        max_tokens: int,
    ) -> Verdict:
        def recorded(node: int, tokens: Sequence[int]) -> int:
            return int(text[len(history) + len(tokens)])

        return _walk(tree, recorded, end_ids, max_tokens)

    return judge


def _walk(
    tree: TokenTree, next_token: Callable[[int, Sequence[int]], int], end_ids: Collection[int], max_tokens: int
) -> Verdict:
    """next_token(node, tokens): what follows `node`, reached by emitting `tokens` in this pass."""
    node, path = 0, [0]
    tokens: list[int] = []
    finish: FinishReason | None = None
    parents, drafted = tree.parent, tree.token
    while True:
        token = next_token(node, tokens)
        tokens.append(token)
        if token in end_ids:
            finish = "stop"
            break
        if len(tokens) >= max_tokens:
            finish = "length"
            break
        match = np.flatnonzero((parents == node) & (drafted == token))
        if not len(match):
            break
        node = int(match[0])
        path.append(node)
    return Verdict(tuple(path), tuple(tokens), finish)
