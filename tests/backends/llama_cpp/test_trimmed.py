"""A trimmed drafter's rows are the full drafter's on the kept ids, bit for bit, whatever goes in."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from edgespec.backends.llama_cpp.context import LlamaContext
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.backends.llama_cpp.trimmed import N_CACHED, Inputs, Table, TrimmedHead, input_scale
from edgespec.errors import BackendError
from edgespec.loading import trimmed_head
from edgespec.speculation.tree import chain
from edgespec.types import ContextSpec, Span, TokenTree
from tests.cut import DRAFT, F16, Q4_0, Q8_0, cut, like_the_drafter, tiny
from tests.helpers import path_of, random_tree

K = 1000
RNG = np.random.default_rng(11)
MIXED = RNG.integers(0, 8192, 90).astype(np.int32)


@dataclass(frozen=True)
class Pair:
    """A drafter, and what was cut from it."""

    full: LlamaModel
    trimmed: LlamaModel
    ids: np.ndarray


@contextmanager
def loaded(source: Path, out: Path) -> Iterator[Pair]:
    path = cut(source, out, K).path
    head = trimmed_head(path)
    assert head is not None
    with ExitStack() as stack:
        models = [LlamaModel(source, LoadOptions()), LlamaModel(path, LoadOptions(), head=head)]
        for model in models:
            stack.callback(model.close)
        yield Pair(*models, head.ids)


def kinds(folder: Path, name: str, untied: bool) -> Path:
    """demo-draft in a type of weights; the package cannot make Q4_K, the runtime can."""
    if name != "Q4_K":
        return like_the_drafter(folder / "draft.gguf", {"Q8_0": Q8_0, "Q4_0": Q4_0, "F16": F16}[name], untied=untied)
    source, out = like_the_drafter(folder / "f16.gguf", F16, untied=untied), folder / "draft.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.pure = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_S, 1, True
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)) == 0
    return out


@pytest.fixture(scope="module", params=["Q8_0", "Q4_0", "Q4_K", "F16"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=[False, True], ids=["tied", "untied"])
def pair(kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    with loaded(kinds(folder, kind, request.param), folder / "trimmed.gguf") as found:
        yield found


@pytest.fixture
def contexts(pair: Pair) -> Iterator[tuple[LlamaContext, LlamaContext]]:
    spec = ContextSpec(512, max_nodes=32, max_leaves=16, n_threads=1)
    full, trimmed = pair.full.open(spec), pair.trimmed.open(spec)
    yield full, trimmed
    full.close()
    trimmed.close()


def rows(context: LlamaContext, tree: TokenTree, nodes: list[int] | None = None) -> np.ndarray:
    return context.evaluate([Span(0, tree, range(len(tree)) if nodes is None else nodes)]).logits.copy()


def test_rows_are_the_full_ones_on_kept_ids(pair: Pair, contexts) -> None:
    """Fails when a row of the head, or an input row, is another by as much as one bit: 0.0 is asked.

    The prompt holds kept and unkept ids; then come passes of kept ids alone, of unkept ones alone, and of both.
    """
    full, trimmed = contexts
    for context in contexts:
        context.prefill(0, MIXED)
    unkept = np.setdiff1d(np.arange(8192), pair.ids)
    for tokens in (pair.ids[500:509], unkept[100:109], MIXED[:9], pair.ids[77:78], unkept[5:6]):
        tree = chain(tokens.tolist())
        found = trimmed.evaluate([Span(0, tree, range(len(tree)))])
        assert found.ids is not None
        assert np.array_equal(found.ids, pair.ids)
        assert found.logits.shape == (len(tree), K)
        difference = np.abs(found.logits - rows(full, tree)[:, pair.ids]).max()
        assert difference == 0.0
        for context in contexts:
            context.keep(0, range(len(tree)))


def test_trees_grow_and_are_kept_as_in_the_full_drafter(pair: Pair, contexts) -> None:
    """Fails when a wave of rows lands in other sequences or at other positions than a wave of ids."""
    full, trimmed = contexts
    rng = np.random.default_rng(5)
    for context in contexts:
        context.prefill(0, MIXED[:40])
    for _ in range(12):
        tree = random_tree(rng, 14, 8192, first=int(rng.integers(0, 8192)))
        for depth in range(int(tree.depth.max()) + 1):
            wave = np.flatnonzero(tree.depth == depth).tolist()
            assert np.array_equal(rows(trimmed, tree, wave), rows(full, tree, wave)[:, pair.ids])
        path = path_of(tree, int(rng.integers(0, len(tree))))
        for context in contexts:
            context.keep(0, path)
        assert trimmed.length(0) == full.length(0)


@pytest.fixture(scope="module")
def demo_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with loaded(DRAFT, tmp_path_factory.mktemp("demo") / "trimmed.gguf") as found:
        yield found


def test_its_vocabulary_is_the_originals(demo_pair: Pair) -> None:
    """Fails when the dummy tokens of the trimmed file are shown: no target would have the same vocabulary."""
    full, trimmed = demo_pair.full, demo_pair.trimmed
    assert trimmed.n_vocab == full.n_vocab == 8192
    assert trimmed.pieces() == full.pieces()
    assert trimmed.end_ids == full.end_ids
    text = b"What is 12 plus 30?<|end|>"
    assert trimmed.tokenize(text, special=True) == full.tokenize(text, special=True)
    trimmed.share_pieces(full)
    assert trimmed.pieces() is full.pieces()
    assert trimmed.eos_text == full.eos_text  # asked for once more after it was forgotten


def test_under_exact_a_lone_row_is_padded_whatever_goes_in(demo_pair: Pair) -> None:
    """Fails when a lone embedding row is not made a pass of two as a lone id is: other kernels run, with other bits."""
    spec = ContextSpec(512, max_nodes=8, max_leaves=4, n_threads=1, exact=True)
    full, trimmed = demo_pair.full.open(spec), demo_pair.trimmed.open(spec)
    unkept = np.setdiff1d(np.arange(8192), demo_pair.ids)
    for context in (full, trimmed):
        context.prefill(0, MIXED[:30])
    for token in (int(unkept[3]), int(demo_pair.ids[600]), int(unkept[9])):
        assert np.array_equal(rows(trimmed, chain([token])), rows(full, chain([token]))[:, demo_pair.ids])
        for context in (full, trimmed):
            context.keep(0, [0])
    full.close()
    trimmed.close()


@pytest.mark.parametrize("architecture", ["gemma", "gemma2", "gemma3", "qwen2"])
def test_an_input_row_is_scaled_as_the_graph_scales_an_id(architecture: str, tmp_path: Path) -> None:
    """Fails when rows of Gemma 3 come in unscaled or those of Gemma 1 and 2 are scaled twice: all scale in their
    graph, the former ids only (pillars.md, S4)."""
    with loaded(tiny(architecture, tmp_path / "draft.gguf"), tmp_path / "trimmed.gguf") as pair:
        spec = ContextSpec(256, max_nodes=32, max_leaves=4, n_threads=1)
        full, trimmed = pair.full.open(spec), pair.trimmed.open(spec)
        for tree in (chain(MIXED[:12].tolist()), chain(pair.ids[300:312].tolist())):
            found = rows(trimmed, tree)
            assert np.abs(found).max() > 0.1
            assert np.array_equal(found, rows(full, tree)[:, pair.ids])
            for context in (full, trimmed):
                context.keep(0, range(len(tree)))
        full.close()
        trimmed.close()


# --- the rows that go in


Made = Callable[..., tuple[Inputs, np.ndarray]]


@pytest.fixture
def inputs() -> Iterator[Made]:
    """Of a trimmed demo-draft, and all of its rows as the package converts them."""
    with ExitStack() as stack:

        def make(architecture: str = "llama") -> tuple[Inputs, np.ndarray]:
            found, every = _inputs(architecture)
            stack.callback(found.close)
            return found, every

        yield make


def _inputs(architecture: str) -> tuple[Inputs, np.ndarray]:
    import gguf
    from gguf.quants import dequantize

    tensor = gguf.GGUFReader(DRAFT).tensors[0]
    table = Table(DRAFT, int(tensor.data_offset), int(tensor.tensor_type), 8192, 256, 272)
    head = TrimmedHead(np.arange(0, 8192, 2, dtype=np.int32), table, DRAFT, architecture)
    return Inputs(head), dequantize(tensor.data, tensor.tensor_type)


def test_rows_stay_right_when_they_share_a_place_in_the_cache(inputs: Made) -> None:
    """Fails when a row is handed out for another token that is held at the same place."""
    made, every = inputs()
    rng = np.random.default_rng(0)
    for _ in range(30):
        tokens = (rng.integers(0, 6, 40) * N_CACHED + rng.integers(0, 5, 40)).astype(np.int32)
        tokens[0] = 1  # unkept, so that rows go in
        own, found = made.of(tokens)
        assert found is not None
        assert np.array_equal(found, every[tokens])
        assert np.array_equal(own, np.where(tokens % 2 == 0, tokens // 2, -1))


def test_kept_ids_go_in_as_ids(inputs: Made) -> None:
    """Fails when a pass that needs no row reads some."""
    own, found = inputs()[0].of(np.array([0, 8, 4], np.int32))
    assert own.tolist() == [0, 4, 2]
    assert found is None


@pytest.mark.parametrize(
    ("architecture", "scale"),
    [("llama", 1.0), ("qwen2", 1.0), ("gemma", 1.0), ("gemma2", 1.0), ("gemma3", 16.0), ("gemma4", 16.0)],
)
def test_a_row_is_scaled_where_the_graph_scales_only_ids(inputs: Made, architecture: str, scale: float) -> None:
    """Fails when Gemma 3's rows come in 16 times too small, or Gemma 2's twice scaled (pillars.md, S4)."""
    assert input_scale(architecture, 256) == scale
    made, every = inputs(architecture)
    found = made.of(np.array([1, 3], np.int32))[1]
    assert found is not None
    assert np.array_equal(found, every[[1, 3]] * np.float32(scale))


def test_rows_of_another_length_than_the_runtimes_are_refused() -> None:
    """Fails when a runtime with another layout of a type would read past a row."""
    table = Table(DRAFT, 0, int(Q8_0), 8192, 256, 271)
    with pytest.raises(BackendError, match="have 271 bytes and this runtime's type 8 has 272"):
        Inputs(TrimmedHead(np.arange(8, dtype=np.int32), table, DRAFT, "llama"))


def of_a_copy(folder: Path) -> tuple[TrimmedHead, Inputs, np.ndarray]:
    """A trimmed copy of demo-draft, whose original is the table's file; and the ids that were not kept."""
    source = folder / "draft.gguf"
    shutil.copyfile(DRAFT, source)
    head = trimmed_head(cut(source, folder / "t.gguf", K).path)
    assert head is not None
    return head, Inputs(head), np.setdiff1d(np.arange(8192), head.ids).astype(np.int32)


def test_rows_of_the_original_are_read_and_not_mapped(tmp_path: Path) -> None:
    """Fails when each row brings its neighbourhood into the process, which no plan counts."""
    head, made, unkept = of_a_copy(tmp_path)
    assert made.of(unkept[:100])[1] is not None
    assert str(head.table.path) not in Path("/proc/self/maps").read_text()
    made.close()


def test_an_original_that_is_cut_short_in_use_is_an_error(tmp_path: Path) -> None:
    """Fails when whatever follows the end of the file is taken for a row, or the process dies of it."""
    head, made, unkept = of_a_copy(tmp_path)
    os.truncate(head.table.path, head.table.offset + head.table.row_bytes // 2)
    with pytest.raises(BackendError, match="cut short while its rows were used"):
        made.of(unkept[:1])
    made.close()
