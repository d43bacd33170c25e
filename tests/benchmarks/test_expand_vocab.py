"""A padded vocabulary: the source's tokens keep their logits, the added ones never come near."""

import ctypes
import dataclasses
import json
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import expand
import marker
from shapes import BLOCK, PRECISIONS, SHAPES, ExpansionError, Shape, smallest

from tests.benchmarks.expanded import (
    DEMO,
    DRAFT,
    DRAFT_OWN,
    N_TOKENS,
    OWN,
    WIDER,
    Make,
    assert_same_but_for_rounding,
    divergence,
    loaded,
    logits,
    prompts,
    tokenized,
)

N_SOURCE, N_VOCAB = 8192, 10_000


def lead(padded: np.ndarray) -> np.ndarray:
    """Returns by how many nats the best token leads the best added one, for each position."""
    return padded.max(axis=1) - padded[:, N_SOURCE:].max(axis=1)


@pytest.fixture(scope="module")
def plain(make: Make) -> np.ndarray:
    return logits(make(WIDER, "f32"))


@pytest.fixture(scope="module")
def padded(make: Make) -> np.ndarray:
    return logits(make(WIDER, "f32", n_vocab=N_VOCAB))


def test_the_sources_tokens_keep_their_logits(plain: np.ndarray, padded: np.ndarray):
    """Fails if eps does not make up for the constant or a tied row counts it."""
    assert padded.shape == (N_TOKENS, N_VOCAB)
    assert np.abs(padded[:, :N_SOURCE] - plain).max() <= 1e-4
    assert (padded.argmax(axis=1) == plain.argmax(axis=1)).all()


def test_added_tokens_trail_by_far_more_than_sampling_can_reach(padded: np.ndarray):
    """At e^-50 all of them together weigh nothing beside one token; an infinite logit would spoil sums over all."""
    assert lead(padded).min() > 50
    assert lead(padded).max() < np.finfo(np.float16).max


def test_eps_that_ignores_the_constant_would_be_noticed(plain: np.ndarray, tmp_path: Path, monkeypatch):
    """Guards the first test: the constant is small, so a bound that forgives leaving eps alone would prove nothing."""
    mark = marker.mark
    monkeypatch.setattr(expand, "mark", lambda *sizes: dataclasses.replace(mark(*sizes), mean_square=0.0))
    expand.expand(expand.Source(DEMO), WIDER, PRECISIONS["f32"], tmp_path / "out.gguf", n_vocab=N_SOURCE + 1)
    assert np.abs(logits(tmp_path / "out.gguf")[:, :N_SOURCE] - plain).max() > 1e-4


def test_no_text_becomes_an_added_token(make: Make):
    """The prompts must stay the same prompts, even one that spells an added token's name."""
    text = prompts() + " [PAD8192] [PAD9999][PAD9000]\n<0x00>"
    with loaded(make(WIDER, "f32")) as plain, loaded(make(WIDER, "f32", n_vocab=N_VOCAB)) as padded:
        one, other = (tokenized(llama_cpp.llama_model_get_vocab(each.model), text) for each in (plain, padded))
    assert one == other


def test_added_tokens_print_as_nothing(make: Make):
    """A stray one must not break a reply."""
    with loaded(make(WIDER, "f32", n_vocab=N_VOCAB)) as model:
        vocab = llama_cpp.llama_model_get_vocab(model.model)
        buffer = ctypes.create_string_buffer(64)
        assert llama_cpp.llama_token_to_piece(vocab, N_VOCAB - 1, buffer, len(buffer), 0, False) == 0
        assert not llama_cpp.llama_vocab_is_eog(vocab, N_VOCAB - 1)


def test_same_makes_a_drafter_with_the_targets_vocabulary(make: Make, tmp_path: Path, capsys):
    """Target and drafter must agree on every token; the drafter's cost must stay its own but for one block."""
    out = tmp_path / "drafter.gguf"
    options = ["--shape", "same", "--type", "q8_0", "--vocab", str(N_VOCAB), "-o", str(out)]
    assert expand.main([str(DRAFT), *options]) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == f"same-q8_0-v{N_VOCAB}"
    target, drafter = (gguf.GGUFReader(path).fields for path in (make(WIDER, "f32", n_vocab=N_VOCAB), out))
    for key in ("tokens", "token_type", "merges"):
        assert target[f"tokenizer.ggml.{key}"].contents() == drafter[f"tokenizer.ggml.{key}"].contents()
    assert expand.Source(out).shape == dataclasses.replace(DRAFT_OWN, n_embd=DRAFT_OWN.n_embd + BLOCK)
    padded = logits(out)
    assert_same_but_for_rounding(logits(DRAFT), padded[:, :N_SOURCE])
    assert lead(padded).min() > 50


def test_same_without_added_tokens_is_the_sources_shape_and_twice_that_in_q4_0():
    """A wider drafter would cost more than the one that was trained."""
    assert smallest(OWN, PRECISIONS["f16"], padded=False) == OWN
    assert smallest(OWN, PRECISIONS["q4_0"], padded=True) == Shape(768 + BLOCK, 6, 12, 2, 64, 2048)


def test_scores_grow_with_the_tokens(tmp_path: Path):
    """llama.cpp refuses a file whose scores are fewer than its tokens; the demo has none, other tokenizers do."""
    source = expand.Source(DEMO)
    source.fields = {**source.fields, "tokenizer.ggml.scores": source.fields["tokenizer.ggml.token_type"]}
    scores, kind = expand.added_tokens(source, N_VOCAB)["tokenizer.ggml.scores"]
    assert (len(scores), scores[-1], kind) == (N_VOCAB, -10_000.0, gguf.GGUFValueType.ARRAY)


@pytest.mark.parametrize(
    ("shape", "n_vocab", "sentence"),
    [
        (OWN, 9000, "n_embd 384 but the source needs 416"),
        (WIDER, 8191, "8191 tokens are not between the source's 8192 and 152064"),
        (WIDER, 152065, "152065 tokens are not between the source's 8192 and 152064"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path: Path, shape: Shape, n_vocab: int, sentence: str):
    """Dropped tokens would change what the model can say; without free columns nothing could hold added ones back."""
    with pytest.raises(ExpansionError, match=sentence):
        expand.expand(expand.Source(DEMO), shape, PRECISIONS["f32"], tmp_path / "out.gguf", n_vocab=n_vocab)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
def test_the_largest_vocabulary_at_a_real_width(make: Make, kind: str):
    """Qwen2.5-0.5B's shape and vocabulary, with seven layers to save time and disk."""
    shape = dataclasses.replace(SHAPES["0.5b"], n_layer=7)
    padded, exact = logits(make(shape, kind, n_vocab=expand.MAX_VOCAB)), logits(make(OWN, "f32"))
    assert_same_but_for_rounding(exact, padded[:, :N_SOURCE])
    assert lead(padded).min() > 50
    assert divergence(exact, padded[:, :N_SOURCE]) < 5e-4
