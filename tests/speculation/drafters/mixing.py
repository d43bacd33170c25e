"""Mixtures of sources for tests: made ones, told ones, and answers with them on the fake backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgespec.backends.fake import FakeContext, FakeModel
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Setup
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters.automaton import Automaton
from edgespec.speculation.drafters.mix import MixDrafter
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.drafters.recycle import Recycled
from edgespec.speculation.drafters.sources import NOTHING, Guess
from edgespec.speculation.drafters.suffix import Suffix
from edgespec.speculation.sampling import Noise, Process
from edgespec.types import PLAIN, Choice, ContextSpec, Sampling, Step, TokenTree

MODEL = FakeModel(n_vocab=48, seed=3, end_ids=frozenset())
# Few rows and one token of past: at temperature 0 the text must come round.
LOOPING = FakeModel(n_vocab=12, seed=3, order=1, end_ids=frozenset())
DRAFT = MODEL.perturbed(1.0)
TREE = Choice("mix", rows=12, depth=8, width=4)
SPEC = ContextSpec(n_ctx=900, max_nodes=32, max_leaves=32)


class Says:
    """A source whose guess at each place is given, by the tokens behind the history; places are those tokens."""

    trust = (0.0, 0.1, 1.5)

    def __init__(self, guesses: dict[tuple[int, ...], Guess]) -> None:
        self._guesses = guesses

    def follow(self, history: np.ndarray) -> tuple[int, ...]:
        return ()

    def step(self, place: tuple[int, ...], token: int) -> tuple[int, ...]:
        return (*place, token)

    def guess(self, place: tuple[int, ...]) -> Guess:
        return self._guesses.get(place, NOTHING)


def reader(model: FakeModel = DRAFT) -> tuple[Reader, FakeContext]:
    context = model.open(SPEC)
    return Reader(context), context


def draft(d: MixDrafter, history: Sequence[int], choice: Choice = TREE, temperature: float = 0.0) -> TokenTree:
    return d.draft(np.array(history, np.int32), choice, Process(Sampling(temperature=temperature)), Noise(4))


def made(names: str, model: FakeModel = MODEL) -> tuple[Any, list[Recycled], list[TimedContext]]:
    """A drafter of these by letter (s suffix, r recycled, m the model's rows; m alone is the model drafter), what
    learns, and contexts."""
    recycled = Recycled(1 << 10)
    sources: list[Any] = [Suffix(Automaton(4000))] if "s" in names else []
    sources += [recycled] if "r" in names else []
    contexts = [TimedContext(model.perturbed(1.0).open(SPEC))] if "m" in names else []
    if not sources and contexts:
        return ModelDrafter(Reader(contexts[0])), [recycled], contexts
    return MixDrafter(sources, Reader(contexts[0]) if contexts else None), [recycled], contexts


def answer(names: str, temperature: float, model: FakeModel = MODEL, n: int = 200, choice: Choice = TREE) -> list[Step]:
    drafter, learners, contexts = made(names or "s", model)
    setup = Setup(
        TimedContext(model.open(SPEC)),
        {"mix": drafter},
        FixedController(choice if names else PLAIN),
        "mix",
        contexts,
        learners if "r" in names else (),
    )
    events = Engine(setup).generate([1, 2, 3], Sampling(temperature=temperature, seed=9), n, end_ids=())
    return [s for s in events if isinstance(s, Step)]


def said(steps: list[Step]) -> list[int]:
    return [t for s in steps for t in s.tokens]


def path_tokens(tree: TokenTree, node: int) -> list[int]:
    path: list[int] = []
    while node:
        path.append(int(tree.token[node]))
        node = int(tree.parent[node])
    return path[::-1]


def node_at(tree: TokenTree, path: Sequence[int]) -> list[int]:
    """Nodes of a path of tokens, the root first."""
    nodes = [0]
    for token in path:
        nodes.append(int(np.flatnonzero((tree.parent == nodes[-1]) & (tree.token == token))[0]))
    return nodes
