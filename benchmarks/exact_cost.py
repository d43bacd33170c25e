"""What --exact costs on a 1B-shaped target: the same prompts with and without it, in turn, plain and with a tree.

The contexts share the weights; the order rotates; ratios are of milliseconds per emitted token, paired by prompt.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import record
from prompts import dev_prompts
from speculation import DRAFT, Switch, tree_of

from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Setup
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.types import PLAIN, ContextSpec, Prefill, Sampling, Step

CHOICES = {"plain": PLAIN, "tree 8": tree_of(8)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=24)
    args = parser.parse_args()
    target, draft = LlamaModel(args.model, LoadOptions()), LlamaModel(DRAFT, LoadOptions())
    engines = {}
    for kv, exact in (("f16", False), ("f16", True), ("q8_0", True)):
        spec = ContextSpec(n_ctx=768, max_nodes=16, max_leaves=16, kv_type=kv, exact=exact, n_threads=2)
        drafting = TimedContext(draft.open(ContextSpec(n_ctx=768, max_nodes=16, max_leaves=32, n_threads=2)))
        timed, switch = TimedContext(target.open(spec)), Switch()
        drafters = {"model": ModelDrafter(Reader(drafting))}
        engine = Engine(Setup(timed, drafters, switch, "model", [drafting]))
        engines[f"{kv}{' exact' if exact else ''}"] = (engine, switch)
    times: dict[str, dict[str, list[float]]] = {c: {e: [] for e in engines} for c in CHOICES}
    prefill: dict[str, list[float]] = {e: [] for e in engines}
    n_same = dict.fromkeys(engines, 0)
    for i, prompt in enumerate(dev_prompts(target, args.prompts, longest=220)):
        names = list(engines)
        for name in names[i % len(names) :] + names[: i % len(names)]:
            engine, switch = engines[name]
            texts = []
            for shape, choice in CHOICES.items():
                switch.choice = choice
                events = list(engine.generate(prompt, Sampling(temperature=0), args.tokens, end_ids=()))
                steps = [e for e in events if isinstance(e, Step)]
                texts.append([t for s in steps for t in s.tokens])
                del steps[0]  # it brings the drafter up to the prompt
                n = sum(len(s.tokens) for s in steps)
                times[shape][name].append(sum(s.target_ms + s.draft_ms + s.overhead_ms for s in steps) / n)
                if shape == "plain":
                    prefill[name] += [e.ms for e in events if isinstance(e, Prefill)]
            n_same[name] += texts[0] == texts[1]
    result = {
        shape: {n: record.paired_ratio(t, by_engine["f16"]) for n, t in by_engine.items()}
        for shape, by_engine in {**times, "prefill": prefill}.items()
    }
    print(json.dumps({**result, "same_text": n_same}, indent=1))
    settings = {"prompts": args.prompts, "tokens": args.tokens}
    record.write("exact_cost", {**settings, "time_over_default_f16": result, "tree_says_what_plain_says": n_same})


if __name__ == "__main__":
    main()
