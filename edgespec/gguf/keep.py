"""Which rows of a head a trimmed drafter keeps: those that must stay, then the tokens that came up most often.

Source: VocabTrim (arXiv 2506.22694, section 3): the k most frequent tokens of what the target says. An answer cannot be
drafted to its end, through numbers or through bytes of rare letters, without the tokens of `always_kept`.
Coverage is that of text which was not counted: each counted token is left out in turn, and must be kept by the others
alone. A share of the counted text itself would promise too much: every token seen once would count as foreseen.
Not covered: where counts come from.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gguf.constants import TokenType
from numpy.typing import NDArray

from edgespec.errors import BadSetting
from edgespec.gguf.vocabulary import Vocabulary
from edgespec.types import Ids

# Weights are rearranged in whole groups of 8 rows, others are left as they lie (ggml/src/ggml-cpu/repack.cpp).
GROUP = 8
_KINDS = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.BYTE)
_DIGITS = frozenset(b"0123456789")
# Texts that llama.cpp takes for ends whatever their type says (src/llama-vocab.cpp, special_eog_ids).
_ENDS = frozenset(
    """
    <|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|>
    <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> [e~[
    <｜end▁of▁sentence｜>
    """.encode().split()
)

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Kept:
    """ids int32 [k], ascending; coverage: share of like text that they are expected to be, None where nothing was
    counted; follows: whether the choice was left to what pays, so that it may be made anew (retrimming.py)."""

    ids: Ids
    coverage: float | None
    follows: bool = False


def always_kept(vocabulary: Vocabulary) -> Ids:
    """Tokens that end or steer an answer (control and user-defined ones, every id that metadata names), line breaks,
    digits, and single bytes; ascending."""
    kept = set(np.flatnonzero(np.isin(vocabulary.types, _KINDS)).tolist()) | set(vocabulary.named.values())
    for token, piece in enumerate(vocabulary.pieces):
        if vocabulary.types[token] != TokenType.NORMAL:
            continue
        bare = piece.strip(b" ")
        digit, breaks = len(bare) == 1 and bare[0] in _DIGITS, piece and not piece.strip(b"\r\n")
        if piece in _ENDS or len(piece) == 1 or digit or breaks:
            kept.add(token)
    return np.array(sorted(kept), np.int32)


def keep_number(vocabulary: Vocabulary, counts: Counts, k: int) -> Kept:
    """k rows, in whole groups; raises BadSetting for more than there are, or fewer than must stay."""
    must = always_kept(vocabulary)
    if k > len(vocabulary):
        raise BadSetting(f"--keep {k} is more than the {len(vocabulary)} tokens of the vocabulary; keep fewer")
    if k < len(must):
        raise BadSetting(
            f"--keep {k} is less than the {len(must)} tokens that must stay (control tokens, line breaks, digits, "
            f"bytes); keep {len(must)} or more"
        )
    return _first(_ordered(must, counts), _whole_groups(k, len(vocabulary)), must, counts)


def keep_coverage(vocabulary: Vocabulary, counts: Counts, coverage: float) -> Kept:
    """As few rows as are expected to make up that share of like text, in whole groups; raises BadSetting for a share
    outside 0..1, or where nothing was counted."""
    check_share(coverage)
    if not counts.any():
        raise BadSetting("--coverage needs counts, and 0 tokens were counted; give a text, prompts or a counts file")
    must = always_kept(vocabulary)
    order = _ordered(must, counts)
    every = range(len(must), len(vocabulary) + 1)
    k = every[bisect_left(every, coverage, key=lambda n: _expected(order, n, must, counts) + 1e-12)]
    return _first(order, _whole_groups(k, len(vocabulary)), must, counts)


def check_share(coverage: float) -> None:
    """Raises BadSetting for one outside 0..1."""
    if not 0 < coverage <= 1:
        raise BadSetting(f"--coverage is {coverage:g} but must be above 0 and at most 1; 0.995 is usual")


def keep_named(vocabulary: Vocabulary, counts: Counts, ids: Ids) -> Kept:
    """The ids that the user names and those that must stay, filled up to whole groups by counts; raises BadSetting for
    an id outside the vocabulary."""
    outside = ids[(ids < 0) | (ids >= len(vocabulary))]
    if len(outside):
        raise BadSetting(f"--ids names token {outside[0]}, but the vocabulary has {len(vocabulary)}; correct the file")
    must = np.union1d(always_kept(vocabulary), ids).astype(np.int32)
    return _first(_ordered(must, counts), _whole_groups(len(must), len(vocabulary)), must, counts)


def expected_coverage(vocabulary: Vocabulary, counts: Counts) -> Callable[[int], float]:
    """Share of like text that the k rows kept by these counts would be, for any k from what must stay up to all."""
    must = always_kept(vocabulary)
    order = _ordered(must, counts)
    return lambda k: _expected(order, k, must, counts)


def foreseen(vocabulary: Vocabulary, counts: Counts, k: int, tokens: Ids) -> float:
    """Share of some of the counted tokens that would be among the k rows if each had not been counted itself."""
    must = always_kept(vocabulary)
    of = np.bincount(tokens, minlength=len(counts))
    return _expected(_ordered(must, counts), _whole_groups(k, len(vocabulary)), must, counts, of)


def check_counts(vocabulary: Vocabulary, counts: Counts, whose: str) -> None:
    """Raises BadSetting for counts of another vocabulary."""
    if len(counts) != len(vocabulary):
        raise BadSetting(
            f"{whose} counts tokens of a vocabulary of {len(counts)}, but the drafter's has {len(vocabulary)}; "
            "count with a model of the same family"
        )


def _whole_groups(k: int, n_vocab: int) -> int:
    return min(-(-k // GROUP) * GROUP, n_vocab)


def _ordered(must: Ids, counts: Counts) -> NDArray[np.int64]:
    """Every id: those that must stay, then by count, equal ones by lower id, which tokenizers learnt earlier."""
    rank = counts.astype(np.float64).copy()
    rank[must] = np.inf
    return np.argsort(-rank, kind="stable")


def _first(order: NDArray[np.int64], k: int, must: Ids, counts: Counts) -> Kept:
    return Kept(np.sort(order[:k]).astype(np.int32), _expected(order, k, must, counts) if counts.any() else None)


def _expected(order: NDArray[np.int64], k: int, must: Ids, counts: Counts, of: Counts | None = None) -> float:
    """Share of the counted tokens (`of` them, None: all) that would be among the first k if they had been counted once
    less each."""
    of = counts if of is None else of
    if k == len(order):
        return 1.0
    kept, rival = order[:k], order[k]
    left, bar = counts[kept] - 1, counts[rival]
    stays = (left > bar) | ((left == bar) & (kept < rival)) | np.isin(kept, must)
    return float(of[kept[stays]].sum() / of.sum())
