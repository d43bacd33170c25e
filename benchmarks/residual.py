"""What the residual of a small dense llama model is on average over random tokens; numpy only.

Tokens have much in common (up to 0.93 of the length, in the demo drafter): a router that sees it sends all to the same
experts.

Not covered: anything but plain rotary positions; logits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from shapes import Shape

N_TOKENS = 192


def normalised(x: np.ndarray, epsilon: float) -> np.ndarray:
    """Returns x [n_tokens, n_embd] with rows of mean square one."""
    out: np.ndarray = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + epsilon)
    return out


def turned(x: np.ndarray, base: float) -> np.ndarray:
    """Returns x [n_tokens, n_head, head_dim] with neighbouring pairs turned by position, as llama.cpp does."""
    angle = np.arange(len(x))[:, None] * base ** (-np.arange(0, x.shape[-1], 2) / x.shape[-1])
    pairs = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)[:, None]
    return np.stack([pairs.real, pairs.imag], axis=-1).reshape(x.shape).astype(np.float32)


def attention(y: np.ndarray, shape: Shape, weight: Callable[[str], np.ndarray], base: float) -> np.ndarray:
    """Returns what attention adds to the residual for its normalised input y [n_tokens, n_embd]."""
    q, k, v = ((y @ weight(f"attn_{name}").T).reshape(len(y), -1, shape.head_dim).astype(np.float32) for name in "qkv")
    q, k = turned(q, base), turned(k, base)
    k, v = (np.repeat(each, shape.n_group, axis=1) for each in (k, v))
    scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(shape.head_dim)
    scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = np.einsum("hij,jhd->ihd", scores / scores.sum(axis=-1, keepdims=True), v)
    out: np.ndarray = mixed.reshape(len(y), -1) @ weight("attn_output").T
    return out


@dataclass(frozen=True)
class Mean:
    """What a layer's normalised residual is on average, [n_embd] each, before the norm weight."""

    before_ffn: np.ndarray
    after_layer: np.ndarray


def means(shape: Shape, weight: Callable[[str], np.ndarray], epsilon: float, base: float) -> list[Mean]:
    """Returns the mean for each layer of a model of that eps and rotary base."""
    table = weight("token_embd.weight")
    x = table[np.random.default_rng(0).integers(len(table), size=N_TOKENS)]
    found = []
    for i in range(shape.n_layer):

        def of_layer(role: str, i: int = i) -> np.ndarray:
            return weight(f"blk.{i}.{role}.weight")

        x = x + attention(normalised(x, epsilon) * of_layer("attn_norm"), shape, of_layer, base)
        before = normalised(x, epsilon)
        y = before * of_layer("ffn_norm")
        gate = y @ of_layer("ffn_gate").T
        gate = gate / (1 + np.exp(-np.clip(gate, -80, None)))
        x = x + (gate * (y @ of_layer("ffn_up").T)) @ of_layer("ffn_down").T
        found.append(Mean(before.mean(axis=0), normalised(x, epsilon).mean(axis=0)))
    return found
