"""Losslessness is the product: the contract of docs/design.md section 3, on the fake backend and on the demo pair.

The whole of it, 40 prompts by 128 tokens, is the slow marker's (`make lossless`); the quick part runs the same code
on fewer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgespec.backends.fake import FakeModel
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Setup
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.tree import chain
from edgespec.speculation.verify import verify
from edgespec.types import PLAIN, Choice, ContextSpec, Sampling, Span, Step, Verdict

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "edgespec" / "demo"
CHAIN = Choice("model", rows=5, depth=4, width=1)
TREE = Choice("model", rows=8, depth=7, width=8)
WIDE = Choice("model", rows=24, depth=8, width=8)
SHAPES = {"chain": CHAIN, "tree": TREE, "wide": WIDE}
# Contract (b): so many tokens may differ from the argmax of one pass, by so much.
MAX_SHARE, MAX_GAP = 0.005, 0.15


@dataclass(frozen=True)
class Pair:
    target: LlamaModel
    draft: LlamaModel

    def prompt(self, text: str) -> list[int]:
        return self.target.tokenize(f"<|bos|><|user|>{text}<|end|><|assistant|>".encode(), special=True)


@pytest.fixture(scope="module")
def pair():
    p = Pair(LlamaModel(DEMO / "demo.gguf", LoadOptions()), LlamaModel(DEMO / "demo-draft.gguf", LoadOptions()))
    yield p
    p.draft.close()
    p.target.close()


def prompts(pair: Pair, n: int, longest: int = 1800) -> list[list[int]]:
    """n dev prompts spread over the file, so over its categories."""
    lines = (ROOT / "benchmarks" / "data" / "prompts_dev.jsonl").read_text().splitlines()
    ids = [pair.prompt(json.loads(line)["turns"][0]) for line in lines]
    fitting = [i for i in ids if len(i) <= longest]
    return fitting[:: max(len(fitting) // n, 1)][:n]


def demo_engine(pair: Pair, choice: Choice, kv: str = "f16", exact: bool = False) -> Engine:
    spec = ContextSpec(n_ctx=2048, max_nodes=32, max_leaves=24, kv_type=kv, exact=exact, n_threads=2)
    draft = TimedContext(pair.draft.open(ContextSpec(n_ctx=2048, max_nodes=32, max_leaves=48, n_threads=2)))
    drafters = {"model": ModelDrafter(Reader(draft))}
    target = TimedContext(pair.target.open(spec))
    return Engine(Setup(target, drafters, FixedController(choice), "model", [draft]))


def answers(engine: Engine, asked: list[list[int]], n: int, temperature: float, end_ids=frozenset()) -> list[list[int]]:
    """Answers to prompts; an engine that drafts must have had drafts accepted, or there was nothing to get wrong."""
    sampling = Sampling(temperature=temperature, seed=7)
    said: list[list[int]] = []
    n_drafted = n_accepted = 0
    for prompt in asked:
        steps = [e for e in engine.generate(prompt, sampling, n, end_ids=end_ids) if isinstance(e, Step)]
        said.append([t for s in steps for t in s.tokens])
        n_drafted += sum(s.n_drafted for s in steps)
        n_accepted += sum(s.n_accepted for s in steps)
    engine.close()
    assert n_accepted > 0.1 * n_drafted or not n_drafted
    return said


def exact_text_is_plain_text(pair: Pair, shape: str, kv: str, temperature: float, n_prompts: int, n: int) -> None:
    asked = prompts(pair, n_prompts)
    end_ids = pair.target.end_ids
    plain = answers(demo_engine(pair, PLAIN, kv, exact=True), asked, n, temperature, end_ids)
    found = answers(demo_engine(pair, SHAPES[shape], kv, exact=True), asked, n, temperature, end_ids)
    assert found == plain
    assert len(asked) == n_prompts


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(("shape", "kv"), [("chain", "f16"), ("tree", "f16"), ("wide", "q8_0")])
def test_exact_text_is_plain_text(pair: Pair, shape: str, kv: str, temperature: float) -> None:
    """Fails when a row depends on its pass: one flipped argmax or draw changes all that follows."""
    exact_text_is_plain_text(pair, shape, kv, temperature, n_prompts=4, n=64)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("kv", ["f16", "q8_0"])
@pytest.mark.parametrize("shape", SHAPES)
def test_exact_text_is_plain_text_over_40_prompts(pair: Pair, shape: str, kv: str, temperature: float) -> None:
    """The same over the whole bar of the product."""
    exact_text_is_plain_text(pair, shape, kv, temperature, n_prompts=40, n=128)


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_exact_text_is_plain_text_past_512_cells(pair: Pair, shape: str) -> None:
    """Fails when a long cache is split over threads, or crosses a padding border, for lone rows only."""
    long = [p for p in prompts(pair, 60) if 450 <= len(p) <= 900][:2]
    assert len(long) == 2
    for kv in ("f16", "q8_0"):
        plain = answers(demo_engine(pair, PLAIN, kv, exact=True), long, 120, 0.8)
        assert answers(demo_engine(pair, SHAPES[shape], kv, exact=True), long, 120, 0.8) == plain


def teacher_forced_gaps(pair: Pair, prompt: list[int], said: list[int]) -> np.ndarray:
    """For each token said, how far its logit lies under the best of its row, all rows in one pass."""
    context = pair.target.open(ContextSpec(n_ctx=2048, max_nodes=len(said), max_leaves=1, n_threads=2))
    context.prefill(0, prompt[:-1])
    rows = context.evaluate([Span(0, chain([prompt[-1], *said[:-1]]), np.arange(len(said)))]).logits
    gaps = rows.max(axis=1) - rows[np.arange(len(said)), said]
    context.close()
    return gaps


def contract_violations(gaps: np.ndarray) -> bool:
    return bool((gaps > 0).mean() > MAX_SHARE or (gaps > MAX_GAP).any())


def gaps_of(pair: Pair, choice: Choice, asked: list[list[int]], n: int) -> np.ndarray:
    """Gaps of all tokens of greedy answers, without --exact."""
    said = answers(demo_engine(pair, choice), asked, n, 0.0, pair.target.end_ids)
    return np.concatenate([teacher_forced_gaps(pair, p, s) for p, s in zip(asked, said, strict=True)])


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_greedy_text_passes_teacher_forcing(pair: Pair, shape: str) -> None:
    """Fails when a token is not the target's own argmax but for a near tie (contract b)."""
    gaps = gaps_of(pair, SHAPES[shape], prompts(pair, 30, longest=300), 128)
    assert len(gaps) > 2500  # plain decoding itself has 0.2 % of near ties: fewer tokens would test luck
    assert not contract_violations(gaps), (gaps[gaps > 0]).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_text_passes_teacher_forcing_over_40_prompts(pair: Pair, shape: str) -> None:
    """The same over the whole bar of the product."""
    assert not contract_violations(gaps_of(pair, SHAPES[shape], prompts(pair, 40), 128))


