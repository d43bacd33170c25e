"""What benchmarks/expand.py promises: the bigger file says what the small one says."""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest
from gguf.quants import dequantize

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import expand
from expansion import PRECISIONS, SHAPES, Expansion, ExpansionError, Shape, tensor_sizes

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "edgespec" / "demo" / "demo.gguf"
N_TOKENS = 500
OWN = Shape(n_embd=384, n_layer=6, n_head=6, n_head_kv=2, head_dim=64, n_ff=1024)
WIDER = Shape(n_embd=512, n_layer=8, n_head=16, n_head_kv=4, head_dim=64, n_ff=1280)
BIGGER_HEADS = Shape(n_embd=512, n_layer=8, n_head=8, n_head_kv=4, head_dim=128, n_ff=1280)
TWICE_AS_WIDE = Shape(n_embd=768, n_layer=6, n_head=12, n_head_kv=2, head_dim=64, n_ff=2048)
Make = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def _quiet_runtime():
    @llama_cpp.llama_log_callback
    def silent(_level: int, _text: bytes, _data: object) -> None:
        return None

    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    yield
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(0), None)


@pytest.fixture(scope="module")
def make(tmp_path_factory) -> Make:
    @functools.cache
    def expanded(shape: Shape, kind: str, n_terms: int | None = None) -> Path:
        out = tmp_path_factory.mktemp("expanded") / "model.gguf"
        precision = dataclasses.replace(PRECISIONS[kind], n_terms=n_terms or PRECISIONS[kind].n_terms)
        expand.expand(DEMO, shape, precision, out)
        return out

    return expanded


@pytest.fixture(scope="module")
def exact(make: Make) -> np.ndarray:
    """Logits of the demo with nothing but its weights rewritten in f32."""
    return logits(make(OWN, "f32"))


def logits(path: Path, n_batch: int = 125) -> np.ndarray:
    """Returns the logits [N_TOKENS, n_vocab] over the development prompts; f32 KV, no flash attention."""
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), safe_model_params())
    assert model, f"{path} does not load"
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = N_TOKENS, n_batch, n_batch
    params.n_threads = params.n_threads_batch = 1  # two would spin in wait where cores are shared
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama_cpp.llama_init_from_model(model, params)
    tokens = tokenized(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(n_batch, 0, 1)
    rows = []
    for start in range(0, N_TOKENS, n_batch):
        batch.n_tokens = n_batch
        for i in range(n_batch):
            batch.token[i], batch.pos[i], batch.logits[i] = tokens[start + i], start + i, True
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        assert llama_cpp.llama_decode(context, batch) == 0
        view = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (n_batch * 8192,))
        rows.append(view.reshape(n_batch, 8192).copy())
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return np.concatenate(rows)


def safe_model_params():
    """Returns load parameters without the kernels that crash on some builds for AMX hosts."""
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = False
    return params


def tokenized(vocab) -> list[int]:
    lines = (ROOT / "benchmarks" / "data" / "prompts_dev.jsonl").read_text().splitlines()
    turns = [json.loads(line)["turns"][0][:600] for line in lines[::9]]
    text = "<|bos|>" + "".join(f"<|user|>{turn}<|end|><|assistant|>" for turn in turns)
    data = text.encode()
    buffer = (llama_cpp.llama_token * len(data))()
    n = llama_cpp.llama_tokenize(vocab, data, len(data), buffer, len(data), False, True)
    assert n >= N_TOKENS
    return buffer[:N_TOKENS]


def divergence(reference: np.ndarray, other: np.ndarray) -> float:
    """Returns the mean KL divergence in nats per token."""
    one, two = (x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in (reference, other))
    return float((np.exp(one) * (one - two)).sum(axis=1).mean())


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
    expand.expand(DEMO, WIDER, PRECISIONS["f32"], tmp_path / "out.gguf")
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
        expand.expand(DEMO, shape, PRECISIONS["f32"], tmp_path / "out.gguf")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch):
    """Half a gigabyte that looks like a model is worse than no model."""

    def broken(*_arguments: object) -> np.ndarray:
        raise OSError("disk full")

    monkeypatch.setattr(Expansion, "tensor", broken)
    with pytest.raises(OSError, match="disk full"):
        expand.expand(DEMO, WIDER, PRECISIONS["f16"], tmp_path / "out.gguf")
    assert not list(tmp_path.iterdir())


def test_command_line_explains_a_bad_source_in_one_sentence(tmp_path: Path, capsys):
    (tmp_path / "notes.gguf").write_text("not a model")
    assert expand.main([str(tmp_path / "notes.gguf"), "-o", str(tmp_path / "out.gguf")]) == 1
    assert capsys.readouterr().err.startswith("error: cannot read")


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


def assert_same_but_for_rounding(exact: np.ndarray, other: np.ndarray) -> None:
    assert divergence(exact, other) < 1e-3
    chosen = other.argmax(axis=1)
    lost = exact.max(axis=1) - exact[np.arange(len(exact)), chosen]
    assert lost.max() < 0.15
    assert (chosen == exact.argmax(axis=1)).mean() > 0.97
