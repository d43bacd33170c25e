"""Draw and match: walk the tree along the target's own draws (the walk of SpecExec, arXiv 2406.02532, drawn lazily).

Lossless for any tree from any drafter: every emitted token is the target's own draw at its place, and the tree only
decides how many of them one pass yields. Not covered: rejection against draft probabilities (rejection.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

import numpy as np

from edgespec.speculation.sampling import Noise, Process, draw
from edgespec.types import FinishReason, Ids, Rows, TokenTree, Verdict

# next_token(node, tokens): what follows `node` of the tree, reached by emitting `tokens` in this pass.
NextToken: TypeAlias = Callable[[int, Sequence[int]], int]
# Where tokens come from in a pass with these rows: the target's own draws, accepted drafts, or a recorded text.
Draws: TypeAlias = Callable[[TokenTree, Rows, Process, Noise, Ids], NextToken]


def target_draws(tree: TokenTree, rows: Rows, process: Process, noise: Noise, history: Ids) -> NextToken:
    """The target's draws, from rows one a node of the tree; history: every id up to and with the pending token."""

    def drawn(node: int, tokens: Sequence[int]) -> int:
        dist = process(history, [tokens], rows.logits[node : node + 1], rows.ids)
        return draw(dist, noise, len(history) + len(tokens))

    return drawn


def recorded_draws(text: Sequence[int]) -> Draws:
    """The tokens of a recorded answer, whatever the rows say: real text at the real cost of a pass.

    text: ids of prompt and answer; the generation must end with it (its max_tokens is the caller's affair).
    """
    return lambda _tree, _rows, _process, _noise, history: lambda _node, tokens: int(text[len(history) + len(tokens)])


def verify(
    tree: TokenTree,
    rows: Rows,
    process: Process,
    noise: Noise,
    history: Ids,
    *,
    end_ids: Collection[int],
    max_tokens: int,
    draws: Draws = target_draws,
) -> Verdict:
    """The accepted path and the bonus token, cut at the first end token and at max_tokens (1 or more).

    rows: one a node of the tree, in its order. history: every id up to and with the pending token.
    """
    next_token = draws(tree, rows, process, noise, history)
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


def ranks(tree: TokenTree, verdict: Verdict) -> tuple[int, ...]:
    """For each node of the walk that had children, in order: which of them was the draw (0 is the first), or -1."""
    if len(tree) == 1:
        return ()
    parents, drafted = tree.parent.tolist(), tree.token.tolist()
    meant = (tree.draft_logprob > -np.inf).tolist()  # fillers (sizing.py) are no children
    found = []
    for node, token in zip(verdict.path, verdict.tokens, strict=True):
        children = [drafted[n] for n in range(node + 1, len(drafted)) if parents[n] == node and meant[n]]
        if children:
            found.append(children.index(token) if token in children else -1)
    return tuple(found)
