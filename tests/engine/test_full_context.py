"""The last cells of a context, on the demo pair."""

from __future__ import annotations

import pytest

from edgespec.assemble import open_assistant
from edgespec.settings import Settings
from edgespec.types import Sampling


@pytest.mark.parametrize(("shape", "nodes"), [("chain", 8), ("tree", 8), ("tree", 24)])
def test_an_answer_fills_the_context_to_its_last_token(shape: str, nodes: int) -> None:
    """Fails when the target's or the drafter's cache has no room for a tree near the end."""
    no_end = Sampling(temperature=1.5, seed=1, logit_bias=((8185, float("-inf")), (8189, float("-inf"))))
    with open_assistant(Settings(context=96, method="model", shape=shape, nodes=nodes, threads=1)) as assistant:
        answer = assistant.answer([{"role": "user", "content": "Tell me a story."}], no_end)
    assert answer.finish == "length"
    assert answer.method == "model"
    assert answer.prompt_n + len(answer.tokens) == 96
