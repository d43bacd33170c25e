"""What of a header decides memory, on files by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgespec.errors import ModelUnusable
from edgespec.gguf.shape import Shape, read_shape
from tests.gguf.files import META, Q8_0, Value, gguf

Put = Callable[..., Path]
LLAMA: dict[str, Value] = {
    **META,
    "llama.block_count": 2,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
    "llama.feed_forward_length": 96,
}


def _table(**layers: tuple[int, int]) -> list[tuple[str, tuple[int, ...], int, int]]:
    """The embedding of three tokens and tensors of both layers by name: (row length, rows), in q8_0."""
    sizes = {"token_embd": (64, 3)} | {f"blk.{i}.{name}": size for i in range(2) for name, size in layers.items()}
    return [(f"{name}.weight", (w, h), Q8_0, w // 32 * 34 * h) for name, (w, h) in sizes.items()]


def _read(put: Put, meta: dict[str, Value] = LLAMA, **layers: tuple[int, int]) -> Shape:
    return read_shape(put(gguf(meta, _table(**(layers or {"attn_k": (64, 32), "ffn_up": (64, 96)})))))


def test_a_head_s_width_follows_from_the_embedding_where_the_file_does_not_say(put: Put) -> None:
    """Fails when models without key_length have caches of no width."""
    shape = _read(put)
    assert (shape.head_dim, shape.layers[0].k_row, shape.layers[1].v_row) == (32, 32, 32)
    assert shape.layers[0].n_ff == 96


def test_heads_may_differ_by_layer(put: Put) -> None:
    """Fails when a list of head counts is passed over: layers of such models would all count as the first."""
    meta = {k: v for k, v in LLAMA.items() if k != "llama.attention.head_count_kv"}
    shape = _read(put, {**meta, "llama.attention.head_count_kv": [1, 0]}, ffn_up=(64, 96), attn_qkv=(64, 128))
    assert [layer.k_row for layer in shape.layers] == [32, 0]


def test_a_layer_without_keys_keeps_no_cells(put: Put) -> None:
    """Fails when recurrent layers are given a cache, or no state: 3 x (64 + 2 x 1 x 16) + 16 x 64 floats."""
    ssm: dict[str, Value] = {"ssm.conv_kernel": 4, "ssm.inner_size": 64, "ssm.state_size": 16, "ssm.group_count": 1}
    meta = {**LLAMA, **{f"llama.{key}": value for key, value in ssm.items()}}
    shape = _read(put, meta, ssm_in=(64, 128))
    assert [(layer.k_row, layer.state_row) for layer in shape.layers] == [(0, 3 * 96 + 1024)] * 2


def test_latent_attention_keeps_one_compressed_row(put: Put) -> None:
    """Fails when it is worked out by heads: tens of times too much."""
    mla: dict[str, Value] = {"attention.key_length_mla": 48, "attention.kv_lora_rank": 32, "rope.dimension_count": 16}
    shape = _read(put, {**LLAMA, **{f"llama.{k}": v for k, v in mla.items()}}, attn_kv_a_mqa=(64, 48))
    assert (shape.layers[0].k_row, shape.layers[0].v_row) == (48, 0)


def test_layers_that_share_another_s_cache_have_none(put: Put) -> None:
    """Fails when the last layers of such models are counted."""
    shape = _read(put, {**LLAMA, "llama.attention.shared_kv_layers": 1})
    assert [layer.k_row for layer in shape.layers] == [32, 0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"llama.block_count": 3}, "3 layers"),
        ({"llama.block_count": 1}, "1 layers"),
        ({"llama.embedding_length": 128}, "embedding length 128"),
        ({"llama.attention.head_count_kv": 2}, "2 key heads of 32"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "2 tokens"),
    ],
)
def test_metadata_that_contradicts_the_tensors_is_refused(put: Put, changed: dict[str, Value], said: str) -> None:
    """Fails when bytes are worked out from numbers that the file itself denies."""
    with pytest.raises(ModelUnusable, match="contradicts itself") as caught:
        _read(put, {**LLAMA, **changed})
    assert said in str(caught.value)


def test_a_number_that_is_missing_is_named(put: Put) -> None:
    """Fails with a KeyError where a sentence is due."""
    with pytest.raises(ModelUnusable, match="block count"):
        _read(put, {k: v for k, v in LLAMA.items() if k != "llama.block_count"})


def test_strings_are_counted_with_those_too_long_for_an_object(put: Put) -> None:
    """Fails when a vocabulary of long texts is thought to weigh as little as one of short ones."""
    meta = {**LLAMA, "tokenizer.ggml.tokens": ["a", "b" * 15, "c" * 16], "tokenizer.ggml.merges": ["x" * 40]}
    assert _read(put, meta).tokens == (3, 1, 16)
    assert _read(put, meta).merges == (1, 1, 40)
