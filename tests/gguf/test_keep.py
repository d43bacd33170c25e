"""Which rows of a head are kept."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import TokenType

from edgespec.errors import BadSetting
from edgespec.gguf.keep import always_kept, check_counts, foreseen, keep_coverage, keep_named, keep_number
from edgespec.gguf.vocabulary import Vocabulary
from tests.cut import DEMO, DRAFT, vocabulary_of

NORMAL, CONTROL, USER, BYTE, UNUSED = (
    int(TokenType[name]) for name in ("NORMAL", "CONTROL", "USER_DEFINED", "BYTE", "UNUSED")
)
WORDS = [
    (b"word", NORMAL), (b"<|end|>", CONTROL), (b"\n\n", NORMAL), (b"7", NORMAL), (b" 8", NORMAL), (b"78", NORMAL),
    (b"\xc3", NORMAL), (b"<0x0A>", BYTE), (b"<tool>", USER), (b"1", UNUSED), (b"eos", NORMAL), (b" ", NORMAL),
    *((f"w{i}".encode(), NORMAL) for i in range(40)),
]  # fmt: skip
MUST = [1, 2, 3, 4, 6, 7, 8, 10, 11]
SMALL = Vocabulary(
    [w for w, _ in WORDS], np.array([t for _, t in WORDS], np.int32), {"tokenizer.ggml.eos_token_id": 10}
)
NONE = np.zeros(len(WORDS), np.int64)


def counted(**by_id: int) -> np.ndarray:
    counts = NONE.copy()
    for name, n in by_id.items():
        counts[int(name[1:])] = n
    return counts


def test_what_ends_and_steers_an_answer_stays() -> None:
    """Fails when an end, a line break, a digit or a byte could not be drafted; padding and numbers need not stay."""
    assert always_kept(SMALL).tolist() == MUST


def test_texts_that_the_runtime_takes_for_ends_stay() -> None:
    """Fails when a model whose file calls its end a normal token could never draft it."""
    pieces = [*SMALL.pieces, b"<|im_end|>", b"<|im_start|>"]
    types = np.append(SMALL.types, [NORMAL, NORMAL]).astype(np.int32)
    assert always_kept(Vocabulary(pieces, types, SMALL.named)).tolist() == [*MUST, len(SMALL)]


def test_the_demos_bytes_and_control_tokens_stay() -> None:
    """Fails when GPT-2's letters for bytes, or the types of tokens, are misread in a real file."""
    vocabulary = vocabulary_of(DRAFT)
    kept = set(always_kept(vocabulary).tolist())
    assert {vocabulary.pieces[t] for t in kept} >= {bytes([b]) for b in range(256)}
    assert {vocabulary.pieces[t] for t in kept} >= {b"<|end|>", b"<|user|>", b"<|bos|>"}
    assert vocabulary.named["tokenizer.ggml.eos_token_id"] in kept
    assert len(kept) < 400


def test_the_most_frequent_tokens_fill_the_rest_and_ties_go_to_the_earlier() -> None:
    """Fails when a frequent token is left out for a rare one, or ids do not ascend."""
    kept = keep_number(SMALL, counted(_20=5, _0=1, _30=9), 16)
    assert kept.ids.tolist() == sorted([*MUST, 30, 20, 0, 5, 9, 12, 13])
    assert kept.coverage == 1.0
    assert keep_number(SMALL, NONE, 16).ids.tolist() == sorted([*MUST, 0, 5, 9, 12, 13, 14, 15])
    assert keep_number(SMALL, NONE, 16).coverage is None


def test_rows_come_in_whole_groups_of_8() -> None:
    """Fails when a head has a broken group: the runtime leaves such a head as it lies, whole heads it rearranges."""
    assert [len(keep_number(SMALL, NONE, k).ids) for k in (9, 16, 17, 51)] == [16, 16, 24, 52]


