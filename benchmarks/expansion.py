"""Tensors of a small llama model in the shape of a bigger one, with unchanged output; numpy only.

- Residual: the source's rows come first, every other row stays exactly zero (embeddings and the writers
  attn_output and ffn_down have zeros there). RMSNorm then sees a mean smaller by d/D: weight times sqrt(d/D),
  eps times d/D.
- Layers: the source's are spread evenly; an added one is the identity, since its writers are zero.
- Query heads of a KV group are spread over the target's groups, a KV head being repeated where a group is too
  small for all of them; the columns of attn_output that added heads feed are zero.
- Head size times r: rotary pair k moves to pair r*k, which turns at the same rate; queries times sqrt(r); the
  keys of the new pairs are zero; the values of the new dimensions meet zero columns.
- Four bits: rounding once would change what the model says. There the residual holds the source twice
  (n_terms = 2): the first copy meets the rounded weights, the second the rounded rest, and the sum is good to
  about eight bits.
- Every value that cannot reach the output is random (seeded), with the spread of the source's tensor.

Not covered: biases, scaled rotary positions, separate output heads (the vocabulary and its tied embedding
stay the source's, so the head is cheaper than the real model's), mixtures of experts (each expert a copy of the
ffn with its own filler and a random router would do: the chosen experts' weights sum to one).
"""

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize

BLOCK = 32  # weights that share one scale in q8_0 and q4_0


class ExpansionError(ValueError):
    """The source or the wanted shape cannot be expanded exactly; the message says what is in the way."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a dense llama model; head_dim is the width of one head, keys and values alike."""

    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int

    @property
    def n_group(self) -> int:
        """Query heads that share one KV head."""
        return self.n_head // self.n_head_kv


SHAPES = {
    "0.5b": Shape(n_embd=896, n_layer=24, n_head=14, n_head_kv=2, head_dim=64, n_ff=4864),  # Qwen2.5-0.5B
    "1b": Shape(n_embd=2048, n_layer=16, n_head=32, n_head_kv=8, head_dim=64, n_ff=8192),  # Llama-3.2-1B
    "3b": Shape(n_embd=3072, n_layer=28, n_head=24, n_head_kv=8, head_dim=128, n_ff=8192),  # Llama-3.2-3B
    "8b": Shape(n_embd=4096, n_layer=32, n_head=32, n_head_kv=8, head_dim=128, n_ff=14336),  # Llama-3.1-8B
}


@dataclass(frozen=True)
class Precision:
    """How a file stores its matrices (norms: always f32); file_type is llama.cpp's number for the mixture."""

    matrix: Kind
    embedding: Kind
    file_type: int
    n_terms: int


PRECISIONS = {
    "f32": Precision(Kind.F32, Kind.F32, file_type=0, n_terms=1),
    "f16": Precision(Kind.F16, Kind.F16, file_type=1, n_terms=1),
    "q8_0": Precision(Kind.Q8_0, Kind.Q8_0, file_type=7, n_terms=1),
    # llama.cpp's own q4_0 files keep tied embeddings in q6_K, which gguf-py cannot write
    "q4_0": Precision(Kind.Q4_0, Kind.Q8_0, file_type=2, n_terms=2),
}


