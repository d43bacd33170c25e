"""The card of ceilings: bandwidth, bytes a token, and the bound of speculation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

from edgespec.backends.fake import FakeModel
from edgespec.bench import ceilings
from edgespec.bench.ceilings import (
    Bandwidth,
    Bound,
    Recorded,
    bandwidth,
    best_first_tokens_per_pass,
    bound,
    bytes_per_token,
    limit_tokens_per_s,
    passes_of,
)
from edgespec.errors import BadSetting, ModelNotFound
from edgespec.gguf.inspect import inspect
from edgespec.speculation.cost import Curve
from edgespec.speculation.sampling import Noise, Process, draw
from edgespec.types import ContextSpec, Sampling

DEMO = Path(__file__).parents[2] / "edgespec" / "demo" / "demo.gguf"
TARGET = FakeModel(seed=3)
DRAFT = TARGET.perturbed(0.7)
MIXED = [Sampling(temperature=0.8, seed=5), Sampling(temperature=0)]


def test_the_quickest_way_to_read_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 MiB in 3, 1 and 0.5 s, then in 4, 5 and 2 s: the best is 2 MiB/s; a disturbed round must not lower it."""
    monkeypatch.setattr(ceilings, "READS", {"sum": len, "or": len, "copy": len})
    ticks = iter([0.0, 0, 3, 3, 4, 4, 4.5, 4.5, 5, 9, 9, 14, 14, 16, 16])
    found = bandwidth(2, 1 << 20, budget_s=10.0, clock=lambda: next(ticks))
    assert found == Bandwidth(2 * (1 << 20), "copy", 1 << 20, 2)


def test_bandwidth_of_this_machine_is_a_figure() -> None:
    """On real threads and a real clock: positive, finite, over the block asked for, and never more than that."""
    found = bandwidth(2, n_bytes=1 << 22, budget_s=0.01)
    assert 0 < found.bytes_per_s < math.inf
    assert found.how in ceilings.READS
    assert found.n_bytes == 1 << 22


