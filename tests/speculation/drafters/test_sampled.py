"""The sampled drafter on the fake backend."""

from __future__ import annotations

import numpy as np

from edgespec.backends.fake import FakeContext, FakeModel
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.drafters.sampled import SampledDrafter
from edgespec.speculation.sampling import Noise, Process
from edgespec.types import Choice, ContextSpec, Sampling, TokenTree, Verdict

TREE, CHAIN = Choice("model", 10, 4, 4), Choice("model", 5, 4, 1)
MODEL = FakeModel(n_vocab=32, end_ids=frozenset())


def drafter() -> tuple[SampledDrafter, FakeContext]:
    context = MODEL.open(ContextSpec(n_ctx=512, max_nodes=32, max_leaves=32))
    return SampledDrafter(Reader(context)), context


def draft(d, history: list[int], choice: Choice = TREE, sampling: Sampling | None = None, seed: int = 4) -> TokenTree:
    process = Process(sampling or Sampling(temperature=0.8))
    return d.draft(np.array(history, np.int32), choice, process, Noise(seed))


def test_the_tree_says_what_each_nodes_children_were_drawn_from() -> None:
    """Fails when rows of draft_probs are not in the order of the tree, or not of the settings' distribution."""
    sampling, history = Sampling(temperature=0.8, top_k=6), [1, 2, 3]
    tree = draft(drafter()[0], history, sampling=sampling)
    assert tree.draft_probs is not None
    for node in range(len(tree)):
        children = tree.token[tree.parent == node].tolist()
        path, at = [], node
        while at:
            path.insert(0, int(tree.token[at]))
            at = int(tree.parent[at])
        if children:
            row = MODEL.table[MODEL.row_index([*history, *path])][None]
            asked = Process(sampling)(np.array(history, np.int32), [path], row)
            assert tree.draft_probs.ids[node].tolist() == asked.ids[0].tolist()
            np.testing.assert_allclose(tree.draft_probs.logprob[node], asked.logprob[0], atol=1e-5)
            assert set(children) <= set(asked.ids[0][asked.logprob[0] > -np.inf].tolist())


def test_branches_at_one_depth_draw_independently() -> None:
    """Fails when noise is keyed by position as for the target's draws: cousins would be drawn alike, and what one of
    them is would say something about the other, which the verifier takes for a draw."""
    flat = FakeModel(n_vocab=32, scale=0.0, end_ids=frozenset())  # all nodes have one and the same distribution
    sampling = Sampling(temperature=1, top_k=0, top_p=1, min_p=0)
    n_alike = n_pairs = 0
    for seed in range(100):
        d = SampledDrafter(Reader(flat.open(ContextSpec(n_ctx=512, max_nodes=32, max_leaves=32))))
        tree = draft(d, [1, 2], Choice("model", 16, 2, 3), sampling, seed)
        first = {int(p): int(t) for p, t in zip(tree.parent[::-1], tree.token[::-1], strict=True) if p > 0}
        found = list(first.values())
        n_pairs += len(found) - 1
        n_alike += sum(token == found[0] for token in found[1:])
    assert n_pairs > 100
    assert n_alike < 0.15 * n_pairs  # 1 in 32 by chance


def test_at_temperature_0_it_drafts_as_the_model_drafter() -> None:
    """Fails when greedy drafting pays for sampling; both must learn the same from what was accepted, too."""
    found = []
    for make in (SampledDrafter, ModelDrafter):
        d = make(Reader(MODEL.open(ContextSpec(n_ctx=512, max_nodes=32, max_leaves=32))))
        history = [1, 2, 3]
        for _ in range(5):
            tree = draft(d, history, sampling=Sampling(temperature=0))
            history = [*history, int(tree.token[1]), 9]
            d.commit(np.array(history, np.int32), Verdict((0, 1), (int(tree.token[1]), 9), None))
            found.append((make, tree.token.tolist()))
    assert [t for m, t in found if m is SampledDrafter] == [t for m, t in found if m is ModelDrafter]


def test_the_cache_follows_the_accepted_path_without_reading_twice() -> None:
    """Fails when a sampled and a greedy answer in turn leave the cache behind the text."""
    d, context = drafter()
    history = [1, 2, 3, 4]
    for n, temperature in ((0, 0.8), (2, 0.8), (3, 0.0), (1, 0.8), (4, 0.8), (0, 0.0)):
        tree = draft(d, history, CHAIN, Sampling(temperature=temperature))
        n = min(n, len(tree) - 1)
        tokens = [*tree.token[1 : n + 1].tolist(), 31]
        history = [*history, *tokens]
        d.commit(np.array(history, np.int32), Verdict(tuple(range(n + 1)), tuple(tokens), None))
        assert context._slots[0].tokens == history[: context.length(0)]
        assert context.length(0) >= len(history) - 2
    assert context.n_prefilled == 0


def test_a_forgotten_conversation_is_read_anew() -> None:
    """Fails when the next draft rests on the last conversation."""
    d, context = drafter()
    draft(d, [1, 2, 3])
    d.forget()
    assert context.length(0) == 0
    assert draft(d, [5, 6]).token.tolist() == draft(drafter()[0], [5, 6]).token.tolist()
