"""A mixture of experts made of a dense model: same output, while text is routed to many experts."""

import dataclasses
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import expand
from expansion import Expansion
from shapes import PRECISIONS, SHAPES, ExpansionError, Shape

from tests.benchmarks.expanded import (
    DRAFT,
    DRAFT_OWN,
    OWN,
    Make,
    assert_same_but_for_rounding,
    chosen_experts,
    logits,
)

SMALL = Shape(n_embd=288, n_layer=4, n_head=8, n_head_kv=2, head_dim=64, n_ff=800, n_expert=12, n_expert_used=4)


@pytest.fixture(scope="module")
def exact(make: Make) -> np.ndarray:
    return logits(make(DRAFT_OWN, "f32", source=DRAFT))


def test_output_is_the_sources(make: Make, exact: np.ndarray):
    """Fails if an expert lacks a part of the ffn, or the chosen experts' weights do not sum to one."""
    assert np.abs(logits(make(SMALL, "f32", source=DRAFT)) - exact).max() <= 1e-4


def test_one_wrong_expert_would_be_noticed(tmp_path: Path, exact: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    """Guards the test above: were the broken expert never chosen, equal output would prove nothing."""
    lay = Expansion.lay

    def without_the_last(self: Expansion, role: str, weight: np.ndarray, out: np.ndarray) -> None:
        lay(self, role, weight, out[:-1] if role == "ffn_down" else out)

    monkeypatch.setattr(Expansion, "lay", without_the_last)
    expand.expand(expand.Source(DRAFT), SMALL, PRECISIONS["f32"], tmp_path / "out.gguf")
    assert np.abs(logits(tmp_path / "out.gguf") - exact).max() > 0.1


def test_text_routes_to_many_experts_in_every_layer(make: Make):
    """A constant choice would cost what a dense model costs: four experts' weights a batch, whatever its length."""
    for layer in chosen_experts(make(SMALL, "f32", source=DRAFT), SMALL):
        assert_routed(layer, SMALL)


def test_experts_differ_where_the_output_cannot_tell(make: Make):
    """Experts that are alike byte for byte could be stored or cached once."""
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(make(SMALL, "f32", source=DRAFT)).tensors}
    for layer in range(SMALL.n_layer):
        for role in ("ffn_gate_exps", "ffn_up_exps"):
            experts = tensors[f"blk.{layer}.{role}.weight"]
            assert len({expert.tobytes() for expert in experts}) == SMALL.n_expert
            assert np.count_nonzero(experts) > 0.95 * experts.size


def test_a_mixture_is_refused_as_a_source(make: Make):
    """Its tensors are not the dense model's, so the recipe would have no ffn to lay."""
    with pytest.raises(ExpansionError, match=r"no plain dense llama model, see its tensor blk\.0\.ffn"):
        expand.Source(make(SMALL, "f32", source=DRAFT))


def assert_routed(chosen: np.ndarray, shape: Shape) -> None:
    """Asserts of one layer's choices [n_tokens, n_expert_used] that most experts serve, as if half shared evenly."""
    share = np.bincount(chosen.ravel(), minlength=shape.n_expert) / chosen.size
    assert (share > 0).mean() > 0.75
    served = share[share > 0]
    assert np.exp(-(served * np.log(served)).sum()) > 0.5 * shape.n_expert


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
def test_the_moe_shape_says_what_the_demo_says(make: Make, kind: str):
    """All 32 experts at the real width, with seven layers to save time and disk."""
    shape = dataclasses.replace(SHAPES["moe"], n_layer=7)
    path = make(shape, kind)
    assert_same_but_for_rounding(logits(make(OWN, "f32")), logits(path))
    for layer in chosen_experts(path, shape):
        assert_routed(layer, shape)
