"""Parallel drafting against drafting one token after the other: milliseconds a draft, and tokens per pass.

The target answers once, plainly; then drafters replay its answers: each drafts, is told what the target said, and goes
on behind what it had right, as in a round but without the target's passes, whose draws are known. Drafters take turns
prompt by prompt in an order that rotates; ratios are paired by prompt. Times are of draft and commit together, Python
included; a drafter's first draft, which reads the prompt, is left out. Not covered: what a round costs altogether.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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
from edgespec.speculation.drafters.parallel import ParallelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.speculation.sampling import Noise, Process
from edgespec.types import PLAIN, Choice, ContextSpec, Ids, Sampling, Step, TokenTree, Verdict

KS = (2, 4, 6, 8)
TEMPERATURES = (0.0, 0.8)
WIDTH = 8
N_CTX, LONGEST = 768, 200
MASK = "tokenizer.ggml.mask_token_id"
METHODS = ("chain", "tree", "parallel chain", "parallel tree")


@dataclass(frozen=True)
class Answer:
    """What the target said to a prompt; ids of both, n_prompt of them the prompt's."""

    ids: Ids
    n_prompt: int
    sampling: Sampling


@dataclass(frozen=True)
class Replay:
    """An answer drafted again. ms of draft and commit; runtime_ms of the drafter's passes; all without the first draft.
    right: by depth, how often the walk came there and how often a child was the draw."""

    n_tokens: int
    n_rounds: int
    ms: float
    runtime_ms: float
    right: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Drafting:
    drafter: Drafter
    context: TimedContext
    choice: Choice


def answers(model: LlamaModel, n_prompts: int, n_tokens: int, temperature: float, threads: int) -> list[Answer]:
    """Of the target, plainly."""
    context = TimedContext(model.open(ContextSpec(n_ctx=N_CTX, max_nodes=2, max_leaves=1, n_threads=threads)))
    engine = Engine(Setup(context, {}, FixedController(PLAIN), "plain"))
    found = []
    for i, prompt in enumerate(dev_prompts(model, n_prompts, LONGEST)):
        sampling = Sampling(temperature=temperature, seed=i)
        steps = [e for e in engine.generate(prompt, sampling, n_tokens, end_ids=model.end_ids) if isinstance(e, Step)]
        said = [t for s in steps for t in s.tokens]
        found.append(Answer(np.array([*prompt, *said], np.int32), len(prompt), sampling))
    engine.close()
    return found


def draftings(draft: LlamaModel, parallel: LlamaModel, k: int, threads: int) -> dict[str, Drafting]:
    """The four ways to draft with k tokens of depth and k + 1 rows."""
    mask, found = int(parallel.metadata[MASK]), {}
    for name in METHODS:
        model = parallel if "parallel" in name else draft
        width = WIDTH if "tree" in name else 1
        max_leaves = 2 * (k + 1) if name == "tree" else 1
        spec = ContextSpec(n_ctx=N_CTX, max_nodes=max(k, 4), max_leaves=max_leaves, n_threads=threads)
        context = TimedContext(model.open(spec))
        drafter: Drafter = ModelDrafter(Reader(context))
        if "parallel" in name:
            drafter = ParallelDrafter(Reader(context), mask)
        found[name] = Drafting(drafter, context, Choice("draft", k + 1, k, width))
    return found


def walk(tree: TokenTree, said: Sequence[int]) -> list[int]:
    """Nodes that the target's answer walks to, node 0 first; the last token of an answer is never a node."""
    path, node = [0], 0
    for token in said:
        match = np.flatnonzero((tree.parent == node) & (tree.token == token))
        if not len(match):
            break
        node = int(match[0])
        path.append(node)
    return path