def test_short_memory_makes_the_block_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when measuring drives a full machine into swap."""
    monkeypatch.setattr(ceilings.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1 << 22}))
    assert bandwidth(2, budget_s=0.0).n_bytes == 1 << 20
    with pytest.raises(BadSetting, match="too small for 8 threads"):
        bandwidth(8, n_bytes=64)
    with pytest.raises(BadSetting, match="1 thread or more"):
        bandwidth(0)


def written(path: Path, shapes: dict[str, tuple[int, ...]], **meta: int) -> Path:
    writer = GGUFWriter(path, "llama")
    for key, value in meta.items():
        writer.add_uint32(f"llama.{key}", value)
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, np.float32), raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_tied_embeddings_are_read_for_each_token_and_untied_ones_are_looked_up(tmp_path: Path) -> None:
    """Fails when the table of an untied model counts (an eighth of a small model), or that of a tied one does not."""
    tied = {"token_embd.weight": (100, 8), "blk.0.attn_q.weight": (8, 8)}
    assert bytes_per_token(written(tmp_path / "tied.gguf", tied)) == 4 * (800 + 64)
    untied = {**tied, "output.weight": (100, 8), "per_layer_token_embd.weight": (50, 8)}
    assert bytes_per_token(written(tmp_path / "untied.gguf", untied)) == 4 * (800 + 64)


def test_of_experts_the_routed_share_is_read(tmp_path: Path) -> None:
    """2 of 8 experts: a quarter of their bytes, and all of what the tokens share."""
    shapes = {"token_embd.weight": (10, 8), "blk.0.ffn_up_exps.weight": (8, 4, 8), "blk.0.attn_q.weight": (8, 8)}
    path = written(tmp_path / "experts.gguf", shapes, expert_count=8, expert_used_count=2)
    assert bytes_per_token(path) == 4 * (80 + 64 + 64)


def test_all_parts_of_a_split_model_count(tmp_path: Path) -> None:
    """Fails when the first part alone makes a large model look quick."""
    first = written(tmp_path / "m-00001-of-00002.gguf", {"token_embd.weight": (10, 8)})
    with pytest.raises(ModelNotFound):
        bytes_per_token(first)
    written(tmp_path / "m-00002-of-00002.gguf", {"output.weight": (10, 8)})
    assert bytes_per_token(first) == 4 * 80


def test_the_demo_reads_its_tied_weights() -> None:
    """The figure on the card of the bundled model, and the limit it makes."""
    assert bytes_per_token(DEMO) == inspect(DEMO).tensor_bytes
    assert limit_tokens_per_s(Bandwidth(4e9, "sum", 1 << 29, 2), 500_000_000) == 8.0


CURVE = Curve(0, (1, 2, 4, 8), (40.0, 70.0, 60.0, 120.0))


def test_the_bound_is_the_best_number_of_rows_over_times_alone() -> None:
    """Worked by hand: 3 rows go as 4: (60 + 20) / 2 = 40 ms a token; 8 rows: (120 + 40) / 5 = 32; plain: 40."""
    assert bound(CURVE, {3: 4.0}, {3: 20.0}) == Bound(3, 2.0, 50.0)
    found = bound(CURVE, {3: 2.0, 8: 5.0}, {3: 20.0, 8: 40.0})
    assert found == Bound(8, 40 / 32, 1000 / 32)


def test_where_nothing_pays_the_bound_is_plain_decoding() -> None:
    """Fails when a result is compared with a bound below 1, which leaving speculation off would pass."""
    assert bound(CURVE, {2: 1.2}, {2: 5.0}) == bound(CURVE, {}, {}) == Bound(1, 1.0, 25.0)


def test_the_bound_is_that_of_the_depth() -> None:
    """Attention makes wide passes dearer behind a long past."""
    curve = Curve(0, (1, 4), (40.0, 40.0), deep_rows=(1, 4), ms_per_cell=(0.01, 0.04))
    assert bound(curve, {4: 4.0}, {4: 0.0}).speedup == 4.0
    assert bound(curve, {4: 4.0}, {4: 0.0}, depth=1000).speedup == pytest.approx(4 * 50 / 80)


def test_rows_without_a_draft_time_are_refused() -> None:
    """A missing time must not count as nothing."""
    with pytest.raises(BadSetting, match=r"\[2, 8\] lack"):
        bound(CURVE, {2: 1.5, 4: 2.0}, {4: 1.0, 8: 1.0})


def test_passes_of_an_answer_are_counted_by_walking_it() -> None:
    """Worked by hand: 2 accepted and a bonus token, then 0 and a bonus, then more accepted than the answer has left."""
    assert passes_of([2, 9, 9, 0, 1, 0]) == 3
    assert passes_of([0, 0, 0]) == 3
    assert passes_of([]) == 0


def answer(prompt: list[int], sampling: Sampling, n_tokens: int) -> Recorded:
    """What the target says, drawn one token at a time."""
    text = list(prompt)
    for _ in range(n_tokens):
        row = TARGET.table[TARGET.row_index(text)][None]
        text.append(draw(Process(sampling)(np.array(text, np.int32), [()], row), Noise(sampling.seed), len(text)))
    return Recorded(tuple(prompt), tuple(text[len(prompt) :]), sampling)


def exact_passes(recorded: Recorded, rows: int, width: int, tau: float) -> int:
    """The definition: at each pass grow one node at a time, always the likeliest, then walk along the answer."""
    process, noise = Process(recorded.sampling), Noise(recorded.sampling.seed)
    text, n, n_passes = [*recorded.prompt, *recorded.answer], len(recorded.prompt), 0
    while n < len(text):
        tree, open_ = set(), {(): 0.0}
        while len(tree) < rows:
            path = max(open_, key=lambda p: open_[p])
            score = open_.pop(path)
            tree.add(path)
            history = np.array(text[:n], np.int32)
            row = DRAFT.table[DRAFT.row_index([*text[:n], *path])][None]
            dist = process.candidates(history, [path], row, None, 20)
            ranking = dist.logprob[0].astype(np.float64)
            if not recorded.sampling.greedy:
                ranking = ranking + noise.gumbel([n + len(path)], dist.ids)[0]
            chances = ranking / tau - np.log(np.exp(ranking / tau).sum()) + np.log(0.95)
            for i in np.argsort(-ranking)[:width]:
                open_[(*path, int(dist.ids[0, i]))] = score + min(chances[i], 0.0)
        n_accepted = 0
        while n + n_accepted < len(text) and tuple(text[n : n + n_accepted + 1]) in tree:
            n_accepted += 1
        n += n_accepted + 1
        n_passes += 1
    return n_passes


@pytest.mark.parametrize("sampling", MIXED, ids=["drawn", "greedy"])
def test_best_first_trees_are_those_grown_one_node_at_a_time(sampling: Sampling) -> None:
    """Fails when growing once for all rows, reading each path once, or ranking by another score changes a tree."""
    recorded = answer([1, 2, 3], sampling, 40)
    context = DRAFT.open(ContextSpec(n_ctx=256, max_nodes=12, max_leaves=12))
    found = best_first_tokens_per_pass(context, [recorded], rows=(1, 2, 5, 12), width=6, taus=(0.4, 1.0))
    expected = {n: 40 / min(exact_passes(recorded, n, 6, tau) for tau in (0.4, 1.0)) for n in (1, 2, 5, 12)}
    assert found == expected
    assert found[1] == 1.0 < found[2] < found[5] <= found[12]
    assert context.length(0) == 0


def test_answers_count_by_their_tokens() -> None:
    """Fails when a short answer weighs as much as a long one; a drafter's cache from before must not matter."""
    both = [answer([1, 2, 3], MIXED[0], 30), answer([9, 8], MIXED[1], 10)]
    context = DRAFT.open(ContextSpec(n_ctx=256, max_nodes=8, max_leaves=8))
    context.prefill(0, [5] * 50)
    n_passes = sum(exact_passes(recorded, 8, 8, 0.6) for recorded in both)
    assert best_first_tokens_per_pass(context, both, rows=(8,), taus=(0.6,)) == {8: 40 / n_passes}


def test_every_path_is_read_once_for_all_trees() -> None:
    """What keeps the card cheap beside a run: well under the reads of one tree of 32 rows a token and tau."""
    recorded = answer([1, 2, 3], MIXED[0], 40)
    context = DRAFT.open(ContextSpec(n_ctx=256, max_nodes=32, max_leaves=32))
    best_first_tokens_per_pass(context, [recorded])
    assert context.n_passes < 40 * 32


def test_a_context_too_narrow_for_the_trees_is_refused() -> None:
    """Fails when trees are cut in silence and the bound comes out too low."""
    context = DRAFT.open(ContextSpec(n_ctx=256, max_nodes=32, max_leaves=16))
    recorded = answer([1, 2, 3], MIXED[0], 4)
    with pytest.raises(BadSetting, match="trees of 32 rows need a context of as many nodes and leaves, not 16"):
        best_first_tokens_per_pass(context, [recorded])
    for wrong in ([], [Recorded((), (1,), MIXED[0])], [Recorded((1,), (), MIXED[0])]):
        with pytest.raises(BadSetting, match="prompts, and answers with tokens"):
            best_first_tokens_per_pass(context, wrong, rows=(2,))
