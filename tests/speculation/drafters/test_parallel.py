"""The parallel drafter: on the fake backend, whose row at a mask is the table's after the text and the masks, and on
the demo drafter with a token of its vocabulary for a mask (it was never taught one: laws hold for any drafter).
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgespec.backends.fake import FakeContext, FakeModel
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Setup
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters.agreement import Agreement
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.parallel import MAX_UNREAD, ParallelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.sampling import Noise, Process, log_softmax
from edgespec.speculation.tree import chain
from edgespec.types import PLAIN, Choice, ContextSpec, Sampling, Span, Step, TokenTree, Verdict

DEMO = Path(__file__).parents[3] / "edgespec" / "demo"
MASK, VOCAB = 63, 64
# Long enough for a row to depend on how many masks stand before it.
MODEL = FakeModel(n_vocab=VOCAB, order=9, end_ids=frozenset())
CHAIN = Choice("parallel", rows=6, depth=5, width=1)
TREE = Choice("parallel", rows=12, depth=5, width=4)
SEED = 4


def drafter(model: FakeModel = MODEL, max_nodes: int = 32) -> tuple[ParallelDrafter, FakeContext]:
    context = model.open(ContextSpec(n_ctx=1024, max_nodes=max_nodes, max_leaves=1))
    return ParallelDrafter(Reader(context), MASK), context


def draft(d, history: list[int], choice: Choice = TREE, sampling: Sampling | None = None) -> TokenTree:
    return d.draft(np.array(history, np.int32), choice, Process(sampling or Sampling(temperature=0)), Noise(SEED))


def accept(d, tree: TokenTree, history: list[int], n: int, bonus: int = 31) -> list[int]:
    """Accept the first path of length n, or as much of it as there is, and let the target add a token."""
    path, node = [0], 0
    for _ in range(n):
        below = np.flatnonzero(tree.parent == node)
        if not len(below):
            break
        node = int(below[0])
        path.append(node)
    tokens = [*tree.token[path[1:]].tolist(), bonus]
    history = [*history, *tokens]
    d.commit(np.array(history, np.int32), Verdict(tuple(path), tuple(tokens), None))
    return history


def row(history: list[int], place: int) -> np.ndarray:
    """What the drafter must see at a place: the row after the text and so many masks."""
    return MODEL.table[MODEL.row_index([*history, *[MASK] * place])]


def test_row_j_drafts_token_j_plus_one() -> None:
    """Fails when a row is taken for its neighbour's, or masks stand in front of the pending token."""
    history = [5, 6, 7]
    tree = draft(drafter()[0], history, CHAIN)
    assert tree.token.tolist() == [7, *(int(row(history, j).argmax()) for j in range(5))]
    assert tree.parent.tolist() == [-1, 0, 1, 2, 3, 4]


def test_each_round_is_one_pass_and_nothing_is_read_twice() -> None:
    """Fails when accepted tokens take a pass of their own, or masks of accepted places are read again as text."""
    d, context = drafter()
    history = [1, 2, 3, 4]
    long = Choice("parallel", rows=13, depth=12, width=1)
    for n_rounds, n in enumerate((0, 1, 12, 2, 5, 12, 0, 3), start=1):
        tree = draft(d, history, long)
        assert context.n_passes == n_rounds
        assert context.n_rows == n_rounds * long.depth
        assert context.n_silent == len(history) - n_rounds  # every token once, the pending ones with a row
        history = accept(d, tree, history, n)
    assert context.n_prefilled == 0
    assert context.n_passes == n_rounds


def test_masks_never_stay_in_the_cache() -> None:
    """Fails when a mask's cell outlives the draft: later rows would see it as text."""
    d, context = drafter()
    history = [1, 2, 3, 4]
    for choice, n in ((CHAIN, 2), (TREE, 0), (TREE, 3), (CHAIN, 5)):
        tree = draft(d, history, choice)
        assert context._slots[0].tokens == history
        assert not context._slots[0].nodes
        before, history = history, accept(d, tree, history, n)
        assert context._slots[0].tokens == before


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_draft_with_nothing_accepted_in_between_is_the_same_again(temperature: float) -> None:
    """Fails when drafting leaves anything behind: the second draft must see the text and nothing else."""
    d, _ = drafter()
    first, again = (draft(d, [1, 2, 3], TREE, Sampling(temperature=temperature)) for _ in range(2))
    assert first.token.tolist() == again.token.tolist()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("choice", [TREE, Choice("parallel", 24, 4, 3), Choice("parallel", 5, 4, 8)])
