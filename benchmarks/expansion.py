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
- Experts: each is the source's ffn with filler of its own, and llama.cpp makes the chosen ones' weights sum to
  one, so any routing gives the source's output. The router is random, but does not see what all tokens have in
  common (residual.py), or most would go to the same experts.
- Added tokens (marker.py): two residual columns hold a constant that tells the head rows of added tokens from
  those of the source's.
- Every value that cannot reach the output is random (seeded), with the spread of the source's tensor.

Not covered: biases, scaled rotary positions, sources that are mixtures of experts.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from marker import Marker
from residual import Mean
from shapes import BLOCK, ExpansionError, Precision, Shape, tensor_sizes


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


def place(source: Shape, target: Shape, n_terms: int, n_reserved: int = 0) -> Places:
    """Returns where the source goes in the target; raises ExpansionError where something does not fit.

    n_reserved columns of the residual are kept free at its end.
    """
    if target.n_head % target.n_head_kv:
        raise ExpansionError(f"{target.n_head} heads do not divide into {target.n_head_kv} KV groups")
    n_copies = math.ceil(n_terms * source.n_group / target.n_group)  # of a KV head, to serve its query heads
    check_fit(source, target, n_terms, n_copies, n_reserved)

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


def check_fit(source: Shape, target: Shape, n_terms: int, n_copies: int, n_reserved: int) -> None:
    """Raises ExpansionError, with both numbers, for the first size that cannot hold the source."""
    needs = {
        "n_embd": n_terms * source.n_embd + n_reserved,
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
    """One expanded model, made tensor by tensor; weight(name) gives the source's tensors as float32.

    A marker is needed where tensors of the vocabulary are asked for with more rows than the source's, and
    residual.means of the source where the target has experts.
    """

    def __init__(
        self,
        source: Shape,
        weight: Callable[[str], np.ndarray],
        target: Shape,
        precision: Precision,
        seed: int = 0,
        marker: Marker | None = None,
        means: Sequence[Mean] = (),
    ) -> None:
        self.source, self.target, self.precision = source, target, precision
        self.weight, self.seed, self.marker = weight, seed, marker
        self.means = means
        self.places = place(source, target, precision.n_terms, BLOCK if marker else 0)
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
        if name == "output.weight":
            return self.head(size, rng)
        if name == "output_norm.weight":
            out = self.norm(self.weight(name), self.places.embd, rng)
            out[self.places.embd[1:]] = 0  # the tied head would count every copy
            if self.marker:
                self.marker.into_output_norm(out)
            return out
        _, layer, role, _ = name.split(".")
        real = int(layer) in self.places.layer
        like = self.places.layer.index(int(layer)) if real else int(layer) % self.source.n_layer
        role = role.removesuffix("_exps")
        if role == "ffn_gate_inp":
            return self.router(int(layer), self.weight(f"blk.{like}.ffn_norm.weight"), size, rng)
        weight = self.weight(f"blk.{like}.{role}.weight")
        if role in ("attn_norm", "ffn_norm"):
            out = self.norm(weight, self.places.embd if real else self.places.embd[:0], rng)
            if self.marker:
                self.marker.out_of_norm(out)
            return out
        out = self.filler(role, weight, size, rng)
        if real:
            self.lay(role, weight, out)
        return out

    def like(self, name: str) -> str:
        """The tensor of the first layer that only passes on what it gets, for one of another such layer; else name."""
        kind, _, rest = name.partition(".")
        layer, _, role = rest.partition(".")
        if kind != "blk" or int(layer) in self.places.layer:
            return name
        first = next(i for i in range(self.target.n_layer) if i not in self.places.layer)
        return f"blk.{first}.{role}"

    def embedding(self, size: tuple[int, ...]) -> np.ndarray:
        """Returns the embedding, in every copy of the residual; the rest is zero and has to be."""
        table, weight = np.zeros(size, np.float32), self.weight("token_embd.weight")
        like = np.arange(len(table)) % len(weight)  # an added token repeats a source's
        for columns in self.places.embd:
            table[:, columns] = weight[like]
        if self.marker:
            self.marker.into_embedding(table, len(weight), self.source.tied)
        return table

    def head(self, size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Returns the head of an untied model: its columns for what is no first copy meet zeros and are random."""
        weight = self.weight("output.weight")
        table = self.filler("output", weight, size, rng)
        table[:, self.places.embd[0]] = weight[np.arange(len(table)) % len(weight)]
        if self.marker:
            self.marker.into_head(table, len(weight))
        return table

    def router(self, layer: int, norm: np.ndarray, size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Returns a random router for a layer with that norm weight: logits spread by about one, around zero."""
        out = rng.standard_normal(size, np.float32)
        out /= np.linalg.norm(norm) * math.sqrt(self.precision.n_terms)
        last = sum(place <= layer for place in self.places.layer) - 1  # the last of the source's layers so far
        mean = self.means[last].before_ffn if layer in self.places.layer else self.means[last].after_layer
        common = mean * norm
        for columns in self.places.embd:
            out[:, columns] -= np.outer(out[:, columns] @ common, common) / (common @ common)
        return out

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
        """Lays a source matrix over the filler, in every expert; every output copy reads term i from input copy i."""
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
                out[(..., *np.ix_(row, into))] = term


def split(weight: np.ndarray, precision: Precision) -> list[np.ndarray]:
    """Returns n_terms matrices that sum to weight, each but the last exact in the precision's matrix kind."""
    terms: list[np.ndarray] = []
    for _ in range(precision.n_terms - 1):
        terms.append(dequantize(quantize(weight, precision.matrix), precision.matrix))
        weight = weight - terms[-1]
    return [*terms, weight]