def tensor_sizes(shape: Shape, n_vocab: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields name and size, [n_out, n_in] or [n], of each tensor of a tied dense llama, in file order."""
    n_query, n_kv = shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
    yield "token_embd.weight", (n_vocab, shape.n_embd)
    yield "output_norm.weight", (shape.n_embd,)
    for i in range(shape.n_layer):
        yield f"blk.{i}.attn_norm.weight", (shape.n_embd,)
        yield f"blk.{i}.ffn_norm.weight", (shape.n_embd,)
        yield f"blk.{i}.attn_q.weight", (n_query, shape.n_embd)
        yield f"blk.{i}.attn_k.weight", (n_kv, shape.n_embd)
        yield f"blk.{i}.attn_v.weight", (n_kv, shape.n_embd)
        yield f"blk.{i}.attn_output.weight", (shape.n_embd, n_query)
        yield f"blk.{i}.ffn_gate.weight", (shape.n_ff, shape.n_embd)
        yield f"blk.{i}.ffn_up.weight", (shape.n_ff, shape.n_embd)
        yield f"blk.{i}.ffn_down.weight", (shape.n_embd, shape.n_ff)


@dataclass(frozen=True)
class Places:
    """Where each source index lives in the target: int arrays [n_copies, n_source], a row for each copy."""

    layer: tuple[int, ...]  # target layer of each source layer
    embd: np.ndarray
    ff: np.ndarray
    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    mixed: np.ndarray  # inputs of attn_output: what each query head made of the values


def place(source: Shape, target: Shape, n_terms: int) -> Places:
    """Returns where the source goes in the target; raises ExpansionError where something does not fit."""
    if target.n_head % target.n_head_kv:
        raise ExpansionError(f"{target.n_head} heads do not divide into {target.n_head_kv} KV groups")
    n_copies = math.ceil(n_terms * source.n_group / target.n_group)  # of a KV head, to serve its query heads
    check_fit(source, target, n_terms, n_copies)

    ratio, within = target.head_dim // source.head_dim, np.arange(source.head_dim)
    rotary = within // 2 * 2 * ratio + within % 2
    kv_head = np.arange(source.n_head_kv) * n_copies + np.arange(n_copies)[:, None]
    term, head = np.arange(n_terms)[:, None], np.arange(source.n_head)
    nth = term * source.n_group + head % source.n_group  # among the query heads that its KV head serves
    serving = head // source.n_group * n_copies + nth // target.n_group
    query_head = serving * target.n_group + nth % target.n_group

    def rows(heads: np.ndarray, dims: np.ndarray) -> np.ndarray:
        index: np.ndarray = heads[..., None] * target.head_dim + dims
        return index.reshape(len(heads), -1)

    return Places(
        layer=tuple(i * target.n_layer // source.n_layer for i in range(source.n_layer)),
        embd=term * source.n_embd + np.arange(source.n_embd),
        ff=term * source.n_ff + np.arange(source.n_ff),
        query=rows(query_head, rotary),
        key=rows(kv_head, rotary),
        value=rows(kv_head, within),
        mixed=rows(query_head, within),
    )


def check_fit(source: Shape, target: Shape, n_terms: int, n_copies: int) -> None:
    """Raises ExpansionError, with both numbers, for the first size that cannot hold the source."""
    needs = {
        "n_embd": n_terms * source.n_embd,
        "n_layer": source.n_layer,
        "n_head_kv": n_copies * source.n_head_kv,
        "n_ff": n_terms * source.n_ff,
    }
    for name, needed in needs.items():
        if getattr(target, name) < needed:
            raise ExpansionError(f"the target has {name} {getattr(target, name)} but the source needs {needed}")
    if target.head_dim % source.head_dim:
        raise ExpansionError(f"head_dim {target.head_dim} is no multiple of the source's {source.head_dim}")


class Expansion:
    """One expanded model, made tensor by tensor; weight(name) gives the source's tensors as float32."""

    def __init__(
        self,
        source: Shape,
        weight: Callable[[str], np.ndarray],
        target: Shape,
        precision: Precision,
        seed: int = 0,
    ) -> None:
        self.source, self.target, self.precision = source, target, precision
        self.weight, self.seed = weight, seed
        self.places = place(source, target, precision.n_terms)
        self.shrink = precision.n_terms * source.n_embd / target.n_embd  # of the residual's mean square
        if precision.matrix in (Kind.Q8_0, Kind.Q4_0):
            lengths = {size[-1] for shape in (source, target) for _, size in tensor_sizes(shape, BLOCK)}
            if odd := sorted(n for n in lengths | {source.head_dim} if n % BLOCK):
                raise ExpansionError(f"{precision.matrix.name.lower()} rows of {odd[0]} are no whole blocks of {BLOCK}")

    def tensor(self, name: str, size: tuple[int, ...]) -> np.ndarray:
        """Returns the target's tensor of that name and size as float32."""
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        if name == "token_embd.weight":
            return self.embedding(size)
        if name == "output_norm.weight":
            out = self.norm(self.weight(name), self.places.embd, rng)
            out[self.places.embd[1:]] = 0  # the tied head would count every copy
            return out
        _, layer, role, _ = name.split(".")
        real = int(layer) in self.places.layer
        like = self.places.layer.index(int(layer)) if real else int(layer) % self.source.n_layer
        weight = self.weight(f"blk.{like}.{role}.weight")
        if role in ("attn_norm", "ffn_norm"):
            return self.norm(weight, self.places.embd if real else self.places.embd[:0], rng)
        out = self.filler(role, weight, size, rng)
        if real:
            self.lay(role, weight, out)
        return out

    def embedding(self, size: tuple[int, ...]) -> np.ndarray:
        """Returns the embedding, in every copy of the residual; the rest is zero and has to be."""
        table = np.zeros(size, np.float32)
        for columns in self.places.embd:
            table[:, columns] = self.weight("token_embd.weight")
        return table

    def norm(self, weight: np.ndarray, copies: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns a norm weight: the source's, scaled, at the copies and random elsewhere."""
        weight = weight * np.float32(math.sqrt(self.shrink))
        out: np.ndarray = (weight.mean() * rng.uniform(0.5, 1.5, self.target.n_embd)).astype(np.float32)
        out[copies] = weight
        return out

    def filler(self, role: str, weight: np.ndarray, size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Returns what an identity layer holds: zero for writers into the residual, random for all others."""
        if role in ("attn_output", "ffn_down"):
            return np.zeros(size, np.float32)
        out = rng.standard_normal(size, np.float32)
        out *= weight.std()
        return out

    def lay(self, role: str, weight: np.ndarray, out: np.ndarray) -> None:
        """Lays a source matrix over the filler; every output copy reads term i from input copy i."""
        places = self.places
        rows, columns = {
            "attn_q": (places.query, places.embd),
            "attn_k": (places.key, places.embd),
            "attn_v": (places.value, places.embd),
            "attn_output": (places.embd, places.mixed),
            "ffn_gate": (places.ff, places.embd),
            "ffn_up": (places.ff, places.embd),
            "ffn_down": (places.embd, places.ff),
        }[role]
        if role == "attn_q":
            weight = weight * np.float32(math.sqrt(self.target.head_dim / self.source.head_dim))
        if role == "attn_k":  # pairs that only the larger head has must not score
            dims = np.unique(rows // self.target.head_dim)[:, None] * self.target.head_dim
            dims = dims + np.arange(self.target.head_dim)
            out[np.ix_(np.setdiff1d(dims, rows), columns.ravel())] = 0
        for term, into in zip(split(weight, self.precision), columns, strict=True):
            for row in rows:
                out[np.ix_(row, into)] = term


def split(weight: np.ndarray, precision: Precision) -> list[np.ndarray]:
    """Returns n_terms matrices that sum to weight, each but the last exact in the precision's matrix kind."""
    terms: list[np.ndarray] = []
    for _ in range(precision.n_terms - 1):
        terms.append(dequantize(quantize(weight, precision.matrix), precision.matrix))
        weight = weight - terms[-1]
    return [*terms, weight]