def test_teacher_forcing_finds_a_wrong_token(pair: Pair) -> None:
    """Fails when contract (b) could not be broken: one token in a hundred replaced by the runner-up."""
    asked = prompts(pair, 1)
    said = answers(demo_engine(pair, TREE), asked, 100, 0.0)[0]
    said[50] = (said[50] + 1) % pair.target.n_vocab
    assert contract_violations(teacher_forced_gaps(pair, asked[0], said))


def test_the_same_seed_gives_the_same_text_for_every_shape(pair: Pair) -> None:
    """Fails when randomness depends on the drafter, the tree or the round (the runtime's rounding excluded: exact)."""
    asked = prompts(pair, 2)
    texts = [answers(demo_engine(pair, c, exact=True), asked, 48, 1.2) for c in (PLAIN, *SHAPES.values())]
    assert all(t == texts[0] for t in texts)


# The law of the text, on a model small enough to count all of it.
TINY = FakeModel(n_vocab=5, seed=1, order=1, scale=1.0, end_ids=frozenset())
N_SEEDS = 6000
# 24 degrees of freedom, p = 0.001
CRITICAL = 51.2


def chi_square_of_pairs(choice: Choice) -> float:
    """Of the second and third token of N_SEEDS answers against the exact law; 25 pairs."""
    spec = ContextSpec(n_ctx=64, max_nodes=32, max_leaves=32)
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    target = TimedContext(TINY.open(spec))
    draft = TimedContext(TINY.perturbed(1.5).open(spec))
    drafters = {"model": ModelDrafter(Reader(draft))}
    engine = Engine(Setup(target, drafters, FixedController(choice), "model", [draft]))
    counts = np.zeros((5, 5))
    for seed in range(N_SEEDS):
        events = engine.generate([1, 2], Sampling(seed=seed, **settings), 3, end_ids=())
        _, a, b = [t for e in events if isinstance(e, Step) for t in e.tokens]
        counts[a, b] += 1
    step = np.array([np.exp(TINY.table[TINY.row_index([i])]) for i in range(5)])
    step /= step.sum(axis=1, keepdims=True)
    law = (step[2] @ step)[:, None] * step * N_SEEDS
    return float(((counts - law) ** 2 / law).sum())


@pytest.mark.parametrize(
    "choice", [PLAIN, Choice("model", 4, 3, 1), Choice("model", 6, 3, 3)], ids=["plain", "chain", "tree"]
)
def test_sampled_text_follows_the_targets_law(choice: Choice) -> None:
    """Fails when acceptance favours what was drafted (contract c)."""
    assert chi_square_of_pairs(choice) < CRITICAL


def test_the_law_is_missed_when_the_rule_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the chi-square test could not: here a drafted child is taken, drawn or not, if likely enough."""

    def generous(tree, rows, process, noise, history, **limits):
        dist = process(history, [[]], rows.logits[:1], rows.ids)
        for child in tree.token[tree.parent == 0]:
            if np.exp(dist.logprob[0][dist.ids[0] == child]).sum() > 0.3:
                return Verdict((0,), (int(child),), "length" if limits["max_tokens"] == 1 else None)
        return verify(tree, rows, process, noise, history, **limits)

    monkeypatch.setattr("edgespec.engine.loop.verify", generous)
    assert chi_square_of_pairs(Choice("model", 6, 3, 3)) > CRITICAL
