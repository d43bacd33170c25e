"""Contestants of one model, each with its own drafters, sources and controller, and texts for them to say.

A contestant starts with nothing learnt. Texts are generated (plain decoding, cut where it begins to loop) or recorded
(replayed: real text at the real cost of a pass).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgespec.backends.base import Context, Model
from edgespec.bench.loops import loop_start
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Setup
from edgespec.speculation.arms import Arm
from edgespec.speculation.controllers import Controller, FixedController
from edgespec.speculation.cost import Curve
from edgespec.speculation.drafters.automaton import Automaton
from edgespec.speculation.drafters.base import Drafter
from edgespec.speculation.drafters.mix import MixDrafter
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.drafters.recycle import Recycled
from edgespec.speculation.drafters.suffix import Suffix
from edgespec.speculation.goodput import GoodputController
from edgespec.speculation.live import LiveCost
from edgespec.speculation.reliability import Kinds, classes_of
from edgespec.speculation.verify import recorded_draws, target_draws
from edgespec.types import PLAIN, Choice, ContextSpec, Sampling, Step

DATA = Path(__file__).parent / "data"
ROWS, WIDTH, N_CTX = 16, 8, 1536
Wrap = Callable[[Context], TimedContext]


@dataclass
class Contestant:
    """learners and drafters are its own; the target's context is its own too, so that answers may alternate."""

    engine: Engine
    controller: Controller
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True)
class Text:
    """One thing to say; answer holds what plain decoding said, or what was recorded."""

    category: str
    prompt: list[int]
    answer: list[int]
    sampling: Sampling
    recorded: bool


@dataclass(frozen=True)
class Corner:
    """What contestants are made of. draft: None without a drafter file; prior: goodput expected of it."""

    target: Model
    curve: Curve
    n_threads: int
    draft: Model | None = None
    prior: float = 1.3
    wrap: Wrap = TimedContext

    def context(self) -> TimedContext:
        spec = ContextSpec(n_ctx=N_CTX, max_nodes=32, max_leaves=32, n_threads=self.n_threads)
        return self.wrap(self.target.open(spec))

    def fixed(self, choice: Choice) -> Contestant:
        return self.contestant(lambda _: FixedController(choice))

    def auto(self, arms: Sequence[str]) -> Contestant:
        """The controller between these arms and not drafting."""
        priors = {"lookup": 1.02, "model": self.prior, "mix": self.prior + 0.01}
        kinds = Kinds(classes_of(self.target.pieces()))
        alone = "model" if "model" in arms else None
        every = {
            name: Arm(Choice(name, ROWS, ROWS - 1, WIDTH), priors[name], alone) for name in arms if name != "lookup"
        }
        if "lookup" in arms:
            every["lookup"] = Arm(Choice("lookup", ROWS, ROWS - 1, WIDTH), priors["lookup"], by_node=True)
        return self.contestant(lambda _: GoodputController(every, LiveCost(self.curve), kinds))

    def contestant(self, controller: Callable[[dict[str, Drafter]], Controller]) -> Contestant:
        suffix, recycled = Suffix(Automaton(1 << 17)), Recycled()
        drafters: dict[str, Drafter] = {
            "suffix": MixDrafter([suffix]),
            "recycle": MixDrafter([recycled]),
            "lookup": MixDrafter([suffix, recycled]),
        }
        contexts = []
        if self.draft is not None:
            spec = ContextSpec(n_ctx=N_CTX + 64, max_nodes=32, max_leaves=64, n_threads=self.n_threads)
            contexts.append(self.wrap(self.draft.open(spec)))
            reader = Reader(contexts[0])
            drafters |= {"model": ModelDrafter(reader), "mix": MixDrafter([suffix, recycled], reader)}
        decides = controller(drafters)
        plain = isinstance(decides, FixedController) and decides.choose(ROWS, np.zeros(1, np.int32)).plain
        setup = Setup(self.context(), drafters, decides, "contest", contexts, () if plain else (suffix, recycled))
        return Contestant(Engine(setup), decides)


def say(contestant: Contestant, text: Text) -> list[Step]:
    """The rounds of one cold answer behind the first one, which reads the prompt."""
    contestant.engine.forget()
    draws = recorded_draws([*text.prompt, *text.answer]) if text.recorded else target_draws
    events = contestant.engine.generate(text.prompt, text.sampling, len(text.answer), end_ids=(), draws=draws)
    steps = [e for e in events if isinstance(e, Step)]
    contestant.steps += steps[1:]
    return steps[1:]


def prompt_ids(model: Model, question: str) -> list[int]:
    return model.tokenize(f"<|bos|><|user|>{question}<|end|><|assistant|>".encode(), special=True)


def lines_of(name: str) -> Iterator[dict]:
    for line in (DATA / name).read_text().splitlines():
        yield json.loads(line)


def recorded(model: Model, name: str, n_tokens: int, n_most: int | None = None) -> list[Text]:
    """Recorded answers in file order, their first n_tokens."""
    found = []
    for entry in lines_of(name):
        prompt = prompt_ids(model, entry["turns"][0])
        answer = model.tokenize(entry["answers"][0].encode(), special=False)[:n_tokens]
        if len(prompt) + n_tokens < N_CTX - 64 and len(answer) > 16:
            found.append(Text(entry["category"], prompt, answer, Sampling(temperature=0), True))
    return found[:n_most]


def generated(
    corner: Corner, temperature: float, n_tokens: int, n_each: int, longest: int = 96, least: int = 8, first: int = 0
) -> list[Text]:
    """What plain decoding says to dev prompts, n_each of each category, loops cut; those too short are passed over, and
    so are the first prompts of each category that `first` counts."""
    plain = corner.fixed(PLAIN)
    by_category: dict[str, list[Text]] = {}
    n_seen: Counter[str] = Counter()
    for number, entry in enumerate(lines_of("prompts_dev.jsonl")):
        n_seen[entry["category"]] += 1
        if n_seen[entry["category"]] <= first:
            continue
        prompt = prompt_ids(corner.target, entry["turns"][0])
        if len(prompt) > longest:  # the question's beginning; reading prompts is not what is compared
            prompt = [*prompt[: longest - 2], *prompt[-2:]]
        found = by_category.setdefault(entry["category"], [])
        if len(found) == n_each:
            continue
        sampling = Sampling(temperature=temperature, seed=number)
        plain.engine.forget()
        events = plain.engine.generate(prompt, sampling, n_tokens, end_ids=corner.target.end_ids)
        said = [t for e in events if isinstance(e, Step) for t in e.tokens]
        said = said[: loop_start(said)]
        if len(said) >= least:
            found.append(Text(entry["category"], prompt, said, sampling, False))
    plain.engine.close()
    return [text for rank in range(n_each) for some in by_category.values() for text in some[rank : rank + 1]]


def ms(steps: Sequence[Step]) -> float:
    return sum(s.target_ms + s.draft_ms + s.overhead_ms for s in steps)


def ratio(base: Sequence[float], other: Sequence[float], seed: int = 0) -> dict[str, float]:
    """Sum of base over sum of other, pair by pair, with the 95 % interval of a bootstrap over the pairs."""
    from edgespec.bench.figures import paired_ratio

    return paired_ratio(np.asarray(base), np.asarray(other), seed)
