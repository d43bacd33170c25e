"""What benchmarks/expand.py promises: the bigger file says what the small one says."""

import dataclasses
import json
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import expand
from expansion import Expansion
from shapes import PRECISIONS, SHAPES, ExpansionError, Shape, tensor_sizes

from tests.benchmarks.expanded import (
    DEMO,
    OWN,
    WIDER,
    Make,
    assert_same_but_for_rounding,
    divergence,
    logits,
)

BIGGER_HEADS = Shape(n_embd=512, n_layer=8, n_head=8, n_head_kv=4, head_dim=128, n_ff=1280)
TWICE_AS_WIDE = Shape(n_embd=768, n_layer=6, n_head=12, n_head_kv=2, head_dim=64, n_ff=2048)


@pytest.fixture(scope="module")
def exact(make: Make) -> np.ndarray:
    """Logits of the demo with nothing but its weights rewritten in f32."""
    return logits(make(OWN, "f32"))


def test_own_shape_in_f32_is_the_source_itself(make: Make):
    """The other tests compare with this file, so it must not share a mistake with the files they check."""
    old, new = gguf.GGUFReader(DEMO), gguf.GGUFReader(make(OWN, "f32"))
    assert [tensor.name for tensor in new.tensors] == [tensor.name for tensor in old.tensors]
    for one, other in zip(old.tensors, new.tensors, strict=True):
        assert np.array_equal(dequantize(one.data, one.tensor_type), other.data), one.name
    epsilon = "llama.attention.layer_norm_rms_epsilon"
    assert new.fields[epsilon].contents() == old.fields[epsilon].contents()


@pytest.mark.parametrize(("shape", "bound"), [(WIDER, 1e-4), (BIGGER_HEADS, 1e-3)])
def test_output_is_the_sources(make: Make, exact: np.ndarray, shape: Shape, bound: float):
    """Fails if a scale, head, rotary pair or row is misplaced; bigger heads turn with other rounding."""
    assert np.abs(logits(make(shape, "f32")) - exact).max() <= bound


def test_comparison_notices_a_scale_that_is_off_by_a_thousandth(
    tmp_path: Path, exact: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    """Guards the test above: a bound that nothing can break would prove nothing."""
    norm = Expansion.norm
    monkeypatch.setattr(Expansion, "norm", lambda *arguments: norm(*arguments) * np.float32(1.001))
    expand.expand(expand.Source(DEMO), WIDER, PRECISIONS["f32"], tmp_path / "out.gguf")
    assert np.abs(logits(tmp_path / "out.gguf") - exact).max() > 1e-3


def test_q8_0_keeps_the_sources_blocks(make: Make):
    """At the source's own shape rewriting q8_0 as q8_0 must not round a second time."""
    assert np.array_equal(logits(make(OWN, "q8_0")), logits(DEMO))


def test_q4_0_needs_the_residual_twice_to_say_the_same(make: Make, exact: np.ndarray):
    """Fails if the second term does not restore what rounding to four bits took away."""
    assert divergence(exact, logits(make(TWICE_AS_WIDE, "q4_0"))) < 1e-3
    assert divergence(exact, logits(make(TWICE_AS_WIDE, "q4_0", n_terms=1))) > 1e-2


def test_readers_have_no_zeros_and_writers_none_but_needed(make: Make):
    """A file of zeros would load and pass every test above, and could be cheaper than the real thing."""
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(make(WIDER, "f32")).tensors}
    for name, size in tensor_sizes(WIDER, 8192):
        if not any(role in name for role in ("attn_output", "ffn_down", "token_embd")):
            assert np.count_nonzero(tensors[name]) > 0.95 * np.prod(size), name
    assert np.count_nonzero(tensors["blk.0.ffn_down.weight"]) > 0.95 * OWN.n_embd * OWN.n_ff


def test_metadata_is_the_sources_but_for_the_sizes(make: Make):
    """Tokenizer and chat template are what makes prompts the same prompts."""
    old, new = (gguf.GGUFReader(path).fields for path in (DEMO, make(WIDER, "f32")))
    changed = {key for key in old if old[key].contents() != new[key].contents()} - {"GGUF.kv_count"}
    sizes = {"embedding_length", "block_count", "feed_forward_length", "attention.head_count"}
    sizes |= {"attention.head_count_kv", "attention.layer_norm_rms_epsilon"}
    general = {"general.name", "general.description", "general.file_type", "GGUF.tensor_count"}
    assert changed == general | {f"llama.{key}" for key in sizes}
    assert new["llama.attention.head_count_kv"].contents() == WIDER.n_head_kv


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_embd": 352}, "n_embd 352 but the source needs 384"),
        ({"n_head": 4}, "n_head_kv 4 but the source needs 6"),
        ({"head_dim": 96}, "head_dim 96 is no multiple of the source's 64"),
    ],
)
def test_a_shape_that_cannot_hold_the_source_is_refused(tmp_path: Path, changes: dict, sentence: str):
    """A silent truncation would still load; four groups of one head have no room for two groups of three."""
    with pytest.raises(ExpansionError, match=sentence):
        shape = dataclasses.replace(WIDER, **changes)
        expand.expand(expand.Source(DEMO), shape, PRECISIONS["f32"], tmp_path / "out.gguf")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch):
    """Half a gigabyte that looks like a model is worse than no model."""

    def broken(*_arguments: object) -> np.ndarray:
        raise OSError("disk full")

    monkeypatch.setattr(Expansion, "tensor", broken)
    with pytest.raises(OSError, match="disk full"):
        expand.expand(expand.Source(DEMO), WIDER, PRECISIONS["f16"], tmp_path / "out.gguf")
    assert not list(tmp_path.iterdir())


