"""Trees in a llama.cpp context, on the demo model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgespec.backends.llama_cpp import context as context_module
from edgespec.backends.llama_cpp import runtime
from edgespec.backends.llama_cpp.context import LlamaContext
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.errors import BackendError, BadSetting, Cancelled, DecodeFailed, InvalidBatch, ModelUnusable, NoKvSlot
from edgespec.speculation.tree import chain, single
from edgespec.types import ContextSpec, Span, TokenTree
from tests.helpers import path_of, random_tree, tree_of

DEMO = Path(__file__).parents[3] / "edgespec" / "demo" / "demo.gguf"
RNG = np.random.default_rng(5)
IDS = RNG.integers(300, 8000, 1600).tolist()
# What rounding may do to a logit where --exact is off (docs/exact.md): about 0.2 was seen.
NOISE = 0.6


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaModel]:
    m = LlamaModel(DEMO, LoadOptions())
    yield m
    m.close()


@pytest.fixture
def opened(model: LlamaModel) -> Iterator:
    contexts: list[LlamaContext] = []

    def open_(prompt: int = 40, **spec) -> LlamaContext:
        settings = {"n_ctx": 512, "max_nodes": 32, "max_leaves": 32, "n_threads": 2, **spec}
        contexts.append(model.open(ContextSpec(**settings)))
        if prompt:
            contexts[-1].prefill(0, IDS[:prompt])
        return contexts[-1]

    yield open_
    for c in contexts:
        c.close()


def rows(context: LlamaContext, tree: TokenTree, slot: int = 0) -> np.ndarray:
    return context.evaluate([Span(slot, tree, np.arange(len(tree)))]).logits.copy()


def lone_rows(context: LlamaContext, tokens: list[int]) -> np.ndarray:
    """Rows of tokens one pass each, committed."""
    found = []
    for token in tokens:
        found.append(rows(context, single(token))[0])
        context.keep(0, [0])
    return np.array(found)


@pytest.mark.parametrize("kv", ["f16", "q8_0"])
def test_under_exact_tree_rows_are_lone_rows_after_200_random_accepts(opened, kv: str) -> None:
    """Fails when a row depends on its pass, or the past on the rejected siblings it once stood beside: 0.0 is asked."""
    rng = np.random.default_rng(2)
    wide, lone = (opened(prompt=300, n_ctx=1400, kv_type=kv, exact=True) for _ in range(2))
    for _ in range(200):
        tree = random_tree(rng, int(rng.integers(1, 17)), 7000, first=int(rng.integers(300, 8000)))
        found = rows(wide, tree)
        path = path_of(tree, int(rng.integers(0, len(tree))))
        wide.keep(0, path)
        assert np.array_equal(found[path], lone_rows(lone, tree.token[path].tolist()))
    assert wide.length(0) == lone.length(0) > 512


def test_without_exact_tree_rows_are_chain_rows_up_to_rounding(opened) -> None:
    """Fails when a mask lets a node see its sibling: that moves logits by whole units."""
    tree = random_tree(np.random.default_rng(1), 20, 7000, first=500)
    found = rows(opened(), tree)
    for leaf in range(12, 20):
        path = path_of(tree, leaf)
        assert np.abs(found[path] - rows(opened(), chain(tree.token[path].tolist()))).max() < NOISE


def test_255_leaves_fit_into_one_pass(opened) -> None:
    """Fails when a leaf shares a sequence with another; 256 is the runtime's limit."""
    c = opened(max_nodes=300, max_leaves=255)
    parents = [-1, 0, 0, *[1 + i % 2 for i in range(255)]]
    tree = tree_of([7, 8, 9, *range(1000, 1255)], parents)
    found = rows(c, tree)
    c.keep(0, path_of(tree, 200))
    assert c.length(0) == 43
    again = opened()
    assert np.abs(found[path_of(tree, 200)] - lone_rows(again, [7, 8 + 199 % 2, 1197])).max() < NOISE


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("node", [0, 2, 6])
def test_a_kept_path_is_the_past_of_what_follows(opened, node: int, exact: bool) -> None:
    """Fails when keep of node 0, of an inner node or of a full path leaves a wrong or missing cell."""
    tree = tree_of([10, 11, 12, 13, 14, 15, 16], [-1, 0, 0, 1, 2, 2, 4])
    c, fresh = opened(exact=exact), opened(exact=exact)
    rows(c, tree)
    path = path_of(tree, node)
    c.keep(0, path)
    fresh.prefill(0, tree.token[path].tolist())
    assert c.length(0) == fresh.length(0) == 40 + len(path)
    assert np.abs(rows(c, chain([77, 78])) - rows(fresh, chain([77, 78]))).max() < (1e-9 if exact else NOISE)


