"""Trees of 512 nodes in one pass of llama.cpp: as many leaves as it has sequences, one read of the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgespec.backends.llama_cpp.dimensions import dimensions
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.speculation.policies import MAX_LEAVES
from edgespec.speculation.tree import chain
from edgespec.types import MAX_NODES, ContextSpec, Span, TokenTree
from tests.helpers import path_of, tree_of

DEMO = Path(__file__).parents[3] / "edgespec" / "demo" / "demo.gguf"
PROMPT = list(range(300, 340))


@pytest.fixture(scope="module")
def model():
    m = LlamaModel(DEMO, LoadOptions())
    yield m
    m.close()


def spec(max_nodes: int = MAX_NODES, **more) -> ContextSpec:
    return ContextSpec(**{"n_ctx": 512, "max_nodes": max_nodes, "max_leaves": MAX_LEAVES, "n_threads": 2, **more})


def largest_tree() -> TokenTree:
    """512 nodes with 255 leaves: a trunk of 2, and as many branches of different lengths below it as there may be."""
    parents, tips = [-1, 0], [1] * MAX_LEAVES
    while len(parents) < MAX_NODES:
        for i in range(0, MAX_LEAVES, 1 if len(parents) < MAX_LEAVES else 9):
            if len(parents) < MAX_NODES:
                parents.append(tips[i])
                tips[i] = len(parents) - 1
    depth = [0] * len(parents)
    for node in range(1, len(parents)):
        depth[node] = depth[parents[node]] + 1
    order = sorted(range(len(parents)), key=lambda n: (depth[n], n))
    place = {n: i for i, n in enumerate(order)}
    tokens = np.random.default_rng(3).permutation(np.arange(400, 4000))[: len(parents)]
    return tree_of(tokens.tolist(), [place.get(parents[n], -1) for n in order])


def n_leaves(tree: TokenTree) -> int:
    return len(tree) - len(set(tree.parent[1:].tolist()))


@pytest.mark.parametrize(("kv", "exact", "atol"), [("f16", False, 0.3), ("q8_0", True, 0.0)])
def test_rows_of_the_largest_tree_are_those_of_chains(model: LlamaModel, kv: str, exact: bool, atol: float) -> None:
    """Fails when a node sees a cell off its path, or none of its own, with every sequence lent at once: rows are those
    of its path read alone, up to the noise of other kernels (f16), and to the last bit under --exact with q8_0."""
    tree = largest_tree()
    assert (len(tree), n_leaves(tree)) == (512, 255)
    context = model.open(spec(kv_type=kv, exact=exact))
    context.prefill(0, PROMPT)
    rows = context.evaluate([Span(0, tree, np.arange(len(tree)))]).logits.copy()
    context.keep(0, [])
    leaves = sorted(set(range(len(tree))) - set(tree.parent.tolist()))
    for leaf in (leaves[0], leaves[len(leaves) // 2], leaves[-1]):
        path = path_of(tree, leaf)
        alone = context.evaluate([Span(0, chain(tree.token[path].tolist()), np.arange(len(path)))]).logits
        assert np.abs(alone - rows[path]).max() <= atol
        context.keep(0, [])
    context.close()


def test_a_path_of_the_largest_tree_is_kept_and_the_next_one_fits(model: LlamaModel) -> None:
    """Fails when 511 rejected nodes leave cells or sequences behind: soon nothing would be left to lend."""
    tree, context = largest_tree(), model.open(spec())
    context.prefill(0, PROMPT)
    length, leaf = len(PROMPT), len(tree) - 1
    for _ in range(3):
        context.evaluate([Span(0, tree, np.arange(len(tree)))])
        context.keep(0, path_of(tree, leaf))
        length += len(path_of(tree, leaf))
        assert context.length(0) == length
    said = [*PROMPT, *3 * tree.token[path_of(tree, leaf)].tolist()]
    after = context.evaluate([Span(0, chain([7]), np.arange(1))]).logits.copy()
    context.truncate(0, 0)
    context.prefill(0, said)
    assert np.abs(context.evaluate([Span(0, chain([7]), np.arange(1))]).logits - after).max() <= 0.3
    context.close()


@pytest.mark.parametrize("n_ubatch", [32, 512])
@pytest.mark.parametrize("rows", [64, 256, 512])
def test_a_pass_is_one_read_of_the_weights(rows: int, n_ubatch: int) -> None:
    """Fails when a tree is cut into batches, each of which reads the weights anew, whatever a prompt's batches are; or
    logits are reserved for more rows than a pass can ask for, which is what large trees cost most bytes by."""
    dims = dimensions(spec(rows, n_ubatch=n_ubatch), trees=True)
    assert dims.n_batch >= rows + 1
    assert dims.n_seq_max <= dims.n_outputs <= max(rows, MAX_LEAVES) + 1