def test_command_line_explains_a_bad_source_in_one_sentence(tmp_path: Path, capsys):
    (tmp_path / "notes.gguf").write_text("not a model")
    assert expand.main([str(tmp_path / "notes.gguf"), "-o", str(tmp_path / "out.gguf")]) == 1
    assert capsys.readouterr().err.startswith("error: cannot read")


def write_untied(path: Path) -> None:
    """Writes the demo in f32 with a head of its own, which is not its embedding."""
    source = expand.Source(DEMO)
    writer = gguf.GGUFWriter(path, "llama")
    expand.add_metadata(writer, source, {"general.file_type": (0, gguf.GGUFValueType.UINT32)})
    for name in source.tensors:
        writer.add_tensor(name, source.weight(name))
    rolled = np.roll(source.weight("token_embd.weight"), 5, axis=0)
    writer.add_tensor("output.weight", rolled * np.linspace(0.5, 1.5, len(rolled), dtype=np.float32)[:, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_head_of_its_own_stays_the_head(make: Make, tmp_path: Path):
    """Fails if the embedding is taken for the head, or the filler of the head's other columns meets a value."""
    write_untied(tmp_path / "untied.gguf")
    wide = logits(make(WIDER, "f32", source=tmp_path / "untied.gguf", n_vocab=9000))
    assert np.abs(wide[:, :8192] - logits(tmp_path / "untied.gguf")).max() <= 1e-4
    assert (wide[:, :8192].max(axis=1) - wide[:, 8192:].max(axis=1)).min() > 50


def test_command_line_prints_one_json_object(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    """Other benchmarks read the last line."""
    monkeypatch.setitem(SHAPES, "1b", WIDER)
    out = tmp_path / "out.gguf"
    assert expand.main([str(DEMO), "--shape", "1b", "--type", "f16", "-o", str(out)]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (printed["file"], printed["bytes"]) == (str(out), out.stat().st_size)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["f16", "q4_0"])
def test_1b_says_what_the_demo_says(make: Make, exact: np.ndarray, kind: str):
    """The file the benchmarks use; rounding to f16 or to two times four bits moves near ties only."""
    assert_same_but_for_rounding(exact, logits(make(SHAPES["1b"], kind)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["0.5b", "3b", "8b"])
def test_other_shapes_say_what_the_demo_says(make: Make, exact: np.ndarray, name: str):
    """Widths of the real models, with seven layers to save time and disk; 3b and 8b have doubled heads."""
    shape = dataclasses.replace(SHAPES[name], n_layer=7)
    assert_same_but_for_rounding(exact, logits(make(shape, "q8_0")))


def test_several_processes_write_the_same_file(tmp_path: Path):
    """Fails when tensors come in another order or from another seed."""
    source, files = expand.Source(DEMO), [tmp_path / "one.gguf", tmp_path / "two.gguf"]
    for n_jobs, file in enumerate(files, 1):
        expand.expand(source, WIDER, PRECISIONS["q8_0"], file, n_jobs=n_jobs)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_layers_that_pass_on_may_be_alike(tmp_path: Path, exact: np.ndarray):
    """Fails when a layer of the source is taken for one that only passes on, or they still differ."""
    file = tmp_path / "alike.gguf"
    expand.expand(expand.Source(DEMO), WIDER, PRECISIONS["f32"], file, alike=True)
    assert np.abs(logits(file) - exact).max() <= 1e-4
    up = {t.name: t.data for t in gguf.GGUFReader(file).tensors if "ffn_up" in t.name}
    places = Expansion(OWN, expand.Source(DEMO).weight, WIDER, PRECISIONS["f32"]).places
    passing = [up[f"blk.{i}.ffn_up.weight"] for i in range(WIDER.n_layer) if i not in places.layer]
    assert len(passing) == 2
    assert np.array_equal(*passing)