def test_coverage_keeps_as_few_as_reach_it_in_whole_groups() -> None:
    """Fails when the tokens that must stay do not count, or k is no multiple of 8."""
    counts = counted(_1=90, _40=6, _41=3, _42=1)
    kept = keep_coverage(SMALL, counts, 0.96)
    assert len(kept.ids) == 16  # 9 that must stay and one more, in groups of 8
    assert {40, 41, 42} <= set(kept.ids.tolist())  # the group's others are the next frequent ones
    falling = np.arange(len(WORDS), 0, -1, dtype=np.int64)
    falling[MUST] = 0
    sizes = [len(keep_coverage(SMALL, falling, share).ids) for share in (0.01, 0.3, 0.6, 0.9, 1.0)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (16, len(WORDS))


def test_coverage_is_that_of_text_that_was_not_counted() -> None:
    """Fails when a token that came up once counts as foreseen: of unlike text of that size it would be missing.

    By hand: without its one occurrence token 42 falls behind token 13, the first that is not kept.
    """
    assert keep_coverage(SMALL, counted(_1=90, _40=6, _41=3, _42=1), 0.96).coverage == 0.99
    once = np.ones(len(WORDS), np.int64)
    assert keep_number(SMALL, once, 40).coverage == len(MUST) / len(WORDS)
    assert keep_number(SMALL, once, len(WORDS)).coverage == 1.0


def test_what_was_said_lately_is_foreseen_by_the_rest_alone() -> None:
    """Fails when a token that came up once is called foreseen because it was counted."""
    counts = counted(_20=5, _30=9, _40=1, _41=1)
    assert foreseen(SMALL, counts, 16, np.array([20, 30], np.int32)) == 1.0
    assert foreseen(SMALL, counts, 16, np.array([20, 41, 41, 1], np.int32)) == 0.5


def test_named_ids_stay_beside_those_that_must() -> None:
    """Fails when a file of ids can take the end of an answer away."""
    kept = keep_named(SMALL, counted(_50=2), np.array([33, 34], np.int32))
    assert set(kept.ids.tolist()) >= {*MUST, 33, 34, 50}
    assert len(kept.ids) == 16


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        (lambda: keep_number(SMALL, NONE, 53), "--keep 53 is more than the 52 tokens"),
        (lambda: keep_number(SMALL, NONE, 8), "--keep 8 is less than the 9 tokens that must stay"),
        (lambda: keep_coverage(SMALL, NONE, 0.9), "0 tokens were counted"),
        (lambda: keep_coverage(SMALL, counted(_1=1), 1.5), "--coverage is 1.5 but must be above 0 and at most 1"),
        (lambda: keep_coverage(SMALL, counted(_1=1), float("nan")), "--coverage is nan"),
        (lambda: keep_named(SMALL, NONE, np.array([52], np.int32)), "--ids names token 52"),
        (lambda: check_counts(SMALL, NONE[:9], "counts.json"), "vocabulary of 9, but the drafter's has 52"),
    ],
)
def test_a_choice_that_cannot_be(keep, says: str) -> None:
    """Fails when a head without an end token, or rows that are not there, would be cut."""
    with pytest.raises(BadSetting, match=says):
        keep()


def test_a_sentencepiece_vocabulary_is_read_as_text(tmp_path) -> None:
    """Fails when its spaces are not seen as such: ' 7' would not count as a digit."""
    from tests.gguf.files import META, WEIGHTS, gguf

    words = ["\u2581", "\u25817", "<0x0A>"]
    path = tmp_path / "spm.gguf"
    meta = {**META, "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": words}
    path.write_bytes(gguf({**meta, "tokenizer.ggml.token_type": [1, 1, 6]}, WEIGHTS))
    assert vocabulary_of(path).pieces == [b" ", b" 7", b"<0x0A>"]
    assert always_kept(vocabulary_of(path)).tolist() == [0, 1, 2]


def test_demo_and_its_drafter_have_one_vocabulary() -> None:
    """Fails when pieces depend on anything but the tokenizer."""
    assert vocabulary_of(DEMO / "demo.gguf").pieces == vocabulary_of(DRAFT).pieces
