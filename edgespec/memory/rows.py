"""How many rows of a drafter's head pay: more are read for every draft, fewer end drafts early.

A chain of d drafts gives tau(k) = (1 - a^(d+1)) / (1 - a) tokens a pass with a = agreement * coverage(k), and costs one
pass of the target and d of the drafter, whose cost is its share of the target's bytes: VocabTrim's MBSU (arXiv
2506.22694, eq. 3) with bytes instead of parameters, since a decoding step takes as long as what it reads.
Not covered: arithmetic-bound machines, where bytes are not what a step costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgespec.gguf.shape import Shape

# Drafts of a chain, for the choice of k; deeper ones make missing rows dearer, shallower ones cheaper.
DEPTH = 4
# Rows that are tried: this many to each doubling, from the fewest there may be up to all.
_STEPS = 4


@dataclass(frozen=True)
class Bytes:
    """What a step reads: of the target (of a mixture the experts that serve a token), of the drafter without its head,
    of one row of its head."""

    target: int
    body: int
    row: int


def sizes_of(target: Shape, draft: Shape) -> Bytes:
    """Of a drafter, whole or trimmed; its embedding is read as a head or, a row at a time, hardly at all."""
    head = next((t for t in draft.head if t.name == "output.weight"), draft.embedding)
    body = draft.weight_bytes - sum(t.n_bytes for t in (draft.embedding, *draft.head))
    idle = target.expert_bytes * (1 - target.n_expert_used / target.n_expert) if target.n_expert else 0
    return Bytes(target.weight_bytes - round(idle), body, head.n_bytes // head.shape[1])


def goodput(k: int, coverage: float, sizes: Bytes, agreement: float, depth: int) -> float:
    """Tokens in the time of a target's pass with k rows in the head."""
    a = agreement * coverage
    tokens = sum(a**i for i in range(depth + 1))
    return tokens / (1 + depth * (sizes.body + k * sizes.row) / sizes.target)


def best_rows(
    least: int, n_vocab: int, coverage: Callable[[int], float], sizes: Bytes, agreement: float, depth: int
) -> int:
    """The k of `candidates` with the best goodput; of equal ones the smallest.

    coverage: share of like text that the k best rows are expected to be; agreement: chance that a draft of the whole
    head is the target's draw.
    """
    tried = candidates(least, n_vocab)
    return max(tried, key=lambda k: goodput(k, coverage(k), sizes, agreement, depth))


def best_for(target: Shape, draft: Shape, least: int, coverage: Callable[[int], float], agreement: float) -> int:
    """The same under a target of which that is known; draft: whole, or trimmed from the whole."""
    n_vocab = draft.n_whole_vocab or draft.n_vocab
    return best_rows(least, n_vocab, coverage, sizes_of(target, draft), agreement, DEPTH)


def candidates(least: int, n_vocab: int) -> Sequence[int]:
    """Ascending: `least`, all, and _STEPS a doubling between them, in groups of 8."""
    n = max(round(_STEPS * np.log2(n_vocab / least)), 1)
    between = (round(least * 2 ** (i / _STEPS) / 8) * 8 for i in range(1, n))
    return sorted({least, *(k for k in between if least < k < n_vocab), n_vocab})
