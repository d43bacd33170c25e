"""What trimming a drafter's head costs in acceptance and gives in time and memory (docs/trim.md).

    python benchmarks/trim.py      # drafter and target as `make models-trim` makes them

Acceptance: the demo pair, 8,192 rows, k of them kept by counts of what the target said to other prompts; real drafts,
so no padding. Texts are the target's own under --exact: every variant says the same, and only rounds differ. Times and
memory: a 0.5b-shaped drafter of 152k rows under a 1b-shaped f16 target, trimmed to 32k (trim_times.py). Its added
tokens never come up, so its acceptance is the demo's with all rows, and says nothing of a real vocabulary's tail.
Writes results/trim.json. Not covered: other drafters, GPUs, texts unlike those that were counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import record
import trim_times
from contest import Corner, Text, generated, say

from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.engine.clock import TimedContext
from edgespec.gguf.header import read_header
from edgespec.gguf.keep import Kept, always_kept, keep_coverage, keep_number
from edgespec.gguf.trim import trim
from edgespec.gguf.vocabulary import read_vocabulary
from edgespec.loading import trimmed_head
from edgespec.speculation.cost import Curve
from edgespec.types import Choice, ContextSpec

DEMO = record.ROOT / "edgespec" / "demo"
MODELS = record.ROOT / ".cache" / "models"
KEPT = (4096, 2048, 1024)
COVERAGE = 0.995
SHAPES = {"chain 6": Choice("model", 6, 5, 1), "tree 8": Choice("model", 8, 7, 8)}
TEMPERATURES = (0.0, 0.8)
_NO_CURVE = Curve(64, (1,), (1.0,))  # fixed choices ask for none


class ExactCorner(Corner):
    """Every variant says the same text, whatever it drafts."""

    def context(self) -> TimedContext:
        spec = ContextSpec(n_ctx=1024, max_nodes=32, max_leaves=32, n_threads=self.n_threads, exact=True)
        return TimedContext(self.target.open(spec))


@dataclass(frozen=True)
class Size:
    """How much is said: prompts of each category to count and to measure, tokens of an answer."""

    n_count: int
    n_each: int
    n_tokens: int
    n_threads: int


def counted(texts: Sequence[Text], n_vocab: int) -> np.ndarray:
    return np.bincount([t for text in texts for t in text.answer], minlength=n_vocab)


def variants(counts: np.ndarray) -> dict[str, Kept | None]:
    """By name; None: all rows."""
    vocabulary = read_vocabulary(DEMO / "demo-draft.gguf", read_header(DEMO / "demo-draft.gguf"))
    found: dict[str, Kept | None] = {"all rows": None}
    found |= {f"k = {k}": keep_number(vocabulary, counts, k) for k in KEPT}
    found[f"{100 * COVERAGE:g} % coverage"] = keep_coverage(vocabulary, counts, COVERAGE)
    # What no count could justify: a benchmark that cannot tell it from the others measures nothing.
    must = len(always_kept(vocabulary))
    found["what must stay alone"] = keep_number(vocabulary, counts, must)
    return found


def acceptance(size: Size, folder: Path) -> dict[str, Any]:
    """Tokens a pass by k, shape and temperature, paired by text with those of all rows."""
    with ExitStack() as stack:
        target = LlamaModel(DEMO / "demo.gguf", LoadOptions())
        stack.callback(target.close)
        plain = ExactCorner(target, _NO_CURVE, size.n_threads)
        texts: dict[float, list[Text]] = {}
        counts = np.zeros(target.n_vocab, np.int64)
        for t in TEMPERATURES:
            counts += counted(generated(plain, t, size.n_tokens, size.n_count), target.n_vocab)
            texts[t] = generated(plain, t, size.n_tokens, size.n_each, first=size.n_count)
        found = {name: _variant(name, kept, target, texts, size, folder) for name, kept in variants(counts).items()}
    base = found["all rows"]["raw"]
    for line in found.values():
        line["block_efficiency_to_all_rows"] = {
            key: record.paired_ratio(np.array(line["raw"][key]), np.array(base[key])) for key in base
        }
    return {
        "n_tokens_counted": int(counts.sum()),
        "n_texts_measured": {str(t): len(some) for t, some in texts.items()},
        "by_k": found,
    }


def _variant(
    name: str, kept: Kept | None, target: LlamaModel, texts: dict[float, list[Text]], size: Size, folder: Path
) -> dict[str, Any]:
    draft = opened(DEMO / "demo-draft.gguf", kept, folder / f"{name.replace(' ', '-')}.gguf")
    corner = ExactCorner(target, _NO_CURVE, size.n_threads, draft)
    raw: dict[str, list[float]] = {}
    for shape, choice in SHAPES.items():
        contestant = corner.fixed(choice)
        for t, some in texts.items():
            raw[f"{shape}, temperature {t:g}"] = [_tokens_a_pass(say(contestant, text)) for text in some]
        contestant.engine.close()
    draft.close()
    said = [t for some in texts.values() for text in some for t in text.answer]
    print(name, {key: round(float(np.mean(values)), 3) for key, values in raw.items()}, file=sys.stderr, flush=True)
    return {
        "k": target.n_vocab if kept is None else len(kept.ids),
        "coverage_counted": 1.0 if kept is None else kept.coverage,
        "coverage_measured": 1.0 if kept is None else float(np.isin(said, kept.ids).mean()),
        "tokens_a_pass": {key: float(np.mean(values)) for key, values in raw.items()},
        "raw": raw,
    }


def _tokens_a_pass(steps: Sequence[Any]) -> float:
    """1 for an answer that ended with its first round, which says nothing of drafts."""
    return sum(len(s.tokens) for s in steps) / len(steps) if steps else 1.0


def opened(path: Path, kept: Kept | None, out: Path) -> LlamaModel:
    if kept is None:
        return LlamaModel(path, LoadOptions())
    trim(path, out, kept, "benchmarks/trim.py")
    return LlamaModel(out, LoadOptions(), head=trimmed_head(out))


def table(found: dict[str, Any]) -> str:
    """k, coverage, tokens a pass and what of them is left beside all rows."""
    keys = list(next(iter(found.values()))["tokens_a_pass"])
    lines = ["| rows kept | k | coverage elsewhere | " + " | ".join(keys) + " |", "|---|---|---|" + "---|" * len(keys)]
    for name, line in found.items():
        cells = [f"{line['tokens_a_pass'][k]:.2f}" for k in keys]
        lines.append(f"| {name} | {line['k']:,} | {100 * line['coverage_measured']:.2f} % | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=MODELS / "demo-1b-f16-152k.gguf")
    parser.add_argument("--draft", type=Path, default=MODELS / "demo-draft-0.5b-152k.gguf")
    parser.add_argument("--keep", type=int, default=32768)
    parser.add_argument("--count", type=int, default=8, help="prompts of each category that are counted")
    parser.add_argument("--each", type=int, default=6, help="prompts of each category that are measured")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--prompts", type=int, default=24, help="prompts of the timed run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("acceptance", "times", "memory"), action="append")
    parser.add_argument("--name", default="trim", help="results/NAME.json")
    args = parser.parse_args()
    parts = args.only or ["acceptance", "times", "memory"]
    result: dict[str, Any] = {"settings": {k: v for k, v in vars(args).items() if not isinstance(v, Path)}}
    with tempfile.TemporaryDirectory(dir=args.draft.parent if "acceptance" not in parts else None) as name:
        folder = Path(name)
        if "acceptance" in parts:
            result["acceptance"] = acceptance(Size(args.count, args.each, args.tokens, args.threads), folder)
            print(table(result["acceptance"]["by_k"]), flush=True)
        if "times" in parts or "memory" in parts:
            pair = trim_times.pair(args.target, args.draft, args.keep, folder)
        if "times" in parts:
            result["times"] = trim_times.times(pair, args.prompts, args.tokens, args.threads)
        if "memory" in parts:
            result["memory"] = trim_times.memory(pair, args.threads)
    path = record.write(args.name, result)
    shown = {k: {n: v for n, v in part.items() if n != "raw"} for k, part in result.items() if k in ("times", "memory")}
    print(json.dumps({"written": path.name, **shown}))


if __name__ == "__main__":
    main()
