"""A workbench on the fake backend: every law of measuring can be seen without a runtime."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgespec.assistant import Assistant
from edgespec.backends.base import Context
from edgespec.backends.fake import FakeModel
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Setup
from edgespec.settings import Settings
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.types import PLAIN, Choice, ContextSpec, Message
from edgespec.workbench import Workbench

MODEL = FakeModel(n_vocab=200, seed=3, end_ids=frozenset())


def prompt_ids(turns: list[Message]) -> list[int]:
    return [1 + b % 198 for turn in turns for b in turn.content.encode()] or [1]


@pytest.fixture
def bench() -> Workbench:
    """plain, a chain and a tree over one fake pair; `answered` notes (method, cached prompt tokens) of every answer."""
    spec = ContextSpec(n_ctx=300, max_nodes=32, max_leaves=32)
    draft = TimedContext(MODEL.perturbed(1.0).open(spec))
    engine = Engine(
        Setup(
            TimedContext(MODEL.open(spec)),
            {"model": ModelDrafter(Reader(draft))},
            FixedController(PLAIN),
            "plain",
            [draft],
        )
    )
    assistant = SimpleNamespace(engine=engine, chat=SimpleNamespace(prompt_ids=prompt_ids), entry=None)
    choices = {"plain": PLAIN, "chain": Choice("model", 4, 3, 1), "tree": Choice("model", 8, 7, 4)}
    model = cast(Any, MODEL)
    whys = dict.fromkeys(choices, "")

    def drafter_on(context: Context) -> ModelDrafter:
        return ModelDrafter(Reader(context))

    def controller(name: str) -> FixedController:
        return FixedController(choices[name])

    return Workbench(cast(Assistant, assistant), choices, whys, Settings(), model, model, drafter_on, "key", controller)
