"""Predicted bytes: against the runtime on the demo, and worked by hand for what no machine here has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from gguf.constants import GGMLQuantizationType as Kind

from edgespec.backends.llama_cpp.dimensions import dimensions
from edgespec.backends.llama_cpp.dryrun import Asked, dry_run
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.trimmed import N_CACHED
from edgespec.gguf.header import Tensor
from edgespec.gguf.shape import Layer, Shape, read_shape
from edgespec.memory.configuration import Placement
from edgespec.memory.footprint import STREAMED
from edgespec.memory.graph import compute_bytes
from edgespec.memory.host import Host
from edgespec.memory.predict import Part, predict, widest
from edgespec.types import ContextSpec
from tests.cut import cut, like_the_drafter

DEMO = Path(__file__).parents[2] / "edgespec" / "demo"
SPECS = [
    ContextSpec(n_ctx, max_nodes=rows, max_leaves=leaves, kv_type=kv, n_ubatch=n_ubatch)
    for n_ctx, rows, leaves, kv, n_ubatch in (
        (256, 1, 1, "f16", 512),
        (4096, 9, 8, "f16", 512),
        (2048, 65, 32, "q8_0", 64),
        (8192, 33, 16, "q4_0", 16),
        (32768, 9, 1, "f16", 256),
        (1024, 129, 255, "q8_0", 512),
    )
]


@pytest.mark.parametrize("name", ["demo", "demo-draft", "demo-xdraft"])
def test_caches_and_compute_buffers_are_the_runtime_s_own(name: str) -> None:
    """Fails when a formula drifts from the runtime's graph or its allocator."""
    path = DEMO / f"{name}.gguf"
    shape = read_shape(path)
    for spec, said in zip(SPECS, dry_run(Asked(path, LoadOptions(), SPECS)), strict=True):
        found = predict(Part(shape, spec), Host())
        assert found.of("kv") == pytest.approx(said.kv_bytes, abs=1 << 14)
        assert found.of("compute") == pytest.approx(said.compute["CPU"], rel=0.02, abs=1 << 14)


@pytest.mark.parametrize("untied", [False, True])
def test_a_trimmed_drafter_s_buffers_are_the_runtime_s_own(tmp_path: Path, untied: bool) -> None:
    """Fails when rows of the whole vocabulary are counted where the head has some, or its maps are forgotten."""
    source = like_the_drafter(tmp_path / "draft.gguf", untied=untied)
    path = cut(source, tmp_path / "trimmed.gguf", 1024).path
    full, shape = read_shape(source), read_shape(path)
    n_heads = 2 if untied else 1
    assert full.weight_bytes - shape.weight_bytes == n_heads * (8192 - 1024) * 272
    for spec, said in zip(SPECS, dry_run(Asked(path, LoadOptions(), SPECS)), strict=True):
        found, before = (predict(Part(each, spec, role="draft "), Host()) for each in (shape, full))
        assert found.of("draft kv") == pytest.approx(said.kv_bytes, abs=1 << 14)
        assert found.of("draft compute") == pytest.approx(said.compute["CPU"], rel=0.02, abs=1 << 14)
        assert found.of("draft output") * 8 == before.of("draft output")
        n_rows = N_CACHED + dimensions(spec, trees=True).n_batch
        more = found.of("draft python") - before.of("draft python")
        assert more == 4 * (1024 + 8192) + 4 * 8192 + 4 * 256 * n_rows  # maps, counts, rows
        assert found.of("draft vocabulary") < before.of("draft vocabulary") / 20


def test_the_demo_s_weights_are_its_tensors() -> None:
    """Fails when a tensor is forgotten, or counted twice because its head is tied."""
    shape = read_shape(DEMO / "demo.gguf")
    found = predict(Part(shape, SPECS[0]), Host())
    assert found.of("weights") == shape.weight_bytes == 13_389_312


def _matrix(name: str, rows: int, columns: int, kind: Kind = Kind.F16) -> Tensor:
    size = 2 * rows * columns if kind == Kind.F16 else rows * columns // 32 * 18
    return Tensor(name, (columns, rows), kind, 0, size)


def _shape(n_layer: int = 4, tied: bool = False, kind: Kind = Kind.F16, experts: int = 0) -> Shape:
    """Layers of one matrix of 64 x 64 (and experts of as much each), K and V rows of 64, a vocabulary of 32."""
    layers = []
    for i in range(n_layer):
        own = [_matrix(f"blk.{i}.attn_k.weight", 64, 64, kind)]
        if experts:
            own.append(_matrix(f"blk.{i}.ffn_up_exps.weight", 64 * experts, 64, kind))
        layers.append(Layer(tuple(own), 64, 64, 0, 128))
    head = () if tied else (_matrix("output.weight", 32, 64, kind),)
    embedding = _matrix("token_embd.weight", 32, 64, kind)
    return Shape("test", 64, 1, 64, 32, 4096, tuple(layers), embedding, (), head, (), (32, 0, 0), (0, 0, 0), False)


SPEC = ContextSpec(256, max_nodes=1, max_leaves=1)
LAYER, HEAD, KV = 64 * 64 * 2, 32 * 64 * 2, 2 * 64 * 2
CELLS = dimensions(SPEC, trees=True).n_cells


