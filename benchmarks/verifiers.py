"""Shared noise with draw and match against rejection without replacement: tokens per pass at equal rows, demo pair.

Both say what the target would, but not the same texts: answers are paired by prompt, and prompts are resampled for the
interval. Each rule drafts as suits it: best-first with the noise known, or draws by slots. Not covered: time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import record
from prompts import dev_prompts

from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Setup
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters.base import Drafter
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.drafters.sampled import SampledDrafter
from edgespec.speculation.rejection import rejection_draws
from edgespec.speculation.verify import Draws, target_draws
from edgespec.types import Choice, ContextSpec, Sampling, Step

DEMO = record.ROOT / "edgespec" / "demo"
RULES: dict[str, tuple[Callable[[Reader], Drafter], Draws]] = {
    "match": (ModelDrafter, target_draws),
    "rejection": (SampledDrafter, rejection_draws),
}
WIDTHS = {"chain": 1, "tree": 8}
N_RESAMPLES = 2000


class Pair:
    """The demo pair and its prompts."""

    def __init__(self, n_prompts: int, n_threads: int) -> None:
        self.target = LlamaModel(DEMO / "demo.gguf", LoadOptions())
        self.draft = LlamaModel(DEMO / "demo-draft.gguf", LoadOptions())
        self.prompts = dev_prompts(self.target, n_prompts, longest=200)
        self._n_threads = n_threads

    def engine(self, rule: str, choice: Choice) -> Engine:
        drafter, draws = RULES[rule]
        target = TimedContext(self.target.open(self._spec(32)))
        draft = TimedContext(self.draft.open(self._spec(64)))
        setup = Setup(target, {"model": drafter(Reader(draft))}, FixedController(choice), "model", [draft])
        return Engine(setup, draws=draws)

    def _spec(self, rows: int) -> ContextSpec:
        return ContextSpec(n_ctx=512, max_nodes=rows, max_leaves=rows, n_threads=self._n_threads)


def measure(pair: Pair, choice: Choice, temperature: float, n_tokens: int) -> dict[str, np.ndarray]:
    """For each rule int [n_prompts, 2]: tokens and passes of each answer, but for the first, which drafts nothing."""
    engines = {rule: pair.engine(rule, choice) for rule in RULES}
    found: dict[str, list[tuple[int, int]]] = {rule: [] for rule in RULES}
    for i, prompt in enumerate(pair.prompts):
        for rule, engine in engines.items():
            events = engine.generate(
                prompt, Sampling(temperature=temperature, seed=i), n_tokens, end_ids=pair.target.end_ids
            )
            steps = [e for e in events if isinstance(e, Step)][1:]
            found[rule].append((sum(len(s.tokens) for s in steps), len(steps)))
    for engine in engines.values():
        engine.close()
    return {rule: np.array(counts) for rule, counts in found.items()}


def compare(a: np.ndarray, b: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Tokens a pass of a over b, with the 95 % interval of a bootstrap over prompts."""
    picks = np.random.default_rng(seed).integers(0, len(a), (N_RESAMPLES, len(a)))

    def per_pass(counts: np.ndarray) -> np.ndarray:
        sums = counts[picks].sum(axis=1)
        return np.asarray(sums[:, 0] / sums[:, 1])

    low, high = np.percentile(per_pass(a) / per_pass(b), [2.5, 97.5])
    return {"ratio": _per_pass(a) / _per_pass(b), "low": float(low), "high": float(high), "n": len(a)}


def _per_pass(counts: np.ndarray) -> float:
    return float(counts[:, 0].sum() / counts[:, 1].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.4, 0.8, 1.0])
    args = parser.parse_args()
    pair, start = Pair(args.prompts, args.threads), time.perf_counter()
    results: list[dict[str, Any]] = []
    for temperature in args.temperatures:
        for rows in args.rows:
            for shape, width in WIDTHS.items():
                found = measure(pair, Choice("model", rows, rows - 1, width), temperature, args.tokens)
                line: dict[str, Any] = {"temperature": temperature, "rows": rows, "shape": shape}
                line |= {rule: round(_per_pass(counts), 3) for rule, counts in found.items()}
                line["rejection_over_match"] = compare(found["rejection"], found["match"])
                results.append(line)
                print(json.dumps(line), f"{time.perf_counter() - start:.0f} s", flush=True)
    record.write("verifiers", {"prompts": args.prompts, "tokens": args.tokens, "results": results})


if __name__ == "__main__":
    main()
