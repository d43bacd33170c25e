"""How near drafting comes to exact best-first trees, and what shared noise is worth, in tokens per pass.

Runs on the demo pair itself under --exact, so that every variant says the same texts and only the drafting differs.
"exact" grows one node at a time with no wave limits and a fixed tau, the best one in hindsight. Not covered: time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import record
from prompts import dev_prompts

from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Setup
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters import agreement
from edgespec.speculation.drafters import model as model_drafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.sampling import Noise
from edgespec.types import Choice, ContextSpec, Ids, Sampling, Step

DEMO = record.ROOT / "edgespec" / "demo"


class NoNoise(Noise):
    """Children ranked by probability alone, as other runtimes do."""

    def gumbel(self, positions, ids: Ids):
        return np.zeros(ids.shape)


class ByProbability(model_drafter.ModelDrafter):
    def draft(self, history, choice, process, noise):
        return super().draft(history, choice, process, NoNoise(0))


@contextmanager
def variant(**limits: float) -> Iterator[None]:
    """Growth limits changed for a while: what a variant is."""
    honest = model_drafter.limits_of

    def changed(choice, n_leaves, n_beams):
        return dataclasses.replace(honest(choice, n_leaves, n_beams), **limits)

    with mock.patch.object(model_drafter, "limits_of", changed):
        yield


@contextmanager
def fixed_tau(tau: float | None) -> Iterator[None]:
    """tau held at a value; None lets it be fitted online, as the product does."""
    if tau is None:
        yield
        return
    start = int(np.argmin(abs(agreement.GRID - tau)))
    with mock.patch.object(agreement, "START", start), mock.patch.object(agreement, "PRIOR_WEIGHT", 1e9):
        yield


class Bench:
    def __init__(self, n_prompts: int, n_tokens: int) -> None:
        self._target = LlamaModel(DEMO / "demo.gguf", LoadOptions())
        self._draft = LlamaModel(DEMO / "demo-draft.gguf", LoadOptions())
        self._prompts = dev_prompts(self._target, n_prompts, longest=300)
        self._n_tokens = n_tokens

    def run(self, rows: int, temperature: float, width: int = 8, drafter=model_drafter.ModelDrafter) -> dict:
        """Tokens a pass of each prompt, and the drafter's waves and rows a round."""
        spec = ContextSpec(n_ctx=1024, max_nodes=32, max_leaves=32, exact=True, n_threads=2)
        target = TimedContext(self._target.open(spec))
        context = self._draft.open(ContextSpec(n_ctx=1024, max_nodes=64, max_leaves=64, n_threads=2))
        counted = {"waves": 0, "rows": 0}
        evaluate = context.evaluate

        def counting(spans):
            counted["waves"] += 1
            counted["rows"] += len(spans[0].nodes) - spans[0].n_silent
            return evaluate(spans)

        context.evaluate = counting
        draft = TimedContext(context)
        choice = Choice("model", rows, rows - 1, width)
        engine = Engine(Setup(target, {"model": drafter(Reader(draft))}, FixedController(choice), "model", [draft]))
        n_tokens, n_rounds = [], []
        for i, prompt in enumerate(self._prompts):
            sampling = Sampling(temperature=temperature, seed=i)
            steps = list(engine.generate(prompt, sampling, self._n_tokens, end_ids=self._target.end_ids))[1:]
            n_tokens.append(sum(len(s.tokens) for s in steps if isinstance(s, Step)))
            n_rounds.append(len(steps))
        engine.close()
        total = sum(n_rounds)
        return {
            "n_tokens": n_tokens,
            "n_rounds": n_rounds,
            "tokens_per_pass": sum(n_tokens) / total,
            "waves_per_round": counted["waves"] / total,
            "rows_per_wave": counted["rows"] / counted["waves"],
        }


def compare(a: dict, b: dict) -> dict:
    """Tokens a pass of a over b: the texts are the same, so it is the ratio of rounds, paired by prompt."""
    if a["n_tokens"] != b["n_tokens"]:
        raise SystemExit("the texts differ; --exact does not hold here")
    return record.paired_ratio(b["n_rounds"], a["n_rounds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 6, 8])
    parser.add_argument("--explore", action="store_true", help="reach and beams, not recorded")
    args = parser.parse_args()
    bench = Bench(args.prompts, args.tokens)
    results = []
    for temperature in (0.0, 0.8):
        for rows in args.rows:
            ours = bench.run(rows, temperature)
            line = {"temperature": temperature, "rows": rows, **{k: v for k, v in ours.items() if "_per_" in k}}
            if args.explore:
                for reach in (0.9, 0.8, 0.7, 0.5):
                    with variant(reach=reach):
                        found = bench.run(rows, temperature)
                    line[f"reach {reach}"] = [round(found[k], 3) for k in found if "_per_" in k]
            else:
                exact = []
                for tau in (0.4, 0.5, 0.6, 0.85):
                    with fixed_tau(tau), variant(n_beams=1, reach=1.0, n_waves=10_000):
                        exact.append((bench.run(rows, temperature), tau))
                best, tau = max(exact, key=lambda e: e[0]["tokens_per_pass"])
                line["exact_best_first"] = {"tau": tau, "tokens_per_pass": best["tokens_per_pass"]}
                line["share_of_exact"] = compare(ours, best)
                if temperature and rows in (6, 8):
                    by_probability = bench.run(rows, temperature, drafter=ByProbability)
                    line["by_probability"] = {"tokens_per_pass": by_probability["tokens_per_pass"]}
                    line["shared_noise_over_by_probability"] = compare(ours, by_probability)
                    line["accepted_ratio"] = (ours["tokens_per_pass"] - 1) / (by_probability["tokens_per_pass"] - 1)
            results.append(line)
            print(json.dumps(line), flush=True)
    if not args.explore:
        record.write("growth", {"prompts": args.prompts, "tokens": args.tokens, "results": results})


if __name__ == "__main__":
    main()