def _on(
    shape: Shape, placement: Placement, device: str, component: str, devices: tuple[str, ...] = ("G0", "G1")
) -> int:
    found = predict(Part(shape, SPEC, placement), Host(devices=devices))
    return sum(item.n_bytes for item in found.items if (item.device, item.component) == (device, component))


def test_layers_go_to_devices_from_the_last_one() -> None:
    """Fails when the head, which counts as one more layer, or a cache lands beside its layer."""
    one = Placement(n_gpu_layers=3)
    assert _on(_shape(), one, "G0", "weights", ("G0",)) == 2 * LAYER + HEAD
    assert _on(_shape(), one, "G0", "kv", ("G0",)) == 2 * KV * CELLS
    assert _on(_shape(), one, "cpu", "weights", ("G0",)) == 2 * LAYER + HEAD  # the embedding stays


def test_a_split_divides_layers_by_its_shares() -> None:
    """Fails when shares are taken of the bytes, or the ends are off by one: 5 places, 3 of them first."""
    split = Placement(n_gpu_layers=5, tensor_split=(3, 2))
    assert _on(_shape(), split, "G0", "weights") == 3 * LAYER
    assert _on(_shape(), split, "G1", "weights") == LAYER + HEAD


def test_a_tied_head_on_a_device_is_a_second_copy() -> None:
    """Fails when an embedding that also serves as head is thought to be in one place."""
    everything = Placement(n_gpu_layers=99)
    assert _on(_shape(tied=True), everything, "G0", "weights", ("G0",)) == 4 * LAYER + HEAD
    assert _on(_shape(tied=True), everything, "cpu", "weights", ("G0",)) == HEAD


def test_streamed_experts_weigh_a_layer() -> None:
    """Everything else on a device. Fails when a layer of experts, read from the file in every pass, counts for nothing:
    the pages of one would push the next ones out."""
    shape = _shape(experts=8)
    placement = Placement(n_gpu_layers=99, experts_on_cpu=True, streamed=True)
    found = predict(Part(shape, ContextSpec(256), placement), Host(devices=("CUDA0",)))
    own = next(item.n_bytes for item in found.items if item.source == STREAMED)
    assert own == sum(t.n_bytes for t in shape.layers[0].tensors if "_exps." in t.name) > 0


def test_experts_can_stay_on_the_processor() -> None:
    """Fails when a mixture's experts are counted where its attention is."""
    shape = _shape(experts=8)
    apart = Placement(n_gpu_layers=99, experts_on_cpu=True)
    assert _on(shape, apart, "G0", "weights", ("G0",)) == 4 * LAYER + HEAD
    assert _on(shape, apart, "cpu", "weights", ("G0",)) == 4 * 8 * LAYER + HEAD


def test_rearranged_weights_take_the_place_of_the_file_s_pages() -> None:
    """Fails when a copied tensor counts twice; the embedding of an untied model is read a row here and there."""
    found = predict(Part(_shape(kind=Kind.Q4_0), SPEC), Host(repacks=frozenset({"Q4_0"})))
    assert found.of("weights") == (4 * LAYER + HEAD) // 2 * 18 // 32
    plain = predict(Part(_shape(kind=Kind.Q4_0), SPEC), Host())
    assert plain.of("weights") == (4 * LAYER + 2 * HEAD) // 2 * 18 // 32


def test_recurrent_layers_keep_a_state_for_every_sequence_and_no_cells() -> None:
    """Fails when a hybrid model's cache is worked out as if every layer attended."""
    shape = _shape()
    hybrid = replace(
        shape, layers=(*shape.layers[:2], *(replace(x, k_row=0, v_row=0, state_row=100) for x in shape.layers[2:]))
    )
    found = predict(Part(hybrid, replace(SPEC, n_slots=3)), Host())
    assert found.of("recurrent state") == 2 * 3 * 100 * 4
    assert found.of("kv") == 2 * KV * CELLS


def test_the_runtime_s_own_figure_takes_the_formula_s_place() -> None:
    """Fails when a measured compute buffer is passed over."""
    found = predict(Part(_shape(), SPEC, compute={"cpu": 12345}), Host())
    assert found.of("compute") == 12345


def test_whole_tokens_a_sequence_are_reserved() -> None:
    """Fails when a pass that does not divide by the sequences is thought to stay as it is: 130 tokens become 136."""
    spec = ContextSpec(4096, max_nodes=17, max_leaves=17, n_ubatch=111)
    reserved = widest(_shape(), dimensions(spec, trees=True), "f16")
    assert reserved.n_tokens == 136


def test_more_of_anything_never_takes_less() -> None:
    """Fails when a formula is not monotone, and a search could find room by asking for more."""
    shape = read_shape(DEMO / "demo.gguf")
    small = predict(Part(shape, ContextSpec(1024, max_nodes=4, max_leaves=2, n_ubatch=32)), Host()).total_bytes
    for more in ({"n_ctx": 2048}, {"max_nodes": 40}, {"n_ubatch": 256}):
        wider = replace(ContextSpec(1024, max_nodes=4, max_leaves=2, n_ubatch=32), **more)
        assert predict(Part(shape, wider), Host()).total_bytes > small


def test_a_gated_model_of_another_build_has_no_formula() -> None:
    """Fails when an architecture that nobody checked is worked out as if it were a llama."""
    assert not _shape().llama_like
    assert compute_bytes(read_shape(DEMO / "demo.gguf"), widest(_shape(), dimensions(SPEC, True), "f16")) > 0
