"""Tokens per pass against the window of the drafter's cache, on long prompts: what forgetting the middle costs.

The demo pair with a tree of 8 rows and --exact, so that every window gives the same text and only rounds differ; the
prompts are of the long categories. Not covered: time (the demo drafter costs next to nothing), memory (predict).
"""

from __future__ import annotations

import argparse
import json

import record
from prompts import DATA
from speculation import tree_of

from edgespec.backends.llama_cpp.model import LlamaModel, LoadOptions
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Setup
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.types import ContextSpec, Sampling, Step

WINDOWS = (64, 128, 256, 512, None)
LONG = ("summarization", "rag")
N_CTX, LONGEST = 2048, 1500
CHOICE = tree_of(8)
FILES = record.ROOT / "edgespec" / "demo"


def long_prompts(model: LlamaModel, n: int) -> list[list[int]]:
    """n prompts of the long categories in turn, the longest first."""
    found: dict[str, list[list[int]]] = {category: [] for category in LONG}
    for line in (DATA / "prompts_dev.jsonl").read_text().splitlines():
        entry = json.loads(line)
        text = f"<|bos|><|user|>{entry['turns'][0]}<|end|><|assistant|>"
        ids = model.tokenize(text.encode(), special=True)
        if entry["category"] in found and len(ids) <= LONGEST:
            found[entry["category"]].append(ids)
    ranked = [sorted(prompts, key=len, reverse=True) for prompts in found.values()]
    return [prompts[i] for i in range(max(map(len, ranked))) for prompts in ranked if i < len(prompts)][:n]


class Bench:
    """One engine whose drafter's window changes; between answers the drafter forgets, the target does not."""

    def __init__(self, kv: str) -> None:
        self.target = LlamaModel(FILES / "demo.gguf", LoadOptions())
        draft = LlamaModel(FILES / "demo-draft.gguf", LoadOptions())
        spec = ContextSpec(n_ctx=N_CTX, max_nodes=16, max_leaves=16, kv_type=kv, exact=True, n_threads=2)
        drafting = TimedContext(draft.open(ContextSpec(n_ctx=N_CTX, max_nodes=32, max_leaves=32, n_threads=2)))
        self.drafter = ModelDrafter(Reader(drafting))
        setup = Setup(
            TimedContext(self.target.open(spec)),
            {"model": self.drafter},
            FixedController(CHOICE),
            "model",
            [drafting],
        )
        self.engine = Engine(setup)

    def run(self, prompt: list[int], window: int | None, n_tokens: int, temperature: float) -> tuple[list[int], int]:
        """What was said, and in how many rounds."""
        self.drafter.forget()
        self.drafter.limit(window)
        events = self.engine.generate(prompt, Sampling(temperature=temperature, seed=1), n_tokens, end_ids=())
        steps = [e for e in events if isinstance(e, Step)]
        return [t for s in steps for t in s.tokens], len(steps)


def measure(bench: Bench, prompts: list[list[int]], n_tokens: int, temperature: float) -> list[dict]:
    """One line a window; raises SystemExit where a window changed the text."""
    rounds: dict[int | None, list[int]] = {window: [] for window in WINDOWS}
    n_said = 0
    for prompt in prompts:
        texts = []
        for window in WINDOWS:
            said, n_rounds = bench.run(prompt, window, n_tokens, temperature)
            texts.append(said)
            rounds[window].append(n_rounds)
        if any(text != texts[0] for text in texts):
            raise SystemExit("the texts differ; --exact does not hold here")
        n_said += len(texts[0])
    return [
        {
            "temperature": temperature,
            "window": window,
            "tokens_per_pass": n_said / sum(n_rounds),
            "share_of_whole": record.paired_ratio(rounds[None], n_rounds),
        }
        for window, n_rounds in rounds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=108)
    parser.add_argument("--kv", default="q8_0")
    args = parser.parse_args()
    bench = Bench(args.kv)
    prompts = long_prompts(bench.target, args.prompts)
    results = []
    for temperature in (0.0, 0.8):
        for line in measure(bench, prompts, args.tokens, temperature):
            results.append(line)
            print(json.dumps(line), flush=True)
    lengths = [len(p) for p in prompts]
    record.write("window", {"prompt_tokens": lengths, "tokens": args.tokens, "kv": args.kv, "results": results})


if __name__ == "__main__":
    main()