def test_two_slots_with_different_trees_share_a_pass(opened) -> None:
    """Fails when one conversation's rows see the other's cells, or keep of one drops nodes of the other."""
    c = opened(n_slots=2, max_leaves=8)
    c.prefill(1, IDS[100:130])
    left = tree_of([10, 11, 12, 13], [-1, 0, 0, 1])
    right = tree_of([20, 21, 22], [-1, 0, 0])
    found = c.evaluate([Span(0, left, [0, 1, 2, 3]), Span(1, right, [0, 1, 2])]).logits.copy()
    c.keep(0, [0, 2])
    c.keep(1, [0, 1])
    assert (c.length(0), c.length(1)) == (42, 32)
    alone, other = opened(), opened(prompt=0)
    other.prefill(0, IDS[100:130])
    assert np.abs(found[:4] - rows(alone, left)).max() < NOISE
    assert np.abs(found[4:] - rows(other, right)).max() < NOISE
    alone.keep(0, [0, 2])
    other.keep(0, [0, 1])
    after = c.evaluate([Span(0, single(50), [0]), Span(1, single(60), [0])]).logits.copy()
    assert np.abs(after[0] - rows(alone, single(50))[0]).max() < NOISE
    assert np.abs(after[1] - rows(other, single(60))[0]).max() < NOISE


@pytest.mark.parametrize("exact", [False, True])
def test_a_tree_grown_in_waves_has_the_rows_of_one_pass(opened, exact: bool) -> None:
    """Fails when a late second child does not find its parent's past (draft growth)."""
    tree = tree_of([10, 11, 12, 13, 14, 15], [-1, 0, 0, 1, 2, 1])
    waves = opened(exact=exact)
    found = np.zeros((6, waves._n_vocab), np.float32)
    for wave in ([0], [2], [1, 4], [3], [5]):
        found[wave] = waves.evaluate([Span(0, tree, wave)]).logits
    assert np.abs(found - rows(opened(exact=exact), tree)).max() <= (0.0 if exact else NOISE)
    waves.keep(0, path_of(tree, 5))
    assert waves.length(0) == 43


def test_silent_nodes_enter_the_cache_without_a_row(opened) -> None:
    """Fails when the rows returned are not those of the last nodes."""
    c = opened()
    found = c.evaluate([Span(0, chain([1, 2, 3]), [0, 1, 2], n_silent=2)]).logits.copy()
    assert found.shape[0] == 1
    assert np.abs(found[0] - rows(opened(), chain([1, 2, 3]))[2]).max() < NOISE


def test_truncate_forgets_and_state_copies(opened) -> None:
    """Fails when a rolled back or moved conversation remembers, or forgets, too much."""
    a, b, c = opened(prompt=120), opened(prompt=60), opened(prompt=0)
    rows(a, tree_of([10, 11, 12], [-1, 0, 0]))
    a.keep(0, [0, 2])
    a.truncate(0, 60)
    c.import_state(0, a.export_state(0))
    assert a.length(0) == b.length(0) == c.length(0) == 60
    expected = rows(b, tree_of([20, 21, 22], [-1, 0, 0]))
    for context in (a, c):
        assert np.abs(rows(context, tree_of([20, 21, 22], [-1, 0, 0])) - expected).max() < NOISE


def test_many_rounds_leave_no_cell_behind(opened) -> None:
    """Fails when lent sequences keep rejected cells alive: 300 rounds in a context that has room for the text alone."""
    rng = np.random.default_rng(3)
    c = opened(prompt=10, n_ctx=340, max_nodes=8)
    for _ in range(300):
        tree = random_tree(rng, 8, 7000, first=500)
        rows(c, tree)
        c.keep(0, [0])
    assert c.length(0) == 310