def replay(how: Drafting, answer: Answer) -> Replay:
    drafter, context, text = how.drafter, how.context, answer.ids
    process, noise = Process(answer.sampling), Noise(answer.sampling.seed)
    drafter.forget()
    n = answer.n_prompt + 1  # the token that the prompt's own pass gave is pending
    drafter.draft(text[:n], how.choice, process, noise)
    begun, runtime = n, context.ms
    ms, n_rounds = 0.0, 0
    right = np.zeros((how.choice.depth, 2), int)
    while n < len(text):
        start = time.perf_counter()
        tree = drafter.draft(text[:n], how.choice, process, noise)
        drafted = time.perf_counter()
        path = walk(tree, text[n:-1].tolist())
        right[: min(len(path), len(right)), 0] += 1
        right[: len(path) - 1, 1] += 1
        n += len(path)
        verdict = Verdict(tuple(path), tuple(text[n - len(path) : n].tolist()), None)
        begin = time.perf_counter()
        drafter.commit(text[:n], verdict)
        ms += 1e3 * (time.perf_counter() - begin + drafted - start)
        n_rounds += 1
    return Replay(len(text) - begun, n_rounds, ms, context.ms - runtime, tuple(map(tuple, right.tolist())))


def run(ways: dict[str, Drafting], asked: Sequence[Answer]) -> dict[str, list[Replay]]:
    """Every way's replay of every answer that has something to draft."""
    found: dict[str, list[Replay]] = {name: [] for name in ways}
    names = list(ways)
    for i, answer in enumerate(a for a in asked if len(a.ids) > a.n_prompt + 2):
        at = i % len(names)
        for name in names[at:] + names[:at]:
            found[name].append(replay(ways[name], answer))
    return found


def per_draft(replays: Sequence[Replay], runtime: bool = False) -> list[float]:
    """Milliseconds a draft, by prompt."""
    return [(r.runtime_ms if runtime else r.ms) / r.n_rounds for r in replays]


def ratio(a: Sequence[Replay], b: Sequence[Replay], runtime: bool = False) -> dict[str, float]:
    """Milliseconds a draft of a over b, the median over prompts: a disturbed pair counts once."""
    return record.paired_median([x / y for x, y in zip(per_draft(a, runtime), per_draft(b, runtime), strict=True)])


def summary(found: dict[str, list[Replay]]) -> dict[str, Any]:
    chain, parallel = found["chain"], found["parallel chain"]
    result: dict[str, Any] = {
        "ms_a_draft": {name: float(np.median(per_draft(replays))) for name, replays in found.items()},
        "ms_a_draft_in_the_runtime": {name: float(np.median(per_draft(r, True))) for name, r in found.items()},
        "parallel_over_chain": ratio(parallel, chain),
        "parallel_over_chain_in_the_runtime": ratio(parallel, chain, runtime=True),
        "tokens_per_pass": {},
        "right_by_place": {},
    }
    for name, replays in found.items():
        n_tokens, n_rounds = sum(r.n_tokens for r in replays), sum(r.n_rounds for r in replays)
        result["tokens_per_pass"][name] = n_tokens / n_rounds
        reached, hits = np.array([r.right for r in replays]).sum(axis=0).T
        result["right_by_place"][name] = [
            {"walked_to": int(n), "share": float(h / n)} for n, h in zip(reached, hits, strict=True) if n
        ]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("draft", type=Path, help="the ordinary drafter")
    parser.add_argument("parallel", type=Path, help="the same shape, taught to fill in masks")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ks", type=int, nargs="+", default=KS)
    parser.add_argument("--no-record", action="store_true")
    args = parser.parse_args()
    target, draft, parallel = (LlamaModel(path, LoadOptions()) for path in (args.target, args.draft, args.parallel))
    asked = {t: answers(target, args.prompts, args.tokens, t, args.threads) for t in TEMPERATURES}
    target.close()
    results = []
    for k in args.ks:
        ways = draftings(draft, parallel, k, args.threads)
        for temperature in TEMPERATURES:
            line = {"k": k, "rows": k + 1, "temperature": temperature, **summary(run(ways, asked[temperature]))}
            results.append(line)
            print(json.dumps({key: v for key, v in line.items() if key != "right_by_place"}), flush=True)
        for how in ways.values():
            how.drafter.close()
    if not args.no_record:
        files = [path.name for path in (args.target, args.draft, args.parallel)]
        print(record.write("parallel", {"files": files, "prompts": args.prompts, "results": results}))


if __name__ == "__main__":
    main()
