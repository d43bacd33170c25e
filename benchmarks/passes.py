"""What a pass costs behind one of the same shape, and behind one of another: a GPU's runtime keeps graphs by shape.

llama.cpp builds its graph anew where the number of rows, of outputs or of sequences differs from the last pass of that
context (src/llama-graph.h, allow_reuse), and CUDA replays a recorded graph only from the third pass of a shape on. Each
pattern is timed pass by pass in one context behind 128 tokens; the shortest and the median count. Then the rounds of
some answers, pass by pass, and with --profile where Python's share of them goes (printed, not recorded).

    python benchmarks/passes.py model.gguf --name 8b-q4_0-gpu
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import pstats
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import record
from contenders import DRAFT, open_ours
from prompts import dev_prompts

from edgespec.backends.base import Context
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.passage import passage_ids
from edgespec.types import ContextSpec, Sampling, Span, Step, TokenTree

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 32)
DEPTH, N_TIMES = 128, 14
METHODS = ("plain", "chain@4", "tree@4", "tree@8", "auto")


def tree(ids: np.ndarray, star: bool) -> TokenTree:
    """A chain of these tokens, or the first with all the others below it."""
    n = len(ids)
    node = np.arange(n, dtype=np.int32)
    parent = np.where(node > 0, 0 if star else node - 1, -1).astype(np.int32)
    depth = np.minimum(node, 1) if star else node
    return TokenTree(ids, parent, depth.astype(np.int16), np.zeros(n, np.float32))


class Passes:
    """Passes behind DEPTH tokens of a context, each dropped again."""

    def __init__(self, context: Context, ids: np.ndarray) -> None:
        self._context, self._ids, self._at = context, ids, 0
        context.prefill(0, ids[:DEPTH])

    def ms(self, rows: int, star: bool = False) -> float:
        self._at = (self._at + rows) % (len(self._ids) - rows)
        drafted = tree(self._ids[self._at : self._at + rows], star)
        start = time.perf_counter()
        self._context.evaluate([Span(0, drafted, np.arange(rows, dtype=np.int32))])
        took = 1e3 * (time.perf_counter() - start)
        self._context.keep(0, [])
        return took


def told(times: Sequence[float]) -> dict[str, Any]:
    return {
        "least": round(min(times), 3),
        "median": round(float(np.median(times)), 3),
        "ms": np.round(times, 3).tolist(),
    }


def patterns(model: LlamaModel, n_threads: int) -> dict[str, Any]:
    """By rows: the same shape again and again, in turn with a lone row, a star again and again, stars of two widths."""
    found: dict[str, Any] = {}
    context = model.open(ContextSpec(1024, 1, 64, 33, "f16", 64, n_threads))
    try:
        passes = Passes(context, passage_ids(model))
        for rows in ROWS:
            again = [passes.ms(rows) for _ in range(N_TIMES)]
            in_turn = [passes.ms(n) for _ in range(N_TIMES // 2) for n in (1, rows)][1::2]
            found[str(rows)] = {"again": told(again), "in_turn_with_1": told(in_turn)}
            if rows > 2:
                star = [passes.ms(rows, star=True) for _ in range(N_TIMES)]
                mixed = [passes.ms(rows, star) for _ in range(N_TIMES // 2) for star in (True, False)][1::2]
                found[str(rows)] |= {"star_again": told(star), "in_turn_with_star": told(mixed)}
    finally:
        context.close()
    return found


def rounds(model: Path, n_threads: int, profile: bool) -> dict[str, Any]:
    """By method and temperature: rows, tokens and milliseconds of each round of answers behind one that warms up."""
    found: dict[str, Any] = {}
    with open_ours(model, ",".join(METHODS), n_threads) as (bench, _):
        prompts = dev_prompts(bench.target, 3, longest=80)
        for method in METHODS:
            for t in (0.0, 0.8):
                steps: list[Step] = []
                bench.use(method)
                watch = cProfile.Profile()
                for i, prompt in enumerate(prompts):
                    bench.assistant.engine.forget()
                    answer = bench.assistant.engine.generate(
                        prompt, Sampling(temperature=t, seed=i), 48, end_ids=bench.target.end_ids
                    )
                    if i == len(prompts) - 1 and profile:
                        watch.enable()
                    one = [event for event in answer if isinstance(event, Step)]
                    watch.disable()
                    steps += one[1:] if 0 < i < len(prompts) - profile else []
                found[f"{method}, {t}"] = [
                    [s.n_drafted + 1, len(s.tokens), *(round(x, 3) for x in (s.target_ms, s.draft_ms, s.overhead_ms))]
                    for s in steps
                ]
                if profile:
                    text = io.StringIO()
                    pstats.Stats(watch, stream=text).sort_stats("tottime").print_stats(22)
                    print(f"\n{method}, temperature {t}\n{text.getvalue()}", file=sys.stderr)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", required=True, help="result is written to results/passes-NAME.json")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", action="store_true", help="time the rounds of answers too")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    result: dict[str, Any] = {"depth": DEPTH, "threads": args.threads}
    model = LlamaModel(args.model, LoadOptions())
    result["target"] = patterns(model, args.threads)
    model.close()
    for place, n_layers in (("devices", 999), ("cpu", 0)):
        draft = LlamaModel(DRAFT, LoadOptions(n_gpu_layers=n_layers))
        result[f"drafter on {place}"] = patterns(draft, args.threads)
        draft.close()
    for name, rows in result.items():
        for n, kinds in rows.items() if isinstance(rows, dict) else ():
            shown = {kind: (times["least"], times["median"]) for kind, times in kinds.items()}
            print(f"{name:20} {n:>3} rows {shown}", file=sys.stderr)
    if args.rounds:
        result["rounds_are"] = ["rows", "tokens", "target_ms", "draft_ms", "overhead_ms"]
        result["rounds"] = rounds(args.model, args.threads, args.profile)
    path = record.write(f"passes-{args.name}", result)
    print(json.dumps({"result": str(path.relative_to(record.ROOT))}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
