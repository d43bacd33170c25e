"""Growth and steps on the demo pair: what the fake backend cannot show, the runtime's own state on its way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from edgespec.backends.llama_cpp.model import LlamaModel, LoadOptions
from edgespec.engine import growth
from edgespec.engine.clock import TimedContext
from edgespec.engine.ladder import Ladder
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Build, Setup
from edgespec.memory.configuration import Configuration, DraftModel
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.tree import chain
from edgespec.types import PLAIN, Choice, ContextSpec, Span
from tests.engine.machine import Script, answer

DEMO = Path(__file__).parents[2] / "edgespec" / "demo"
TREE = Choice("model", rows=8, depth=7, width=8)
SMALL = Choice("model", rows=4, depth=3, width=2)
N = 320


@dataclass(frozen=True)
class Pair:
    target: LlamaModel
    draft: LlamaModel

    @property
    def prompt(self) -> list[int]:
        text = "<|bos|><|user|>Tell me a long story about a lighthouse.<|end|><|assistant|>"
        return self.target.tokenize(text.encode(), special=True)

    def build(self) -> Build:
        return Build(
            target=self.target.open,
            draft=lambda draft: self.draft.open(draft.context),
            drafters=lambda _, context: {"model": ModelDrafter(Reader(context))},
            controller=lambda c: FixedController(c.choice),
            release=lambda _: None,
        )


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    found = Pair(LlamaModel(DEMO / "demo.gguf", LoadOptions()), LlamaModel(DEMO / "demo-draft.gguf", LoadOptions()))
    yield found
    found.draft.close()
    found.target.close()


def rung(kv: str, choice: Choice = TREE, draft_kv: str = "f16", window: int | None = None, **target: object):
    spec = {"n_ctx": 1536, "max_nodes": 8, "max_leaves": 8, "kv_type": kv, "exact": True, "n_threads": 1, **target}
    draft = ContextSpec(n_ctx=1536, max_nodes=32, max_leaves=32, kv_type=draft_kv, n_threads=1)
    model = None if choice.plain else DraftModel("demo-draft", draft, window=window)
    return Configuration(ContextSpec(**spec), choice, draft=model)


@pytest.fixture(scope="module")
def alone(pair: Pair) -> dict[tuple[str, float], list[int]]:
    """By KV type and temperature: the plain text, in a context opened whole, in exact mode."""
    found = {}
    for kv in ("f16", "q8_0"):
        context = TimedContext(pair.target.open(rung(kv, PLAIN).target))
        engine = Engine(Setup(context, {}, FixedController(PLAIN), "plain"))
        for temperature in (0.0, 0.9):
            found[kv, temperature] = answer(engine, pair.prompt, N, temperature)[0]
        engine.close()
    return found


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for 64 tokens more at a time: a short test grows often."""
    monkeypatch.setattr(growth, "GRAIN", 64)
    monkeypatch.setattr(growth, "PAD", 64)
    monkeypatch.setattr("edgespec.engine.ladder.FIRST", 64)


def run(pair: Pair, rungs: list[Configuration], temperature: float, moves: str = ""):
    words = [{"d": "down", "u": "up"}.get(letter, "stay") for letter in moves]
    ladder = Ladder(rungs, pair.build(), watch=Script(words).watch() if moves else None)
    engine = Engine(ladder.setup, ladder=ladder)
    try:
        return answer(engine, pair.prompt, N, temperature)
    finally:
        engine.close()


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("kv", ["f16", "q8_0"])
@pytest.mark.parametrize("choice", [PLAIN, TREE], ids=["plain", "tree"])
def test_exact_stays_exact_over_growth(
    pair: Pair, alone: dict[tuple[str, float], list[int]], often: None, kv: str, temperature: float, choice: Choice
) -> None:
    """Fails when a copied state differs in one bit or one place from what the runtime would have written."""
    said, notices, _ = run(pair, [rung(kv, choice)], temperature)
    assert len([n for n in notices if n.kind == "context"]) >= 4
    assert said == alone[kv, temperature]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("kv", ["f16", "q8_0"])
def test_exact_stays_exact_over_steps(
    pair: Pair, alone: dict[tuple[str, float], list[int]], often: None, kv: str, temperature: float
) -> None:
    """Fails when contexts of other rows, leaves or prompt widths, or a drafter's change, reach the text."""
    rungs = [
        rung(kv),
        rung(kv, SMALL, max_nodes=4, max_leaves=4),
        rung(kv, SMALL, "q8_0", max_nodes=4, max_leaves=4),
        rung(kv, SMALL, "q4_0", window=64, max_nodes=4, max_leaves=4, n_ubatch=64),
        rung(kv, PLAIN, max_nodes=2, max_leaves=1, n_ubatch=64),
    ]
    said, notices, steps = run(pair, rungs, temperature, "..d...d..d....dd.u..u.u....u...dddd....uuuu.d.u.d.u")
    assert len([n for n in notices if n.kind == "ladder"]) >= 12
    assert sum(s.n_accepted for s in steps) > 50
    assert said == alone[kv, temperature]


@pytest.mark.parametrize("window", [1, 50])
def test_a_drafters_window_does_not_reach_the_text(
    pair: Pair, alone: dict[tuple[str, float], list[int]], window: int
) -> None:
    """Fails when the drafter's shortened positions get into the noise, the target or the path."""
    said, _, steps = run(pair, [rung("q8_0", window=window)], 0.9)
    assert said == alone["q8_0", 0.9]
    assert all(s.n_drafted > 0 for s in steps[1:-1])


@pytest.mark.parametrize("kv", ["f16", "q8_0", "q4_0"])
def test_a_state_fits_contexts_of_any_shape(pair: Pair, kv: str) -> None:
    """Fails when the runtime ties a state to the sequences, cells or widths it came from: next rows must be equal."""
    ids = np.random.default_rng(0).integers(0, 8000, 300).astype(np.int32)
    spec = ContextSpec(n_ctx=320, max_nodes=4, max_leaves=4, kv_type=kv, n_ubatch=512, exact=True, n_threads=1)
    shapes = [spec, replace(spec, n_ctx=2048), replace(spec, max_nodes=32, max_leaves=24), replace(spec, n_ubatch=32)]
    rows, blob = [], b""
    for shape in shapes:
        context = pair.target.open(shape)
        if not blob:
            context.prefill(0, ids)
        else:
            context.import_state(0, blob)
        assert context.length(0) == 300
        blob = context.export_state(0)
        rows.append(context.evaluate([Span(0, chain([5, 6, 7]), np.arange(3))]).logits.copy())
        context.close()
    assert all(np.array_equal(rows[0], other) for other in rows[1:])
