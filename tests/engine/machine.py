"""A machine of the fake backend with so much memory: what is open counts, and what no longer fits is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgespec.backends.fake import FakeContext, FakeModel
from edgespec.engine.ladder import Ladder
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Build
from edgespec.errors import DoesNotFit
from edgespec.memory.configuration import Configuration, DraftModel
from edgespec.memory.pressure import Marks, Reading, Watch
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.types import PLAIN, Choice, ContextSpec, Notice, Sampling, Step

MODEL = FakeModel(n_vocab=48, seed=3, end_ids=frozenset())
DRAFT = MODEL.perturbed(1.0)
TREE = Choice("model", rows=8, depth=7, width=4)
NARROW = Choice("model", rows=4, depth=3, width=2)
BYTES = {"f16": 4, "q8_0": 2, "q4_0": 1}
WEIGHTS = 500


def rung(n_ctx: int = 4096, choice: Choice = TREE, kv: str = "f16", window: int | None = None, **target: object):
    """A configuration; target: fields of the target's ContextSpec."""
    spec = ContextSpec(**{"n_ctx": n_ctx, "max_nodes": max(choice.rows, 2), "max_leaves": 32, **target})
    if choice.plain:
        return Configuration(spec)
    draft = ContextSpec(n_ctx=n_ctx, max_nodes=32, max_leaves=32, kv_type=kv)
    return Configuration(spec, choice, draft=DraftModel("tiny", draft, window=window))


def bytes_of(c: Configuration) -> int:
    """A predictor for this machine: exact, but for a copy on its way."""
    draft = c.draft and WEIGHTS + c.draft.context.n_ctx * BYTES[c.draft.context.kv_type]
    return c.target.n_ctx * BYTES[c.target.kv_type] + (draft or 0)


@dataclass
class Machine:
    """memory: bytes in all. `opened` lists every context opened, as (model, KV type, n_ctx); free() is what is left."""

    memory: int = 1 << 30
    taken_by_others: int = 0
    opened: list[tuple[str, str, int]] = field(default_factory=list)
    alive: dict[int, tuple[FakeContext, int]] = field(default_factory=dict)
    weights: int = 0

    def free(self) -> int:
        open_bytes = sum(n for context, n in self.alive.values() if context._slots)
        return self.memory - self.taken_by_others - open_bytes - self.weights

    def open(self, model: FakeModel, spec: ContextSpec) -> FakeContext:
        n_bytes = spec.n_ctx * BYTES[spec.kv_type]
        if n_bytes > self.free():
            raise DoesNotFit(f"{n_bytes} bytes are wanted, {self.free()} are free; use less")
        context = model.open(spec)
        self.opened.append((model.name, spec.kv_type, spec.n_ctx))
        self.alive[id(context)] = context, n_bytes
        return context

    def draft(self, draft: DraftModel) -> FakeContext:
        self.weights = WEIGHTS
        return self.open(DRAFT, draft.context)

    def release(self, _: DraftModel) -> None:
        assert not [c for c, _ in self.alive.values() if c._slots and c._model is DRAFT], (
            "weights freed under a context"
        )
        self.weights = 0

    def build(self) -> Build:
        return Build(
            target=lambda spec: self.open(MODEL, spec),
            draft=self.draft,
            drafters=lambda _, context: {"model": ModelDrafter(Reader(context))},
            controller=lambda c: FixedController(c.choice),
            release=self.release,
        )

    def watch(self, low: int = 0, high: int = 0, patience: int = 3) -> Watch:
        return Watch(lambda: Reading(self.free()), Marks(low, high, patience, patience_most=24))


@dataclass
class Script:
    """A watch that says what each round is to see: "down", "up" or anything else."""

    moves: Sequence[str]
    n_read: int = 0

    def watch(self) -> Watch:
        def read() -> Reading:
            move = self.moves[self.n_read] if self.n_read < len(self.moves) else "stay"
            self.n_read += 1
            return Reading({"down": 0, "up": 1 << 40}.get(move, 100))

        return Watch(read, Marks(10, 1 << 30, patience=1, patience_most=1))


def on(ladder: Ladder) -> Engine:
    return Engine(ladder.setup, ladder=ladder)


def answer(
    engine: Engine, prompt: Sequence[int], n: int | None = 60, temperature: float = 0.0, **more: object
) -> tuple[list[int], list[Notice], list[Step]]:
    """Tokens, notices and steps of one answer."""
    events = list(engine.generate(prompt, Sampling(temperature=temperature, seed=9), n, end_ids=(), **more))
    steps = [e for e in events if isinstance(e, Step)]
    return [t for s in steps for t in s.tokens], [e for e in events if isinstance(e, Notice)], steps


def plainly(prompt: Sequence[int], n: int | None = 60, temperature: float = 0.0, n_ctx: int = 4096) -> list[int]:
    """What the model says alone, in a context opened whole."""
    machine = Machine()
    c = rung(n_ctx, PLAIN)
    return answer(on(Ladder([c], machine.build())), prompt, n, temperature)[0]
