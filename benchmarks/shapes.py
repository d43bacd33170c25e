"""Sizes of llama models: named public shapes, their tensors, and how a file stores them."""

from collections.abc import Iterator
from dataclasses import dataclass

from gguf import GGMLQuantizationType as Kind

BLOCK = 32  # weights that share one scale in q8_0 and q4_0
MAX_VOCAB = 152_064  # tokens of the largest public vocabulary that is imitated, Qwen2.5-7B


class ExpansionError(ValueError):
    """The source or the wanted shape cannot be expanded exactly; the message says what is in the way."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a llama model; head_dim is the width of one head, keys and values alike.

    n_expert 0 is a dense model; else n_ff is the width of one expert, of which n_expert_used serve a token.
    A tied model's embedding is its output head.
    """

    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int
    n_expert: int = 0
    n_expert_used: int = 0
    tied: bool = True

    @property
    def n_group(self) -> int:
        """Query heads that share one KV head."""
        return self.n_head // self.n_head_kv


SHAPES = {
    "0.5b": Shape(n_embd=896, n_layer=24, n_head=14, n_head_kv=2, head_dim=64, n_ff=4864),  # Qwen2.5-0.5B
    "1b": Shape(n_embd=2048, n_layer=16, n_head=32, n_head_kv=8, head_dim=64, n_ff=8192),  # Llama-3.2-1B
    "3b": Shape(n_embd=3072, n_layer=28, n_head=24, n_head_kv=8, head_dim=128, n_ff=8192),  # Llama-3.2-3B
    "8b": Shape(n_embd=4096, n_layer=32, n_head=32, n_head_kv=8, head_dim=128, n_ff=14336),  # Llama-3.1-8B
    "32b": Shape(n_embd=5120, n_layer=64, n_head=64, n_head_kv=8, head_dim=128, n_ff=25600),  # Qwen3-32B
    # granite-3.0-1b-a400m (24 layers, 8 of 32 experts of 512) with experts wide enough for the demo in q4_0: half the
    # layers and four active experts of 2048 multiply as many expert weights a token, out of twice as many in the file
    "moe": Shape(n_embd=1024, n_layer=12, n_head=16, n_head_kv=8, head_dim=64, n_ff=2048, n_expert=32, n_expert_used=4),
}


@dataclass(frozen=True)
class Precision:
    """How a file stores its matrices (norms and routers: f32); file_type is llama.cpp's number for the mixture."""

    matrix: Kind
    embedding: Kind
    file_type: int
    n_terms: int

    def kind(self, name: str) -> Kind:
        """Returns how the tensor of that name is stored."""
        if "norm" in name or "ffn_gate_inp" in name:
            return Kind.F32
        return self.embedding if name in ("token_embd.weight", "output.weight") else self.matrix


PRECISIONS = {
    "f32": Precision(Kind.F32, Kind.F32, file_type=0, n_terms=1),
    "f16": Precision(Kind.F16, Kind.F16, file_type=1, n_terms=1),
    "q8_0": Precision(Kind.Q8_0, Kind.Q8_0, file_type=7, n_terms=1),
    # llama.cpp's own q4_0 files keep tied embeddings in q6_K, which gguf-py cannot write
    "q4_0": Precision(Kind.Q4_0, Kind.Q8_0, file_type=2, n_terms=2),
}


def tensor_sizes(shape: Shape, n_vocab: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields name and size, [n_out, n_in], [n] or [n_expert, n_out, n_in], of each tensor, in file order."""
    n_query, n_kv = shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
    yield "token_embd.weight", (n_vocab, shape.n_embd)
    yield "output_norm.weight", (shape.n_embd,)
    if not shape.tied:
        yield "output.weight", (n_vocab, shape.n_embd)
    experts, suffix = ((shape.n_expert,), "_exps") if shape.n_expert else ((), "")
    for i in range(shape.n_layer):
        yield f"blk.{i}.attn_norm.weight", (shape.n_embd,)
        yield f"blk.{i}.ffn_norm.weight", (shape.n_embd,)
        yield f"blk.{i}.attn_q.weight", (n_query, shape.n_embd)
        yield f"blk.{i}.attn_k.weight", (n_kv, shape.n_embd)
        yield f"blk.{i}.attn_v.weight", (n_kv, shape.n_embd)
        yield f"blk.{i}.attn_output.weight", (shape.n_embd, n_query)
        if experts:
            yield f"blk.{i}.ffn_gate_inp.weight", (shape.n_expert, shape.n_embd)
        yield f"blk.{i}.ffn_gate{suffix}.weight", (*experts, shape.n_ff, shape.n_embd)
        yield f"blk.{i}.ffn_up{suffix}.weight", (*experts, shape.n_ff, shape.n_embd)
        yield f"blk.{i}.ffn_down{suffix}.weight", (*experts, shape.n_embd, shape.n_ff)


def smallest(source: Shape, precision: Precision, padded: bool) -> Shape:
    """Returns the least shape that holds the source: its own, times n_terms, with a block for added tokens."""
    n_terms = precision.n_terms
    return Shape(
        n_embd=n_terms * source.n_embd + (BLOCK if padded else 0),
        n_layer=source.n_layer,
        n_head=n_terms * source.n_head,
        n_head_kv=source.n_head_kv,
        head_dim=source.head_dim,
        n_ff=n_terms * source.n_ff,
        tied=source.tied,
    )