def test_the_tree_is_the_best_of_all_combinations(choice: Choice, temperature: float) -> None:
    """Against brute force: a node's score is the sum of its places' log-chances, with the noise of its own position.

    Fails when growth stops early, when chances depend on the parent, or when noise is another position's.
    """
    history = [9, 8, 7]
    sampling = Sampling(temperature=temperature, top_k=20, top_p=1.0, min_p=0.0)
    tree = draft(drafter()[0], history, choice, sampling)
    best_at = []
    for place in range(choice.depth):
        logits = row(history, place).astype(np.float64)
        ids = np.argsort(-logits, kind="stable")[:20]
        score = logits[ids] / (temperature or 1.0)
        if temperature:
            score = log_softmax(score) + Noise(SEED).gumbel([len(history) + place], ids[None].astype(np.int32))[0]
        chance = Agreement().logprob(score)
        order = np.argsort(-score, kind="stable")[: choice.width]
        best_at.append([(int(ids[i]), float(chance[i])) for i in order])
    every = {(): 0.0}
    for depth in range(1, choice.depth + 1):
        for combination in itertools.product(*best_at[:depth]):
            every[tuple(t for t, _ in combination)] = sum(s for _, s in combination)
    expected = sorted(every, key=lambda path: -every[path])[: choice.rows]
    assert set(paths(tree)) == set(expected)
    assert tree.draft_logprob == pytest.approx([every[path] for path in paths(tree)], abs=1e-4)


def paths(tree: TokenTree) -> list[tuple[int, ...]]:
    """Tokens from below the pending one to each node."""
    found: list[tuple[int, ...]] = []
    for parent, token in zip(tree.parent.tolist(), tree.token.tolist(), strict=True):
        found.append(() if parent < 0 else (*found[parent], token))
    return found


def test_agreement_is_fitted_by_place() -> None:
    """Fails when places share one figure: here the first is always right and the second always wrong."""
    d, _ = drafter()
    history = [1, 2]
    for _ in range(60):
        history = accept(d, draft(d, history, CHAIN), history, 1, bonus=MASK)
    chances = np.diff(draft(d, history, CHAIN).draft_logprob)
    assert chances[0] > -0.5
    assert chances[1] < -2
    assert chances[2] == pytest.approx(chances[3], abs=1.5)  # never seen: as they began


def test_a_surer_first_place_makes_trees_deeper() -> None:
    """Fails when what is learnt does not reach the shape: rows go where the walk is likely to come."""
    sure, lost = drafter()[0], drafter()[0]
    there = here = [1, 2]
    for _ in range(60):
        there = accept(sure, draft(sure, there, CHAIN), there, 5)
        here = accept(lost, draft(lost, here, CHAIN), here, 0, bonus=MASK)
    assert draft(sure, there).depth.max() > draft(lost, here).depth.max()


def test_what_is_too_unlikely_is_not_drafted() -> None:
    """A controller's word. Fails when rows are spent on nodes that it would cut off again."""
    d, _ = drafter()
    whole = draft(d, [1, 2, 3], TREE)
    least = float(np.median(whole.draft_logprob)) - 1e-4
    tree = draft(d, [1, 2, 3], replace(TREE, row_prices=(0.0, float(np.exp(least)))))
    assert sorted(tree.draft_logprob) == sorted(whole.draft_logprob[whole.draft_logprob >= least])
    assert 1 < len(tree) < len(whole)


def test_no_deeper_than_the_pass_has_rows() -> None:
    """Fails when a context opened for fewer rows is asked for more: the backend would refuse the pass."""
    tree = draft(drafter(max_nodes=3)[0], [1, 2, 3], CHAIN)
    assert len(tree) == 4


def test_the_settings_reach_the_draft() -> None:
    """Fails when a row is spent on what top-k cuts away, or when penalties do not follow the likeliest path."""
    cut = draft(drafter()[0], [1, 2], Choice("parallel", 16, 5, 8), Sampling(temperature=0.8, top_k=2))
    for node in range(len(cut)):
        assert (cut.parent == node).sum() <= 2
    same = FakeModel(n_vocab=VOCAB, order=1, end_ids=frozenset(), table=np.tile(MODEL.table[:1], (509, 1)))
    path = draft(drafter(same)[0], [1, 2], CHAIN, Sampling(temperature=0, presence_penalty=100)).token
    assert len(set(path.tolist())) == len(path)


def test_an_idle_drafter_catches_up_by_prefill() -> None:
    """Fails when a long text is read in silence in front of the masks, where a cancel cannot reach it."""
    d, context = drafter()
    draft(d, list(range(MAX_UNREAD + 2)))
    assert context.n_prefilled == MAX_UNREAD + 1
    d, context = drafter()
    draft(d, list(range(MAX_UNREAD + 1)))
    assert context.n_prefilled == 0


def test_a_replaced_conversation_is_caught_up_from_the_common_prefix() -> None:
    """Fails when a new prompt is drafted for with the old one in the cache."""
    d, context = drafter()
    accept(d, draft(d, list(range(20))), list(range(20)), 2)
    fresh = [*range(10), *range(30, 9, -1)]
    tree = draft(d, fresh)
    assert context._slots[0].tokens == fresh
    assert tree.token.tolist() == draft(drafter()[0], fresh).token.tolist()


