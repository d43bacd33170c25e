"""Bytes of every component of a model and a context, from a GGUF's header alone; nothing is loaded.

Each formula names its source in the runtime; docs/memory.md tells how near it comes. Not covered: what the driver of a
device takes for itself (measure.py sees it).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from edgespec.backends.llama_cpp.dimensions import Dimensions, dimensions
from edgespec.backends.llama_cpp.trimmed import N_CACHED
from edgespec.gguf.header import Tensor
from edgespec.gguf.shape import Shape
from edgespec.memory.configuration import Placement
from edgespec.memory.footprint import CPU, MAPPED, STREAMED, Footprint, Item
from edgespec.memory.graph import Pass, compute_bytes
from edgespec.memory.host import Host
from edgespec.types import ContextSpec

# Bytes of 32 elements of a cached row (ggml/src/ggml-common.h: block_q8_0, block_q4_0).
KV_BLOCK = {"f16": 64, "q8_0": 34, "q4_0": 18}
_FLOAT = 4
# The runtime's own objects, measured on this build: code paged in by the first model, then for each context graphs and
# their tables, and for each model tensors and layers (benchmarks/results/predict.json). Code is what a process
# that runs alone pays: beside others of its kind its share of those pages is up to 1.3 MiB less.
CODE_BYTES = 10 << 18
OBJECT_BYTES = 1 << 18
GRAPH_NODE_BYTES = 5 << 9
# libstdc++ and glibc: an entry of id_to_token and its cached piece (40 + 32 bytes), and a node of token_to_id (64 with
# its header) a token; a node of bpe_ranks a merge (src/llama-vocab.cpp). Of long strings several copies lie apart.
TOKEN_BYTES, MERGE_BYTES, LONG_COPIES, LONG_HEADER = 144, 96, 6, 17
# A row of a head without a vocabulary: an entry of id_to_token alone ("adding dummy tokens").
DUMMY_TOKEN_BYTES = 40
# Hash tables grow to the next of these many buckets (libstdc++, _Prime_rehash_policy).
BUCKETS = (13, 29, 59, 127, 257, 541, 1109, 2357, 5087, 10273, 20753, 42043, 85229, 172933, 351061, 712697, 1447153)
# A Python bytes object of a token's length in a list (chat decodes with them).
PIECE_BYTES = 57
# Position, shift and a set of 256 sequence ids a cell, beside its entry in a map (src/llama-kv-cells.h).
CELL_BYTES = 52

_ON_CPU = Placement()


@dataclass(frozen=True)
class Part:
    """A model of a configuration with what its context is opened with.

    role     "" for the target, "draft " for a drafter: it stands in front of the components' names
    cell_bytes  of all caches together, in the runtime's own words, where one is known
    n_used   cells in use: the mask of a pass reaches that far, and the system gives pages only where something was
             written; None: all of them, which is what a long conversation comes to
    compute  the runtime's own figure by device where one is known (measure.py), else None
    """

    shape: Shape
    spec: ContextSpec
    placement: Placement = _ON_CPU
    role: str = ""
    compute: Mapping[str, int] | None = None
    n_used: int | None = None
    cell_bytes: float | None = None

    @property
    def trees(self) -> bool:
        return not self.shape.recurrent


def predict(part: Part, host: Host) -> Footprint:
    """Raises BadSetting for what no context can do."""
    dims = dimensions(part.spec, part.trees)
    places = _Places(part, host)
    return Footprint(
        (
            *_weights(part, host, places),
            *_cache(part, dims, places),
            *_compute(part, dims, host, places),
            Item(f"{part.role}output", CPU, _output(part.shape, dims), "src/llama-context.cpp, output_reserve"),
            Item(f"{part.role}vocabulary", CPU, _vocabulary(part.shape), "src/llama-vocab.cpp"),
            Item(f"{part.role}python", CPU, _python(part, dims), "edgespec: pieces, histories, batches"),
            Item(f"{part.role}runtime", CPU, _objects(part, dims), "measured: graphs, cells, code paged in"),
        )
    )


def weights(part: Part, host: Host) -> Footprint:
    """The weights alone: what no setting makes smaller."""
    return Footprint(_weights(part, host, _Places(part, host)))


class _Places:
    """Which device holds what (src/llama-model.cpp, load_tensors: get_layer_buft_list)."""

    def __init__(self, part: Part, host: Host) -> None:
        n_layer = len(part.shape.layers)
        asked = part.placement.n_gpu_layers if host.devices else 0
        self._start, self._n = max(n_layer + 1 - asked, 0), min(asked, n_layer + 1)
        shares = part.placement.tensor_split or (1.0,) * len(host.devices)
        total = sum(shares) or 1.0
        self._ends = [end / total for end in accumulate(shares)]
        self._devices, self._experts_on_cpu = host.devices, part.placement.experts_on_cpu
        self.head = self.layer(n_layer)

    def layer(self, index: int) -> str:
        if index < self._start or index - self._start >= self._n:
            return CPU
        at = bisect_right(self._ends, (index - self._start) / self._n)
        return self._devices[min(at, len(self._devices) - 1)]

    def tensor(self, index: int, tensor: Tensor) -> str:
        return CPU if self._experts_on_cpu and "_exps." in tensor.name else self.layer(index)


def _weights(part: Part, host: Host, places: _Places) -> tuple[Item, ...]:
    """Mapped tensors by device. On the processor a rearranged copy takes the place of a tensor's pages in the file:
    those are given back after loading (backends/llama_cpp/pages.py)."""
    shape, mapped, copied = part.shape, Counter[str](), 0
    placed = [(t, places.tensor(i, t)) for i, layer in enumerate(shape.layers) for t in layer.tensors]
    placed += [(t, CPU) for t in shape.input]
    placed += [(t, places.head) for t in (*shape.head, *shape.rest)]
    for tensor, device in placed:
        if device == CPU and _is_repacked(tensor, host):
            copied += tensor.n_bytes
        else:
            mapped[device] += tensor.n_bytes
    if shape.tied or not copied:  # read as a head, or mapped by loading; else a row here and there
        mapped[CPU] += shape.embedding.n_bytes
    if shape.tied and places.head != CPU:
        mapped[places.head] += shape.embedding.n_bytes
    elif shape.tied and _is_repacked(shape.embedding, host):
        copied += shape.embedding.n_bytes
    if part.placement.streamed:
        mapped[CPU], copied = 0, 0
    found = [Item(f"{part.role}weights", d, n, MAPPED) for d, n in mapped.items() if n]
    if part.placement.streamed:
        found.append(Item(f"{part.role}weights", CPU, _largest_layer(part, places), STREAMED))
    if copied:
        found.append(Item(f"{part.role}weights", CPU, copied, "tensor table: ggml/src/ggml-cpu/repack.cpp"))
    return tuple(found)


def _largest_layer(part: Part, places: _Places) -> int:
    """Of the processor's, the head among them: less than that in memory, and a layer would push itself out."""
    layers = [
        sum(t.n_bytes for t in layer.tensors if places.tensor(i, t) == CPU) for i, layer in enumerate(part.shape.layers)
    ]
    head = part.shape.embedding.n_bytes if part.shape.tied else sum(t.n_bytes for t in part.shape.head)
    return max([*layers, head if places.head == CPU else 0])


