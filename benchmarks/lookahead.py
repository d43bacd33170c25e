"""Tokens per pass of lookahead decoding by rows, window and n-gram length, and the speed it would give on known curves.

    python benchmarks/lookahead.py [--curve curve-1b-f16.json ...]     # the demo alone, 2 cores: about 10 minutes

Runs on the demo target under --exact, so every variant says the same texts and only the passes differ; an answer counts
up to where it falls into a loop, which any copying drafter would profit from. Speed is predicted, not measured: tokens
per pass times a lone pass over a pass of so many rows. Not covered: time (the demo's passes are not a real model's).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import record
from prompts import dev_prompts

from edgespec.backends.base import Context
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.bench.loops import loop_start
from edgespec.memory.times import F16, Q4_0
from edgespec.speculation.cost import Curve, from_dict
from edgespec.speculation.drafters.lookahead import LookaheadDrafter
from edgespec.speculation.sampling import Noise, Process
from edgespec.speculation.spare_rows import Yields, pays
from edgespec.speculation.verify import verify
from edgespec.types import Choice, ContextSpec, Sampling, Span

DEMO = record.ROOT / "edgespec" / "demo" / "demo.gguf"
CURVES = {"f16 1B, DESIGN section 8": Curve(64, *F16), "Q4_0 1B, DESIGN section 8": Curve(64, *Q4_0)}


@dataclass(frozen=True)
class Variant:
    """A way to fill a pass of `rows`: "text" (a chain looked up in the text by one token, nothing learnt), "jacobi" (a
    chain), "n-grams" (rows they leave stay empty), "lookahead", or "outputs first" (lookahead whose guesses are the
    last pass's outputs as far as they go, as the papers have it).

    window, n_gram  as LookaheadDrafter takes them
    """

    method: str
    rows: int
    window: int
    n_gram: int

    @property
    def choice(self) -> Choice:
        return Choice("lookahead", self.rows, self.rows - 1, 1 if self.method == "jacobi" else 8)

    def drafter(self) -> LookaheadDrafter:
        """A new one; without a window where n-grams alone are asked for."""
        made = LookaheadDrafter(self.n_gram, self.window)
        if self.method == "text":
            made.learn = lambda history, tree, rows: None
        if self.method == "n-grams":
            made._guesses = lambda history, n, jacobi: []
        if self.method == "outputs first":
            guesses = made._guesses
            made._guesses = lambda history, n, jacobi: guesses(history, n, jacobi=True)
        return made


def variants(rows: list[int], windows: list[int], n_grams: list[int]) -> Iterator[Variant]:
    """Of each width: the parts alone, then together, with every window that leaves n-grams a row."""
    for n in rows:
        yield Variant("text", n, 0, 2)
        yield Variant("jacobi", n, n - 1, 2)
        for n_gram in n_grams:
            yield Variant("n-grams", n, 0, n_gram)
            yield Variant("outputs first", n, 0, n_gram)
            for window in windows:
                if window < n - 1:
                    yield Variant("lookahead", n, window, n_gram)


class Answers:
    """One target; prompts are answered in turn by a drafter that keeps its pool, as in use."""

    def __init__(self, n_prompts: int, n_tokens: int) -> None:
        self._model = LlamaModel(DEMO, LoadOptions())
        self._prompts = dev_prompts(self._model, n_prompts, longest=300)
        self._n_tokens = n_tokens
        self._context: Context = self._model.open(
            ContextSpec(n_ctx=512, max_nodes=32, max_leaves=16, exact=True, n_threads=2)
        )

    def run(self, variant: Variant, temperature: float) -> tuple[list[int], list[int]]:
        """Tokens before the first loop, and the passes they took, of each prompt."""
        drafter = variant.drafter()
        n_tokens, n_passes = [], []
        for i, prompt in enumerate(self._prompts):
            drafter.forget()
            said, counts = self._answer(drafter, variant.choice, prompt, Sampling(temperature=temperature, seed=i))
            cut = loop_start(said)
            kept = len(said) if cut is None else cut
            n_tokens.append(kept)
            n_passes.append(int(np.searchsorted(list(accumulate(counts)), kept)) + 1 if kept else 0)
        return n_tokens, n_passes

    def _answer(
        self, drafter: LookaheadDrafter, choice: Choice, prompt: list[int], sampling: Sampling
    ) -> tuple[list[int], list[int]]:
        """What was said, and how many tokens each pass gave."""
        context, process, noise = self._context, Process(sampling), Noise(sampling.seed)
        context.truncate(0, 0)
        context.prefill(0, prompt[:-1])
        history, counts = np.array(prompt, np.int32), []
        n_left = self._n_tokens
        while n_left > 0:
            tree = drafter.draft(history, choice, process, noise)
            rows = context.evaluate([Span(0, tree, np.arange(len(tree)))])
            verdict = verify(tree, rows, process, noise, history, end_ids=self._model.end_ids, max_tokens=n_left)
            drafter.learn(history, tree, rows)
            context.keep(0, verdict.path)
            history = np.concatenate([history, np.array(verdict.tokens, np.int32)])
            drafter.commit(history, verdict)
            counts.append(len(verdict.tokens))
            n_left = 0 if verdict.finish else n_left - len(verdict.tokens)
        return history[len(prompt) :].tolist(), counts


def best_by_rows(lines: list[dict], temperature: float) -> Yields:
    """Lookahead's best window and n-gram of each width."""
    best: dict[int, float] = {1: 1.0}
    for line in lines:
        if line["temperature"] == temperature and line["method"] == "lookahead":
            best[line["rows"]] = max(best.get(line["rows"], 1.0), line["tokens_per_pass"])
    return Yields(tuple(best), tuple(best.values()))


def verdicts(lines: list[dict], curves: dict[str, Curve], temperatures: list[float]) -> list[dict]:
    """What each curve would make of the best tokens per pass."""
    found = []
    for temperature in temperatures:
        yields = best_by_rows(lines, temperature)
        for name, curve in curves.items():
            verdict = pays(curve, yields)
            found.append(
                {
                    "temperature": temperature,
                    "curve": name,
                    "pays": verdict.pays,
                    "rows": verdict.rows,
                    "speed": verdict.speed,
                    "reason": verdict.reason,
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 6, 8, 16])
    parser.add_argument("--windows", type=int, nargs="+", default=[0, 1, 3])
    parser.add_argument("--n-grams", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument("--curve", type=Path, nargs="*", default=[], help="cost curves as JSON, as Curve.to_dict")
    parser.add_argument("--explore", action="store_true", help="not recorded")
    args = parser.parse_args()
    curves = CURVES | {path.stem: from_dict(json.loads(path.read_text())) for path in args.curve}
    answers = Answers(args.prompts, args.tokens)
    lines = []
    for temperature in args.temperatures:
        texts = None
        for variant in variants(args.rows, args.windows, args.n_grams):
            n_tokens, n_passes = answers.run(variant, temperature)
            if texts not in (None, n_tokens):
                raise SystemExit("the texts differ; --exact does not hold here")
            texts = n_tokens
            line = {
                "temperature": temperature,
                "rows": variant.rows,
                "method": variant.method,
                "window": variant.window,
                "n_gram": variant.n_gram,
                "tokens_per_pass": sum(n_tokens) / sum(n_passes),
                "by_prompt": record.paired_ratio(n_tokens, n_passes),
            }
            lines.append(line)
            print(json.dumps(line), flush=True)
    judged = verdicts(lines, curves, args.temperatures)
    print(json.dumps(judged, indent=1))
    if not args.explore:
        result = {"prompts": args.prompts, "tokens": args.tokens, "results": lines, "speed": judged}
        record.write("lookahead", result)


if __name__ == "__main__":
    main()