@pytest.mark.parametrize(("code", "error"), [(1, NoKvSlot), (2, Cancelled), (-1, InvalidBatch), (-3, DecodeFailed)])
def test_every_return_code_is_an_error_of_its_own(opened, monkeypatch, code: int, error: type[Exception]) -> None:
    """Fails when a failed pass is read as rows; the context must be usable after it."""
    c, fresh = opened(), opened()
    with monkeypatch.context() as patched:
        patched.setattr(context_module.lib, "llama_decode", lambda *_: code)
        with pytest.raises(error):
            rows(c, chain([5, 6]))
    assert c.length(0) == 40
    assert np.abs(rows(c, chain([5, 6])) - rows(fresh, chain([5, 6]))).max() < NOISE


def test_a_full_cache_is_refused_with_both_numbers(opened) -> None:
    """Fails when the runtime is asked for cells it does not have."""
    with pytest.raises(NoKvSlot, match=r"600 tokens.*context of 512"):
        opened(prompt=0).prefill(0, IDS[:600])


def test_a_batch_that_breaks_the_protocol_is_refused_before_the_runtime_sees_it(opened) -> None:
    """Fails when llama.cpp gets to abort the process over it."""
    c = opened(max_leaves=2, max_nodes=8)
    fork = tree_of([4, 5, 6, 7], [-1, 0, 0, 0])
    for nodes in ([1], [0, 1, 2, 3], list(range(4)) * 3):
        with pytest.raises(InvalidBatch):
            c.evaluate([Span(0, fork, nodes)])
    assert rows(c, chain([4, 5])).shape[0] == 2


def test_a_prefill_stops_inside_a_pass(opened) -> None:
    """Fails when a long prompt cannot be stopped: what was read stays, what was not is not there."""
    c, asked = opened(prompt=40, n_ctx=1400), []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 20

    with pytest.raises(Cancelled):
        c.prefill(0, IDS[40:1300], cancelled=cancelled)
    c.truncate(0, 40)
    c.prefill(0, IDS[40:60])
    assert np.abs(rows(c, single(5)) - rows(opened(prompt=60), single(5))).max() < NOISE


def test_exact_bounds_the_rows_of_a_pass_where_kernels_change(opened) -> None:
    """Fails when --exact promises what f16 kernels of 64 rows do not keep."""
    assert opened(exact=True, max_nodes=128).caps.max_nodes == 32
    assert opened(exact=True, max_nodes=128, kv_type="q8_0").caps.max_nodes == 128
    with pytest.raises(BadSetting, match="one conversation"):
        opened(exact=True, n_slots=2)


def test_a_closed_context_refuses_instead_of_reading_freed_memory(model: LlamaModel) -> None:
    """Fails when a stream that outlived its model takes the process down."""
    c = model.open(ContextSpec(n_ctx=64))
    c.close()
    c.close()
    for use in (
        lambda: c.prefill(0, [1]),
        lambda: c.evaluate([Span(0, single(1), [0])]),
        lambda: c.keep(0, [0]),
        lambda: c.truncate(0, 0),
        lambda: c.export_state(0),
    ):
        with pytest.raises(BackendError, match="closed"):
            use()


def test_nothing_is_printed(opened, capfd: pytest.CaptureFixture[str]) -> None:
    """Fails when the runtime writes over the user's screen; what it says is kept for errors."""
    rows(opened(), single(4))
    with pytest.raises(ModelUnusable):
        LlamaModel(DEMO.with_name("MODEL_CARD.md"), LoadOptions())
    assert capfd.readouterr() == ("", "")
    assert runtime.log.reason()


def test_the_vocabulary_speaks_bytes(model: LlamaModel) -> None:
    """Fails when a piece is not the bytes that the tokenizer took apart, or a control token prints."""
    text = "Grüße, 世界 🙂\n\tx"
    ids = model.tokenize(text.encode(), special=False)
    assert b"".join(model.pieces()[i] for i in ids).decode() == text
    marked = model.tokenize(b"<|user|>hi<|end|>", special=True)
    assert len(marked) < len(model.tokenize(b"<|user|>hi<|end|>", special=False))
    assert model.pieces()[marked[0]] == b""
    assert marked[-1] in model.end_ids
    assert model.tokenize(b"hi", special=False, add_bos=True)[1:] == model.tokenize(b"hi", special=False)


def test_loading_stops_when_asked() -> None:
    """Fails when Ctrl-C has to wait for the whole file."""
    with pytest.raises(Cancelled):
        LlamaModel(DEMO, LoadOptions(), progress=lambda _: False)
