"""What of a model's file decides its memory: tensors by place, cache rows by layer, the vocabulary's size.

Read from the header alone and for any architecture: which layers attend and which carry a recurrent state is told by
their tensors, and the widths by metadata under the architecture's own prefix. Not covered: what a runtime adds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgespec.errors import ModelUnusable
from edgespec.gguf.header import Header, Number, Tensor, Value
from edgespec.gguf.inspect import headers
from edgespec.gguf.trimmed import kept_ids, read_trim

_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
_ATTENDS = ("attn_k.weight", "attn_qkv.weight", "attn_kv_a_mqa.weight")
_INPUT = ("per_layer_token_embd.",)
_RECURS = ("ssm_", "time_mix_", "shortconv")
# What the compute buffer's formula knows (memory/graph.py): attention with one cache, then a gated feed-forward.
_DENSE = frozenset({"llama", "qwen2", "mistral", "smollm3", "internlm2", "exaone"})
_LLAMA_LAYER = frozenset(
    f"{name}.weight"
    for name in ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
)


@dataclass(frozen=True)
class Layer:
    """One repeating layer.

    k_row, v_row  elements a cached token takes in keys and values, 0 where the layer keeps none
    state_row     float32 elements a conversation takes, whatever its length (recurrent layers)
    n_ff          width of the feed-forward part, 0 where experts serve it or it has none
    """

    tensors: tuple[Tensor, ...]
    k_row: int
    v_row: int
    state_row: int
    n_ff: int


@dataclass(frozen=True)
class Shape:
    """A model, all parts of its file together.

    head            tensors that turn the last state into logits; () of a model tied to its embedding
    input           further tensors of the input side, which stay on the processor (src/llama-arch.cpp: LAYER_INPUT)
    rest            tensors of no layer that are neither embedding nor head nor input
    strings         (number, of them long, bytes of the long ones) of the tokenizer's tokens and of its merges
    n_vocab         rows of the head: what a pass returns logits of
    n_whole_vocab   tokens of the vocabulary that a trimmed drafter's rows were cut from; None: not trimmed
    n_expert        experts of a layer, n_expert_used of which serve a token; 0 of a dense model
    llama_like      the compute buffer has a formula
    """

    architecture: str
    n_embd: int
    n_head: int
    head_dim: int
    n_vocab: int
    n_ctx_train: int | None
    layers: tuple[Layer, ...]
    embedding: Tensor
    input: tuple[Tensor, ...]
    head: tuple[Tensor, ...]
    rest: tuple[Tensor, ...]
    tokens: tuple[int, int, int]
    merges: tuple[int, int, int]
    llama_like: bool
    n_expert: int = 0
    n_expert_used: int = 0
    n_whole_vocab: int | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (
            self.embedding,
            *self.input,
            *self.head,
            *self.rest,
            *(t for layer in self.layers for t in layer.tensors),
        )

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def expert_bytes(self) -> int:
        return sum(t.n_bytes for layer in self.layers for t in layer.tensors if "_exps." in t.name)

    @property
    def tied(self) -> bool:
        """The head is the embedding."""
        return not any(t.name == "output.weight" for t in self.head)

    @property
    def recurrent(self) -> bool:
        """Its state cannot drop part of what it read."""
        return any(layer.state_row for layer in self.layers)


def read_shape(path: Path) -> Shape:
    """Raises what inspect raises, and ModelUnusable where the metadata contradicts the tensors."""
    return shape_of(path, headers(path))


def shape_of(path: Path, parts: Mapping[Path, Header]) -> Shape:
    header = next(iter(parts.values()))
    tensors = {t.name: t for part in parts.values() for t in part.tensors}
    facts = _Facts(path, str(header.metadata["general.architecture"]), header.metadata, header.arrays)
    n_layer = facts.number("block_count")
    by_layer: list[list[Tensor]] = [[] for _ in range(n_layer)]
    rest = []
    for tensor in tensors.values():
        found = _LAYER.match(tensor.name)
        if found is None:
            rest.append(tensor)
        elif int(found[1]) < n_layer:
            by_layer[int(found[1])].append(tensor)
        else:
            raise facts.contradicts(f"{n_layer} layers", f"tensor {tensor.name[:60]}")
    missing = next((i for i, own in enumerate(by_layer) if not own), None)
    if missing is not None:
        raise facts.contradicts(f"{n_layer} layers", f"no tensor of layer {missing}")
    embedding = tensors["token_embd.weight"]
    facts.check("embedding_length", embedding, 0)
    trim = read_trim(path, header.metadata)
    n_vocab = len(kept_ids(path, header, trim.n_vocab)) if trim else header.lengths.get("tokenizer.ggml.tokens", 0)
    if len(embedding.shape) != 2 or embedding.shape[1] != n_vocab:
        raise facts.contradicts(f"{n_vocab} tokens", f"{embedding.name} of shape {list(embedding.shape)}")
    layers = tuple(_layer(facts, i, own) for i, own in enumerate(by_layer))
    return Shape(
        architecture=facts.architecture,
        n_embd=facts.number("embedding_length"),
        n_head=facts.of_layer("attention.head_count", 0, 0),
        head_dim=facts.head_dim("key_length"),
        n_vocab=n_vocab,
        n_ctx_train=facts.number("context_length", 0) or None,
        layers=layers,
        embedding=embedding,
        head=tuple(t for t in rest if t.name.startswith("output.")),
        input=tuple(t for t in rest if t.name.startswith(_INPUT)),
        rest=tuple(t for t in rest if not t.name.startswith(("output.", "token_embd.", *_INPUT))),
        tokens=_strings(header, "tokenizer.ggml.tokens"),
        merges=_strings(header, "tokenizer.ggml.merges"),
        n_expert=facts.number("expert_count", 0),
        n_expert_used=facts.of_layer("expert_used_count", 0, 0),
        llama_like=facts.architecture in _DENSE and all(_is_llama_like(layer) for layer in layers),
        n_whole_vocab=trim.n_vocab if trim else None,
    )


@dataclass(frozen=True)
class _Facts:
    """Metadata under the architecture's prefix; raises ModelUnusable where a number is missing or is none."""

    path: Path
    architecture: str
    metadata: Mapping[str, Value]
    arrays: Mapping[str, tuple[Number, ...]]

    def number(self, key: str, default: int | None = None) -> int:
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
            raise ModelUnusable(
                f"{self.path} does not say its {key.replace('_', ' ')} ({self.architecture}.{key} is {value!r}); "
                "download it again, or get another file of the model"
            )
        return value

    def of_layer(self, key: str, layer: int, default: int) -> int:
        """A figure that the file gives once or for each layer."""
        values = self.arrays.get(f"{self.architecture}.{key}")
        if values is None:
            return self.number(key, default)
        value = values[layer] if layer < len(values) else None
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.contradicts(f"{len(values)} values of {key}", f"layer {layer}")
        return value

    def head_dim(self, key: str) -> int:
        """Width of an attention head; n_embd / n_head where the file does not say (llama-model.cpp, load_hparams)."""
        n_head = self.of_layer("attention.head_count", 0, 0)
        return self.number(f"attention.{key}", self.number("embedding_length") // n_head if n_head else 0)

    def check(self, key: str, tensor: Tensor, axis: int) -> None:
        if tensor.shape[axis] != self.number(key):
            said = f"{key.replace('_', ' ')} {self.number(key)}"
            raise self.contradicts(said, f"{tensor.name} of shape {list(tensor.shape)}")

    def contradicts(self, said: str, found: str) -> ModelUnusable:
        return ModelUnusable(
            f"{self.path} contradicts itself: its metadata says {said}, its tensor table has {found}; "
            "download it again, or get another file of the model"
        )


def _layer(facts: _Facts, index: int, tensors: list[Tensor]) -> Layer:
    names = {t.name.split(".", 2)[2]: t for t in tensors}
    k_row, v_row = _cache_rows(facts, index, names)
    up = names.get("ffn_up.weight")
    recurs = any(name.startswith(_RECURS) for name in names)
    return Layer(tuple(tensors), k_row, v_row, _state_row(facts) if recurs else 0, up.shape[1] if up else 0)


def _cache_rows(facts: _Facts, layer: int, names: Mapping[str, Tensor]) -> tuple[int, int]:
    """Source: src/llama-hparams.cpp, n_embd_k_gqa, has_kv, is_mla; src/llama-kv-cache.cpp."""
    # Layers that only predict further ahead are in the file and in no cache (src/llama-model.cpp, create_memory).
    shared = facts.number("attention.shared_kv_layers", 0) + facts.number("nextn_predict_layers", 0)
    own = facts.number("block_count") - shared
    if not any(name in names for name in _ATTENDS) or layer >= own:
        return 0, 0
    # A lightning indexer keeps keys of its own (src/llama-kv-cache-dsa.cpp).
    index = facts.number("attention.indexer.key_length", 0) if any(n.startswith("indexer") for n in names) else 0
    if facts.number("attention.key_length_mla", 0):  # latent attention: one compressed row serves keys and values
        return facts.number("attention.kv_lora_rank") + facts.number("rope.dimension_count") + index, 0
    n_head_kv = facts.of_layer("attention.head_count_kv", layer, facts.of_layer("attention.head_count", layer, 0))
    windowed = _is_windowed(facts, layer)
    k_dim, v_dim = (
        facts.number(f"attention.{key}_swa", facts.head_dim(key)) if windowed else facts.head_dim(key)
        for key in ("key_length", "value_length")
    )
    key = names.get("attn_k.weight")
    if key is not None and key.shape[1] != n_head_kv * k_dim:
        raise facts.contradicts(f"{n_head_kv} key heads of {k_dim}", f"{key.name} of shape {list(key.shape)}")
    return n_head_kv * k_dim + index, n_head_kv * v_dim


def _is_windowed(facts: _Facts, index: int) -> bool:
    pattern = facts.arrays.get(f"{facts.architecture}.attention.sliding_window_pattern", ())
    return bool(pattern[index]) if index < len(pattern) else False


def _state_row(facts: _Facts) -> int:
    """Source: src/llama-hparams.cpp, n_embd_r and n_embd_s."""
    n_embd = facts.number("embedding_length")
    if head := facts.number("wkv.head_size", 0):
        return facts.number("token_shift_count", 2) * n_embd + n_embd * head
    if cached := facts.number("shortconv.l_cache", 0):
        return n_embd * (cached - 1)
    if head := facts.number("kda.head_dim", 0):
        n_head = facts.of_layer("attention.head_count", 0, 0)
        return 3 * (facts.number("ssm.conv_kernel", 4) - 1) * n_head * head + head * head * n_head
    inner, state = facts.number("ssm.inner_size", 0), facts.number("ssm.state_size", 0)
    groups, kernel = facts.number("ssm.group_count", 0), facts.number("ssm.conv_kernel", 1)
    return max(kernel - 1, 0) * (inner + 2 * groups * state) + state * inner


def _is_llama_like(layer: Layer) -> bool:
    names = {t.name.split(".", 2)[2] for t in layer.tensors}
    return {n for n in names if n.endswith(".weight")} - {"rope_freqs.weight"} == _LLAMA_LAYER


def _strings(header: Header, key: str) -> tuple[int, int, int]:
    return (header.lengths.get(key, 0), *header.long_strings.get(key, (0, 0)))
