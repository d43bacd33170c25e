"""Trees of 256 nodes say what plain decoding says, on the demo pair: the contract of docs/design.md section 3.

Under --exact with q8_0 KV a row depends on nothing but its past, so the texts must be the same to the last token.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Setup
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.policies import MAX_LEAVES, MAX_LEVELS, n_beams_of, n_reads_at_most
from edgespec.types import PLAIN, Choice, ContextSpec, Sampling, Step

DEMO = Path(__file__).parents[1] / "edgespec" / "demo"
LARGE = Choice("model", rows=256, depth=MAX_LEVELS, width=16)
QUESTIONS = ("Write a short story about a ferry and eleven cars.", "Write a function that reverses a list.")


@pytest.fixture(scope="module")
def pair():
    models = [LlamaModel(DEMO / f"{name}.gguf", LoadOptions()) for name in ("demo", "demo-draft")]
    yield models
    for model in models:
        model.close()


def answers(pair: list[LlamaModel], choice: Choice, temperature: float, n_tokens: int) -> list[Step]:
    target, draft = pair
    n_ctx, rows = 512, max(choice.rows, 2)
    spec = ContextSpec(n_ctx, max_nodes=rows, max_leaves=MAX_LEAVES, kv_type="q8_0", exact=True, n_threads=2)
    n_beams = max(n_beams_of(choice.rows, choice.width), 2)
    small = ContextSpec(n_ctx + n_reads_at_most(LARGE), max_nodes=n_beams, max_leaves=MAX_LEAVES, n_threads=2)
    context, drafting = TimedContext(target.open(spec)), TimedContext(draft.open(small))
    drafter = ModelDrafter(Reader(drafting))
    engine = Engine(Setup(context, {"model": drafter}, FixedController(choice), "model", [drafting]))
    found: list[Step] = []
    for question in QUESTIONS:
        ids = target.tokenize(f"<|bos|><|user|>{question}<|end|><|assistant|>".encode(), special=True)
        sampling = Sampling(temperature=temperature, seed=11)
        found += [e for e in engine.generate(ids, sampling, n_tokens, end_ids=()) if isinstance(e, Step)]
    engine.close()
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_256_rows_say_what_plain_decoding_says(pair: list[LlamaModel], temperature: float) -> None:
    """Fails when one row of a large tree differs from a lone row, when the walk takes a wrong child among hundreds, or
    a kept path leaves the cache out of order; and when large trees were not what was run, or nothing was accepted."""
    plain, large = (answers(pair, choice, temperature, 32) for choice in (PLAIN, LARGE))
    assert [t for s in large for t in s.tokens] == [t for s in plain for t in s.tokens]
    assert max(s.n_drafted for s in large) == 255
    assert sum(s.n_accepted for s in large) > len(large)
