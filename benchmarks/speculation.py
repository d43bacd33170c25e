"""Tokens a second, plain against chains and trees, on a 1B-shaped target with the demo pair's real acceptance.

Prints the ceiling first: bytes a token over the bandwidth of a copy. Then the cost curve of passes and the paired run:
every prompt is answered by every method in turn, in an order that rotates, from the same cached prompt; ratios are
paired by prompt. Trees "by probability" rank children without the shared noise, as other runtimes do.
Not covered: prefill, peers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import record
from growth import ByProbability
from prompts import dev_prompts

from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Setup
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.sampling import Noise, Process
from edgespec.speculation.sizing import Sized, whole
from edgespec.speculation.tree import chain
from edgespec.types import PLAIN, Choice, ContextSpec, Ids, Rows, Sampling, Span, Step, TokenTree, Verdict

DRAFT = record.ROOT / "edgespec" / "demo" / "demo-draft.gguf"
WIDTHS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
DEPTH = 200
NO_ROWS = Rows(np.zeros((0, 0), np.float32))


def chain_of(rows: int, drafter: str = "model") -> Choice:
    return Choice(drafter, rows, rows - 1, 1)


def tree_of(rows: int, drafter: str = "model") -> Choice:
    return Choice(drafter, rows, rows - 1, 8)


METHODS = {
    0.0: {"plain": PLAIN, "chain 6": chain_of(6), "tree 8": tree_of(8)},
    0.8: {
        "plain": PLAIN,
        "chain 4": chain_of(4),
        "tree 6": tree_of(6),
        "tree 8": tree_of(8),
        "tree 6 by probability": tree_of(6, "by probability"),
        "tree 8 by probability": tree_of(8, "by probability"),
    },
}


class Switch:
    """A controller that does what the benchmark says."""

    choice = PLAIN

    def choose(self, n_left: int, history: Ids) -> Choice:
        return self.choice

    def size(self, choice: Choice, tree: TokenTree, history: Ids) -> Sized:
        return whole(tree)

    def observe(self, step: Step, tree: TokenTree, verdict: Verdict) -> None:
        """Fixed."""


class Bench:
    def __init__(self, model: Path, n_prompts: int, n_tokens: int, threads: int) -> None:
        self.target = LlamaModel(model, LoadOptions())
        draft = LlamaModel(DRAFT, LoadOptions())
        spec = ContextSpec(n_ctx=768, max_nodes=32, max_leaves=24, n_threads=threads)
        wide = ContextSpec(n_ctx=768, max_nodes=32, max_leaves=48, n_threads=threads)
        self.context = TimedContext(self.target.open(spec))
        drafts = [TimedContext(draft.open(wide)) for _ in range(2)]
        drafters = {"model": ModelDrafter(Reader(drafts[0])), "by probability": ByProbability(Reader(drafts[1]))}
        self.switch = Switch()
        self.engine = Engine(Setup(self.context, drafters, self.switch, "model", drafts))
        self.drafters = {name: (d, c) for (name, d), c in zip(drafters.items(), drafts, strict=True)}
        self.prompts = dev_prompts(self.target, n_prompts, longest=150)
        self.n_tokens = n_tokens

    def passes_alone(self, widths: Sequence[int]) -> dict[int, float]:
        """Milliseconds of one pass of each width behind what the cache holds just now."""
        ids = np.random.default_rng(0).integers(300, 8000, max(widths)).tolist()
        found = {}
        for width in (widths[0], *widths):  # the first one warms up
            before = self.context.ms
            self.context.evaluate([Span(0, chain(ids[:width]), np.arange(width))])
            self.context.keep(0, [])
            found[width] = self.context.ms - before
        return found

    def curve(self, n_repeats: int = 7) -> dict[int, float]:
        """Median milliseconds of passes of WIDTHS behind DEPTH cells, widths interleaved."""
        self.context.prefill(0, np.random.default_rng(1).integers(300, 8000, DEPTH))
        curves = [self.passes_alone(WIDTHS) for _ in range(n_repeats)]
        self.context.truncate(0, 0)
        return {w: float(np.median([c[w] for c in curves])) for w in WIDTHS}

    def answer(self, prompt: list[int], choice: Choice, temperature: float, seed: int) -> dict[str, Any]:
        """One answer; the first round is left out of the figures, since it brings the drafter up to the prompt."""
        self.switch.choice = choice
        sampling = Sampling(temperature=temperature, seed=seed)
        events = self.engine.generate(prompt, sampling, self.n_tokens, end_ids=self.target.end_ids)
        steps = [e for e in events if isinstance(e, Step)]
        rest = steps[1:]
        sums = {k: sum(getattr(s, k) for s in rest) for k in ("target_ms", "draft_ms", "overhead_ms", "n_accepted")}
        return {
            "n_tokens": sum(len(s.tokens) for s in rest),
            "n_rounds": len(rest),
            **sums,
            "text": [t for s in steps for t in s.tokens],
            "first": len(steps[0].tokens),
        }

    def draft_alone(self, prompt: list[int], answer: dict[str, Any], choice: Choice, t: float, seed: int) -> float:
        """Milliseconds of the runtime for drafting the same answer again with nothing in between."""
        drafter, context = self.drafters[choice.drafter]
        process, noise = Process(Sampling(temperature=t, seed=seed)), Noise(seed)
        text, n = np.array([*prompt, *answer["text"]], np.int32), len(prompt) + answer["first"]
        drafter.draft(text[:n], choice, process, noise)  # catches up; not counted
        before = context.ms
        while n < len(text):
            tree = drafter.draft(text[:n], choice, process, noise)
            path, node = [0], 0
            for token in text[n:-1]:
                match = np.flatnonzero((tree.parent == node) & (tree.token == token))
                if not len(match):
                    break
                node = int(match[0])
                path.append(node)
            n += len(path)
            tokens = text[n - len(path) : n].tolist()
            drafter.commit(text[:n], Verdict(tuple(path), tuple(tokens), None))
        return context.ms - before


def summary(choice: Choice, runs: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of one method over the prompts whose plain answer has rounds to compare."""

    def ms(run: dict[str, Any]) -> float:
        return float(run["target_ms"] + run["draft_ms"] + run["overhead_ms"])

    def total(key: str) -> float:
        return float(sum(r[key] for r in runs))

    n_rounds = total("n_rounds")
    alone = [r["pass_alone_ms"] * r["n_rounds"] + r["draft_alone_ms"] for r in runs]
    return {
        "rows": choice.rows,
        "tokens_per_second": 1e3 * total("n_tokens") / sum(map(ms, runs)),
        "ratio_to_plain": record.paired_median(
            [ms(p) / p["n_tokens"] * r["n_tokens"] / ms(r) for p, r in zip(plain, runs, strict=True)]
        ),
        "tokens_per_pass": total("n_tokens") / n_rounds,
        "target_ms_per_round": total("target_ms") / n_rounds,
        "draft_ms_per_round": total("draft_ms") / n_rounds,
        "overhead_ms_per_round": total("overhead_ms") / n_rounds,
        "overhead_share": record.paired_median([r["overhead_ms"] / ms(r) for r in runs]),
        "share_of_times_measured_alone": record.paired_median([a / ms(r) for a, r in zip(alone, runs, strict=True)]),
        "raw": [{k: v for k, v in r.items() if k != "text"} for r in runs],
    }


