"""The padded pair of benchmarks/trim.py: a drafter of many rows and what is cut from it, side by side.

Steps: passes of 1 and 4 rows, in turn. Answers: the same prompts by both, in an order that alternates, each from a cold
cache; ratios are paired by prompt. What the time split predicts is the full drafter's rounds with its draft time
multiplied by the steps' ratio. Memory: each in a process of its own, before the load and after the first full pass.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import record
from contest import Contestant, Corner
from prompts import dev_prompts

from edgespec.backends.llama_cpp import devices, runtime
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.gguf.header import read_header
from edgespec.gguf.keep import keep_number
from edgespec.gguf.shape import read_shape
from edgespec.gguf.trim import trim
from edgespec.gguf.vocabulary import read_vocabulary
from edgespec.loading import trimmed_head
from edgespec.memory.host import Host
from edgespec.memory.measure import Weighing
from edgespec.memory.predict import Part, predict
from edgespec.speculation.cost import Curve
from edgespec.speculation.tree import chain
from edgespec.types import Choice, ContextSpec, Sampling, Span, Step

DEPTH, WIDTHS = 200, (1, 4)
SHAPES = {"chain 4": Choice("model", 4, 3, 1), "chain 6": Choice("model", 6, 5, 1), "tree 8": Choice("model", 8, 7, 8)}
MEMORY_SPEC = {"n_ctx": 2048, "max_nodes": 64, "max_leaves": 32, "n_ubatch": 64}
_NO_CURVE = Curve(64, (1,), (1.0,))


@dataclass(frozen=True)
class Pair:
    target: Path
    full: Path
    trimmed: Path
    k: int
    n_vocab: int


def pair(target: Path, draft: Path, k: int, folder: Path) -> Pair:
    """k rows: those that must stay and the first ids, which in a padded file are all that ever come up."""
    vocabulary = read_vocabulary(draft, read_header(draft))
    kept = keep_number(vocabulary, np.zeros(len(vocabulary), np.int64), k)
    made = trim(draft, folder / "trimmed.gguf", kept, "benchmarks/trim.py: the first ids")
    return Pair(target, draft, made.path, made.k, made.n_vocab)


def load(path: Path) -> LlamaModel:
    return LlamaModel(path, LoadOptions(), head=trimmed_head(path))


def times(pair: Pair, n_prompts: int, n_tokens: int, n_threads: int, n_steps: int = 60) -> dict[str, Any]:
    """Steps and answers of both drafters under one target; milliseconds, tokens a second and paired ratios."""
    with ExitStack() as stack:
        target, *drafts = (load(path) for path in (pair.target, pair.full, pair.trimmed))
        for model in (target, *drafts):
            stack.callback(model.close)
        step = _steps(drafts, n_threads, n_steps)
        prompts = dev_prompts(target, n_prompts, longest=150)
        corners = [Corner(target, _NO_CURVE, n_threads, draft) for draft in drafts]
        answers = {name: _answers(corners, choice, prompts, n_tokens) for name, choice in SHAPES.items()}
    ratio = step["1"]["full_over_trimmed"]["ratio"]
    return {
        "k": pair.k,
        "n_vocab": pair.n_vocab,
        "bytes": {name: getattr(pair, name).stat().st_size for name in ("full", "trimmed")},
        "step_ms": step,
        "answers": {name: _summary(runs, ratio) for name, runs in answers.items()},
    }


def _steps(drafts: list[LlamaModel], n_threads: int, n: int) -> dict[str, Any]:
    """By width: milliseconds of a pass behind DEPTH tokens, and full over trimmed, pair by pair."""
    spec = ContextSpec(n_ctx=512, max_nodes=max(WIDTHS), max_leaves=max(WIDTHS), n_threads=n_threads)
    contexts = [model.open(spec) for model in drafts]
    ids = np.random.default_rng(0).integers(300, 8000, DEPTH + n).astype(np.int32)
    for context in contexts:
        context.prefill(0, ids[:DEPTH])
    found: dict[str, Any] = {}
    for width in WIDTHS:
        ms: list[list[float]] = [[], []]
        for i in range(n + 1):
            for which in (0, 1) if i % 2 else (1, 0):
                tree = chain(ids[i : i + width].tolist())
                start = time.perf_counter()
                contexts[which].evaluate([Span(0, tree, range(width))])
                ms[which].append(1e3 * (time.perf_counter() - start))
                contexts[which].keep(0, [])
        full, trimmed = (np.array(each[1:]) for each in ms)  # the first ones warm up
        found[str(width)] = {
            "full": float(np.median(full)),
            "trimmed": float(np.median(trimmed)),
            "full_over_trimmed": record.paired_median((full / trimmed).tolist()),
        }
    for context in contexts:
        context.close()
    return found


def _answers(corners: list[Corner], choice: Choice, prompts: list[list[int]], n_tokens: int) -> list[list[dict]]:
    """[prompt][full, trimmed]: the rounds behind the first one, which reads the prompt."""
    contestants = [corner.fixed(choice) for corner in corners]
    found = []
    for i, prompt in enumerate(prompts):
        runs: list[dict] = [{}, {}]
        for which in (0, 1) if i % 2 else (1, 0):
            runs[which] = _answer(contestants[which], prompt, n_tokens)
        found.append(runs)
        print(f"{choice.rows} rows: prompt {i + 1} of {len(prompts)}", file=sys.stderr, flush=True)
    for contestant in contestants:
        contestant.engine.close()
    return found


def _answer(contestant: Contestant, prompt: list[int], n_tokens: int) -> dict[str, float]:
    contestant.engine.forget()
    events = contestant.engine.generate(prompt, Sampling(temperature=0), n_tokens, end_ids=())
    steps = [e for e in events if isinstance(e, Step)][1:]
    sums = {key: sum(getattr(s, key) for s in steps) for key in ("target_ms", "draft_ms", "overhead_ms")}
    return {"n_tokens": sum(len(s.tokens) for s in steps), "n_rounds": len(steps), **sums}


def _ms(run: dict[str, float]) -> float:
    return run["target_ms"] + run["draft_ms"] + run["overhead_ms"]


def _summary(runs: list[list[dict]], step_ratio: float) -> dict[str, Any]:
    """Tokens a second of both, the gain (paired by prompt), and what the full drafter's time split promises."""
    rate = [1e3 * sum(r[i]["n_tokens"] for r in runs) / sum(_ms(r[i]) for r in runs) for i in (0, 1)]
    gains = [_ms(full) / full["n_tokens"] * trimmed["n_tokens"] / _ms(trimmed) for full, trimmed in runs]
    total = {key: sum(full[key] for full, _ in runs) for key in ("target_ms", "draft_ms", "overhead_ms")}
    promised = sum(total.values()) / (sum(total.values()) - total["draft_ms"] * (1 - 1 / step_ratio))
    gain = record.paired_median(gains)
    return {
        "tokens_per_second": {"full": rate[0], "trimmed": rate[1]},
        "tokens_a_pass": [sum(r[i]["n_tokens"] for r in runs) / sum(r[i]["n_rounds"] for r in runs) for i in (0, 1)],
        "draft_share": total["draft_ms"] / sum(total.values()),
        "gain": gain,
        "gain_promised_by_the_time_split": promised,
        "gain_over_promised": gain["ratio"] / promised,
        "raw": runs,
    }