def _is_repacked(tensor: Tensor, host: Host) -> bool:
    """Source: ggml_repack_get_optimal_repack_type; matrices that are multiplied, in whole groups of 8 rows."""
    return tensor.type.name in host.repacks and len(tensor.shape) >= 2 and tensor.shape[1] % 8 == 0


def _cache(part: Part, dims: Dimensions, places: _Places) -> tuple[Item, ...]:
    """Keys and values of every cell in every layer (src/llama-kv-cache.cpp), a windowed layer's too: swa_full; states
    of recurrent layers in float32 for every sequence (src/llama-memory-recurrent.cpp)."""
    kv, state = Counter[str](), Counter[str]()
    for i, layer in enumerate(part.shape.layers):
        rows = sum(-(-row // 32) * KV_BLOCK[part.spec.kv_type] for row in (layer.k_row, layer.v_row))
        kv[places.layer(i)] += dims.n_cells * rows
        state[places.layer(i)] += _FLOAT * layer.state_row * dims.n_seq_max
    n_tree = dims.n_cells - part.spec.n_slots * part.spec.n_ctx
    source = f"src/llama-kv-cache.cpp: {dims.n_cells} cells of {part.spec.kv_type}, {n_tree} of them for a tree's rows"
    if part.cell_bytes is not None and kv.total():
        share = part.cell_bytes * dims.n_cells / kv.total()
        kv = Counter({device: round(n_bytes * share) for device, n_bytes in kv.items()})
    found = [Item(f"{part.role}kv", d, n, source) for d, n in kv.items() if n]
    states = [(d, n) for d, n in state.items() if n]
    return (*found, *(Item(f"{part.role}recurrent state", d, n, "src/llama-memory-recurrent.cpp") for d, n in states))


def widest(shape: Shape, dims: Dimensions, kv_type: str) -> Pass:
    """The pass that the runtime reserves for (src/llama-context.cpp, graph_reserve: whole tokens a sequence)."""
    n_tokens = min(dims.n_cells, dims.n_batch)
    n_tokens = -(-n_tokens // dims.n_seq_max) * dims.n_seq_max
    return Pass(n_tokens, dims.n_cells, min(dims.n_outputs, n_tokens), kv_type != "f16")


def _compute(part: Part, dims: Dimensions, host: Host, places: _Places) -> tuple[Item, ...]:
    found = []
    reserved = widest(part.shape, dims, part.spec.kv_type)
    if part.compute is not None:
        found = [
            Item(f"{part.role}compute", d, n, "the runtime, asked without allocating") for d, n in part.compute.items()
        ]
    else:
        needed = compute_bytes(part.shape, reserved)
        used = {places.layer(i) for i in range(len(part.shape.layers))} | {places.head}
        source = (
            "src/llama-graph.cpp, ggml/src/ggml-alloc.c" if part.shape.llama_like else "as a plain model of its size"
        )
        found = [Item(f"{part.role}compute", device, needed, source) for device in sorted(used)]
    if part.n_used is not None and CPU in {item.device for item in found}:
        unused = 2 * reserved.n_tokens * max(dims.n_cells - _padded(part.n_used), 0)
        found.append(Item(f"{part.role}compute", CPU, -unused, "the mask's part beyond the cells in use"))
    scratch = _scratch(part, min(dims.n_cells, dims.n_batch), host, places)
    return (*found, Item(f"{part.role}scratch", CPU, scratch, "ggml/src/ggml-cpu/ggml-cpu.c, ggml_graph_plan"))


def _padded(n_cells: int) -> int:
    """Attention reads cells in whole blocks (src/llama-kv-cache.cpp, get_n_kv)."""
    return -(-n_cells // 256) * 256


def _scratch(part: Part, n_tokens: int, host: Host, places: _Places) -> int:
    """The processor's own buffer: the widest input of a product, in the type that the weights are multiplied by, or the
    tiles of attention (ggml_graph_plan; FA tiles of 64 rows and 64 cells)."""
    dim = part.shape.head_dim
    tiles = _FLOAT * host.n_threads * (64 * dim + 2 * 64 * 64 + 64 * dim + 64 * dim + 64 * dim)
    on_cpu = [t for i, layer in enumerate(part.shape.layers) for t in layer.tensors if places.tensor(i, t) == CPU]
    widest_input = max((_input_bytes(t) for t in on_cpu), default=0.0)
    return max(int(n_tokens * widest_input), tiles if on_cpu else 0)


def _input_bytes(tensor: Tensor) -> float:
    """A row of what a weight is multiplied with, as its type wants it (ggml-cpu.c, type_traits_cpu: vec_dot_type)."""
    if len(tensor.shape) < 2:
        return 0.0
    name = tensor.type.name
    if name == "F32":
        return 0.0
    if name in ("F16", "BF16"):
        return 2.0 * tensor.shape[0]
    k_quant = name.endswith("_K") or (name.startswith("IQ") and name != "IQ4_NL") or name.startswith("TQ")
    return tensor.shape[0] * (292 / 256 if k_quant else 34 / 32)


def _output(shape: Shape, dims: Dimensions) -> int:
    """Logits on the host, for every row a pass may have: the buffer only grows."""
    return _FLOAT * shape.n_vocab * max(dims.n_outputs - 1, dims.n_seq_max)


def _vocabulary(shape: Shape) -> int:
    n_bytes = _FLOAT * shape.n_vocab  # a context's list of all ids
    if shape.n_whole_vocab is not None:
        return n_bytes + DUMMY_TOKEN_BYTES * shape.n_vocab
    for (n, n_long, long_bytes), each in ((shape.tokens, TOKEN_BYTES), (shape.merges, MERGE_BYTES)):
        n_bytes += n * each + 8 * next((b for b in BUCKETS if b >= n), n)
        if each == TOKEN_BYTES:
            n_bytes += LONG_COPIES * (long_bytes + LONG_HEADER * n_long)
    return n_bytes


def _python(part: Part, dims: Dimensions) -> int:
    """A drafter shares the target's pieces (loading.check_vocabulary)."""
    pieces = 0 if part.role else PIECE_BYTES * part.shape.n_vocab
    return pieces + _FLOAT * dims.n_cells + 32 * dims.n_batch + _trimmed_inputs(part.shape, dims)


def _trimmed_inputs(shape: Shape, dims: Dimensions) -> int:
    """Both ways between ids and rows, rows kept converted, those of a pass (backends/llama_cpp/trimmed.py), and counts
    (speculation/usage.py). The original's own rows are mapped: a few pages, which the system may take."""
    if shape.n_whole_vocab is None:
        return 0
    maps = _FLOAT * (shape.n_vocab + 2 * shape.n_whole_vocab)
    return maps + _FLOAT * shape.n_embd * (N_CACHED + dims.n_batch)


def _objects(part: Part, dims: Dimensions) -> int:
    n_nodes = max(1024, 8 * len(part.shape.tensors))  # src/llama-context.cpp, graph_max_nodes
    once = 0 if part.role else CODE_BYTES
    return once + OBJECT_BYTES + GRAPH_NODE_BYTES * n_nodes + CELL_BYTES * dims.n_cells