def ask(bench: Bench, i: int, temperature: float) -> dict[str, dict[str, Any]]:
    """Every method's answer to prompt i, and the times of the parts measured alone right after."""
    methods, prompt = METHODS[temperature], bench.prompts[i]
    names = list(methods)
    found = {}
    for name in names[i % len(names) :] + names[: i % len(names)]:
        found[name] = bench.answer(prompt, methods[name], temperature, seed=i)
    alone = bench.passes_alone(sorted({c.rows for c in methods.values()}))
    for name, choice in methods.items():
        found[name]["pass_alone_ms"] = alone[choice.rows]
        found[name]["draft_alone_ms"] = (
            0.0 if choice.plain else bench.draft_alone(prompt, found[name], choice, temperature, i)
        )
    return found


def run(bench: Bench) -> dict[str, Any]:
    found: dict[float, list[dict[str, dict[str, Any]]]] = {t: [] for t in METHODS}
    for i in range(len(bench.prompts)):
        for temperature, answers in found.items():
            answers.append(ask(bench, i, temperature))
        print(f"prompt {i + 1} of {len(bench.prompts)}", file=sys.stderr, flush=True)
    return {str(t): summaries(METHODS[t], answers) for t, answers in found.items()}


def summaries(methods: dict[str, Choice], answers: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """A line a method, over the prompts that every method answered in more than one round."""
    answers = [a for a in answers if all(r["n_tokens"] for r in a.values())]
    runs = {name: [a[name] for a in answers] for name in methods}
    result = {name: summary(methods[name], runs[name], runs["plain"]) for name in methods}
    for rows in (6, 8):
        if f"tree {rows} by probability" in methods:
            shared, plain = (
                [r["n_accepted"] / r["n_rounds"] for r in runs[n]]
                for n in (f"tree {rows}", f"tree {rows} by probability")
            )
            result[f"accepted a pass, shared noise over probability, {rows} rows"] = record.paired_ratio(shared, plain)
    for name, line in result.items():
        print(name, json.dumps({k: v for k, v in line.items() if k != "raw"}), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", required=True, help="result is written to results/speculation-NAME.json")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    bandwidth = record.copy_bandwidth(n_threads=args.threads)
    bench = Bench(args.model, args.prompts, args.tokens, args.threads)
    per_token = bench.target.weight_bytes
    ceiling = {
        "bytes_per_token": per_token,
        "copy_bandwidth_bytes_per_s": bandwidth,
        "plain_tokens_per_s_at_most": bandwidth / per_token,
    }
    print(f"ceiling: {per_token / 1e9:.2f} GB a token at {bandwidth / 1e9:.1f} GB/s of copying is at most ", end="")
    print(f"{bandwidth / per_token:.1f} tokens/s, plain", flush=True)
    curve = bench.curve()
    print("cost curve, ms:", {w: round(t, 1) for w, t in curve.items()}, flush=True)
    temperatures = run(bench)
    settings = {"prompts": args.prompts, "tokens": args.tokens, "threads": args.threads}
    record.write(
        f"speculation-{args.name}", {**settings, "ceiling": ceiling, "cost_curve_ms": curve, "results": temperatures}
    )


if __name__ == "__main__":
    main()
