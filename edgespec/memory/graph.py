"""The tensors of a llama-like model's pass, as memory/arena.py takes them.

Node for node what src/models/llama.cpp builds with flash attention and src/llama-graph.cpp puts around it
(build_inp_embd, build_attn_inp_kv, build_attn, build_attn_mha): order and views decide what can be written over. A
quantised cache adds rotations of queries, keys, values and results. Not covered: other architectures, attention
without the fused kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgespec.gguf.shape import Layer, Shape
from edgespec.memory.arena import Node, peak_bytes

_FLOAT = 4
# Widest Hadamard block that a cache is rotated by (src/llama-kv-cache.cpp, build_input_k_rot): values always by 64.
_V_ROTATION = 64


@dataclass(frozen=True)
class Pass:
    """n_tokens in a pass behind n_cells of cache, n_rows of them with logits."""

    n_tokens: int
    n_cells: int
    n_rows: int
    kv_quantised: bool


def compute_bytes(shape: Shape, widest: Pass) -> int:
    """Bytes of the compute buffer for a model with shape.llama_like; within 2 % of the runtime's in all cases tried
    (benchmarks/results/predict.json)."""
    n, head_dim = widest.n_tokens, shape.head_dim
    rotated = widest.kv_quantised and head_dim % 64 == 0
    inputs = [("tokens", 4 * n), ("embeddings", _FLOAT * shape.n_embd * n), ("positions", 4 * n)]
    if rotated:
        inputs += [("k_rotation", _FLOAT * _k_rotation(head_dim) ** 2), ("v_rotation", _FLOAT * _V_ROTATION**2)]
    inputs += [("k_cells", 8 * n), ("v_cells", 8 * n), ("mask", 2 * widest.n_cells * n), ("row_ids", 4 * widest.n_rows)]
    build = _Build(shape, widest, rotated)
    state = build.op("embedded", shape.n_embd, n, "tokens")
    for i, layer in enumerate(shape.layers):
        state = build.layer(i, layer, state, last=i == len(shape.layers) - 1)
    state = build.norm("final", state, widest.n_rows)
    build.op("logits", shape.n_vocab, widest.n_rows, state)
    return peak_bytes(inputs, build.nodes)


def _k_rotation(head_dim: int) -> int:
    """The largest 64 * 2^k that divides the head's width."""
    size = 64
    while head_dim % (2 * size) == 0:
        size *= 2
    return size


@dataclass
class _Build:
    """Appends nodes and returns their names; width is in float32 elements a row."""

    shape: Shape
    widest: Pass
    rotated: bool
    nodes: list[Node] = field(default_factory=list)
    _owner: dict[str, str] = field(default_factory=dict)
    _bytes: dict[str, int] = field(default_factory=dict)

    def op(self, name: str, width: int, n_rows: int, *reads: str, in_place: bool = False) -> str:
        self._bytes[name] = _FLOAT * width * n_rows
        self.nodes.append(Node(name, self._bytes[name], reads, in_place))
        return name

    def view(self, name: str, of: str) -> str:
        self._owner[name] = owner = self._owner.get(of, of)
        self._bytes[name] = self._bytes[of]
        self.nodes.append(Node(name, self._bytes[of], (of,), view_of=owner))
        return name

    def norm(self, name: str, state: str, n_rows: int) -> str:
        width = self.shape.n_embd
        self.op(f"{name} norm", width, n_rows, state, in_place=True)
        return self.op(f"{name} scaled", width, n_rows, f"{name} norm", in_place=True)

    def layer(self, index: int, layer: Layer, state: str, last: bool) -> str:
        """The state behind the layer; in the last one only rows with logits are carried on."""
        n, width = self.widest.n_tokens, self.shape.n_embd
        made = self._attention(f"{index}", layer, state)
        if last:
            n = self.widest.n_rows
            made = self.op(f"{index} attended rows", width, n, made, "row_ids")
            state = self.op(f"{index} state rows", width, n, state, "row_ids")
        state = self.op(f"{index} middle", width, n, made, state, in_place=True)
        normed = self.norm(f"{index} ffn", state, n)
        gate = self.op(f"{index} gate", layer.n_ff, n, normed)
        up = self.op(f"{index} up", layer.n_ff, n, normed)
        glu = self.op(f"{index} glu", layer.n_ff, n, gate, up)
        down = self.op(f"{index} down", width, n, glu)
        return self.op(f"{index} out", width, n, down, state, in_place=True)

    def _attention(self, index: str, layer: Layer, state: str) -> str:
        n, q_width = self.widest.n_tokens, self.shape.n_head * self.shape.head_dim
        normed = self.norm(f"{index} attn", state, n)
        query = self._projected(f"{index} q", q_width, normed, turned=True, rotation="k_rotation")
        value = self._projected(f"{index} v", layer.v_row, normed, turned=False, rotation="v_rotation")
        key = self._projected(f"{index} k", layer.k_row, normed, turned=True, rotation="k_rotation")
        for name, row, cells in (("k", key, "k_cells"), ("v", value, "v_cells")):
            self.op(f"{index} {name} stored", 0, n, self.view(f"{index} {name} row", row), cells)
        shown = self.view(f"{index} q shown", self.view(f"{index} q split", query))
        made = self.op(f"{index} attention", q_width, n, shown, "mask")
        made = self.view(f"{index} attention flat", made)
        if self.rotated:
            made = self._rotated(f"{index} attention", q_width, made, "v_rotation")
        return self.op(f"{index} attended", self.shape.n_embd, n, made)

    def _projected(self, name: str, width: int, normed: str, turned: bool, rotation: str) -> str:
        n = self.widest.n_tokens
        made = self.view(f"{name} heads", self.op(name, width, n, normed))
        if turned:
            made = self.op(f"{name} turned", width, n, made, "positions", in_place=True)
        return self._rotated(name, width, made, rotation) if self.rotated else made

    def _rotated(self, name: str, width: int, made: str, rotation: str) -> str:
        flat = self.view(f"{name} blocks", made)
        turned = self.op(f"{name} rotated", width, self.widest.n_tokens, rotation, flat)
        return self.view(f"{name} back", turned)