def memory(pair: Pair, n_threads: int) -> dict[str, Any]:
    """Bytes that each drafter took and was predicted to take, and what trimming saved of both."""
    found = {}
    for name in ("full", "trimmed"):
        command = [sys.executable, __file__, str(getattr(pair, name)), str(n_threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    saved = {key: found["full"][key] - found["trimmed"][key] for key in ("measured_bytes", "predicted_bytes")}
    return {
        **found,
        "saved": saved,
        "saved_measured_over_predicted": saved["measured_bytes"] / saved["predicted_bytes"],
    }


def _weigh(path: Path, n_threads: int) -> dict[str, Any]:
    """In a process of its own: predicted and taken after a pass of full width with unkept tokens in it."""
    runtime.start()
    spec = ContextSpec(**MEMORY_SPEC, n_threads=n_threads)
    host, shape = Host(repacks=devices.repacked_types(), n_threads=n_threads), read_shape(path)
    n = spec.n_ubatch + spec.max_nodes
    footprint = predict(Part(shape, spec, role="draft ", n_used=n), host)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 5, 5)  # numpy's generators are code too, and not the model's
    weighing = Weighing.begin()
    model = load(path)
    context = model.open(spec)
    ids = rng.integers(0, model.n_vocab, n).tolist()
    context.evaluate([Span(0, chain(ids), range(n), spec.n_ubatch)])
    growth = weighing.growth()
    return {
        "measured_bytes": sum(growth.values()),
        "predicted_bytes": footprint.total_bytes,
        "items": [{k: v for k, v in asdict(item).items() if k != "source"} for item in footprint.items],
    }


if __name__ == "__main__":
    print(json.dumps(_weigh(Path(sys.argv[1]), int(sys.argv[2]))))