def test_two_drafters_take_turns_on_one_context() -> None:
    """Fails when one of them believes in a cache that the other has moved on."""
    context = MODEL.open(ContextSpec(n_ctx=512, max_nodes=32, max_leaves=32))
    reader = Reader(context)
    both = ParallelDrafter(reader, MASK), ModelDrafter(reader)
    history = [1, 2, 3]
    for i, n in enumerate((2, 0, 3, 1, 4, 2, 0, 1)):
        d, choice = (both[0], TREE) if i % 3 else (both[1], CHAIN)
        tree = draft(d, history, choice)
        history = accept(d, tree, history, n)
        held = context._slots[0].tokens
        assert held == history[: len(held)]
    assert context.n_prefilled == 0


def test_a_window_and_forgetting_reach_the_cache() -> None:
    """Fails when the drafter keeps what it was told to leave out."""
    d, context = drafter()
    d.limit(8)
    history = list(range(30))
    draft(d, history)
    assert len(context._slots[0].tokens) <= 12
    d.forget()
    assert context._slots[0].tokens == []


def said(target, context, make, choice: Choice, prompt: list[int], temperature: float, n: int) -> list[int]:
    """An answer; draft rounds must be one pass each, whatever is drafted."""
    timed = TimedContext(context)
    drafters = {"parallel": make(timed)}
    engine = Engine(Setup(TimedContext(target), drafters, FixedController(choice), "parallel", [timed]))
    events = engine.generate(prompt, Sampling(temperature=temperature, seed=7), n, end_ids=())
    return [t for e in events if isinstance(e, Step) for t in e.tokens]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("choice", [CHAIN, TREE], ids=["chain", "tree"])
def test_the_text_is_the_targets_whatever_the_drafter(choice: Choice, temperature: float) -> None:
    """Fails when a draft changes what is said: a drafter that agrees, one that partly does, and one that does not."""
    spec = ContextSpec(n_ctx=512, max_nodes=32, max_leaves=32)
    texts = [
        said(
            MODEL.open(spec),
            model.open(spec),
            lambda c: ParallelDrafter(Reader(c), MASK),
            kind,
            [3, 1, 4],
            temperature,
            60,
        )
        for kind, model in (
            (PLAIN, MODEL),
            (choice, MODEL),
            (choice, MODEL.perturbed(0.5)),
            (choice, FakeModel(n_vocab=VOCAB, seed=9)),
        )
    ]
    assert all(text == texts[0] for text in texts)


@pytest.fixture(scope="module")
def pair():
    models = [LlamaModel(DEMO / f"{name}.gguf", LoadOptions()) for name in ("demo", "demo-draft")]
    yield models
    for model in reversed(models):
        model.close()


def demo_spec(exact: bool) -> ContextSpec:
    return ContextSpec(n_ctx=512, max_nodes=32, max_leaves=24, exact=exact, n_threads=1)


PROMPT = b"<|bos|><|user|>Write a short story about a dog and its friends.<|end|><|assistant|>"


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("choice", [CHAIN, TREE], ids=["chain", "tree"])
def test_demo_text_is_plain_text(pair, choice: Choice, temperature: float) -> None:
    """The same on a real runtime, with a token for a mask that means nothing."""
    target, small = pair
    prompt = target.tokenize(PROMPT, special=True)
    plain, drafted = (
        said(
            target.open(demo_spec(exact=True)),
            small.open(demo_spec(exact=False)),
            lambda c: ParallelDrafter(Reader(c), mask_id=0),
            kind,
            prompt,
            temperature,
            48,
        )
        for kind in (PLAIN, choice)
    )
    assert drafted == plain


def test_a_runtimes_cache_after_rounds_is_the_texts(pair) -> None:
    """Fails when masks leave a trace in the runtime's own cache: the next rows must be a fresh one's, to the bit."""
    _, small = pair
    used, fresh = (small.open(demo_spec(exact=True)) for _ in range(2))
    d = ParallelDrafter(Reader(used), mask_id=0)
    history = small.tokenize(PROMPT, special=True)
    for n in (0, 2, 5, 1, 3):
        history = accept(d, draft(d, history, TREE if n % 2 else CHAIN), history, n, bonus=300 + n)
    tree = draft(d, history)
    fresh.prefill(0, history)
    assert used.length(0) == len(history) == fresh.length(0)
    after = [c.evaluate([Span(0, chain([301, 302]), [0, 1])]).logits.copy() for c in (used, fresh)]
    assert np.array_equal(after[0], after[1])
    assert len(tree) > 1
    for context in (used, fresh):
        context.close()
