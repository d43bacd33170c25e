"""Does speculation pay, and never lose? Every claim of docs/control.md on one model, interleaved and paired by answer.

usage: control.py MODEL.gguf --name NAME [--draft DRAFT.gguf] [--minutes M]; results/control-NAME.json.
Three kinds of text: recorded answers (replayed), copies (edits, quotes, typos; replayed), generated ones with loops
cut at temperature 0 and 0.8. Contestants start with nothing learnt; an answer is said by all of them in a rotating
order. Time counts from behind the first round (which reads the prompt): the runtime's and Python's together. Repeats
go on until the minutes are over; learnt state is reset before each. "alone" is the generated text once more, of more
prompts and without a drafter: what is said to be never slower needs narrow intervals.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import contest
import record
from contest import Contestant, Corner, Text

from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.engine import calibrate
from edgespec.passage import passage_ids
from edgespec.speculation.cost import Curve
from edgespec.types import PLAIN, Choice, ContextSpec

DEMO_DRAFT = Path(__file__).resolve().parents[1] / "edgespec" / "demo" / "demo-draft.gguf"
FIXED = {
    "chain 4": Choice("model", 4, 3, 1),
    "tree 6": Choice("model", 6, 5, 8),
    "tree 8": Choice("model", 8, 7, 8),
}
FREE, WITH_DRAFTER, USELESS = "auto, no drafter", "auto, drafter", "auto, useless drafter"


def curve_of(model: LlamaModel, n_threads: int) -> Curve:
    context = model.open(ContextSpec(n_ctx=2048, max_nodes=64, max_leaves=1, n_threads=n_threads))
    try:
        return calibrate.measure(context, model.n_vocab, 8.0, text=passage_ids(model))
    finally:
        context.close()


def race(contestants: dict[str, Contestant], texts: Sequence[Text], rows: list[dict[str, Any]], repeat: int) -> None:
    """Every text by every contestant, in a rotating order."""
    names = list(contestants)
    for number, text in enumerate(texts):
        start = (number + repeat) % len(names)
        row: dict[str, Any] = {
            "category": text.category,
            "n_tokens": 0,
            "ms": {},
            "tokens_per_pass": {},
            "repeat": repeat,
        }
        for name in (*names[start:], *names[:start]):
            steps = contest.say(contestants[name], text)
            n = sum(len(s.tokens) for s in steps)
            row["n_tokens"] = max(row["n_tokens"], n)
            row["ms"][name] = contest.ms(steps) / n if n else None
            row["tokens_per_pass"][name] = n / len(steps) if steps else None
        if all(row["ms"].values()):
            rows.append(row)


def figures(rows: Sequence[dict[str, Any]], base: str = "plain") -> dict[str, Any]:
    """Ratios to plain over all rows and by category: times of the same number of tokens."""
    found: dict[str, Any] = {}
    groups = {"overall": list(rows)}
    for row in rows:
        groups.setdefault(row["category"], []).append(row)
    for group, some in groups.items():
        own = {}
        for name in some[0]["ms"]:
            if name != base:
                pairs = [(r["ms"][base] * r["n_tokens"], r["ms"][name] * r["n_tokens"]) for r in some]
                own[name] = contest.ratio([a for a, _ in pairs], [b for _, b in pairs])
        found[group] = own
    return found


def over_best(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The controller over the fixed choice, plain decoding included, that was best in hindsight, by category."""
    groups: dict[str, list[dict[str, Any]]] = {"overall": list(rows)}
    for row in rows:
        groups.setdefault(row["category"], []).append(row)
    found = {}
    for group, some in groups.items():
        ms = {name: [r["ms"][name] * r["n_tokens"] for r in some] for name in ("plain", *FIXED, WITH_DRAFTER)}
        best = min(("plain", *FIXED), key=lambda name: sum(ms[name]))
        found[group] = {"best": best, **contest.ratio(ms[best], ms[WITH_DRAFTER])}
    return found


def arms_of(contestant: Contestant) -> dict[str, Any]:
    """What drafted how many rounds, and how many of the first ones."""
    names = [step.choice.drafter for step in contestant.steps]
    return {
        "rounds": Counter(names),
        "first_40_rounds": Counter(names[:40]),
        "switched": getattr(contestant.controller, "n_switched", None),
    }


class Run:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.target = LlamaModel(args.model, LoadOptions())
        self.curve = curve_of(self.target, args.threads)
        shown = {w: round(t, 1) for w, t in zip(self.curve.rows, self.curve.pass_ms, strict=True)}
        print("curve, ms:", shown, "noise", round(self.curve.noise, 3), flush=True)
        self.draft = LlamaModel(args.draft, LoadOptions())
        self.random = LlamaModel(args.useless, LoadOptions()) if args.useless else None
        self.alone = Corner(self.target, self.curve, args.threads)
        six = self.curve.ms(1) / self.curve.ms(6)
        self.paired = Corner(self.target, self.curve, args.threads, self.draft, prior=max(2.8 * six, 0.9))

    def free(self) -> dict[str, Contestant]:
        return {"plain": self.alone.fixed(PLAIN), FREE: self.alone.auto(["lookup"])}

    def every(self) -> dict[str, Contestant]:
        made = self.free() | {name: self.paired.fixed(choice) for name, choice in FIXED.items()}
        made[WITH_DRAFTER] = self.paired.auto(["model", "mix", "lookup"])
        if self.random is not None:
            useless = Corner(self.target, self.curve, self.args.threads, self.random, prior=self.paired.prior)
            made[USELESS] = useless.auto(["model", "mix", "lookup"])
        return made

    def part(self, name: str, make: Any, texts: Sequence[Text], minutes: float) -> dict[str, Any]:
        """Repeats until the minutes are over, one at least."""
        rows: list[dict[str, Any]] = []
        start, repeat, arms = time.monotonic(), 0, {}
        while not repeat or time.monotonic() - start < minutes * 60 * repeat / (repeat + 1):
            contestants = make()
            race(contestants, texts, rows, repeat)
            arms = {n: arms_of(c) for n, c in contestants.items()}
            for c in contestants.values():
                c.engine.close()
            repeat += 1
            found = figures(rows)["overall"]
            said = {n: f"{f['ratio']:.3f} ({f['low']:.3f} to {f['high']:.3f})" for n, f in found.items()}
            print(name, "repeat", repeat, said, file=sys.stderr, flush=True)
        found = {"n_texts": len(texts), "n_repeats": repeat, "ratio_to_plain": figures(rows), "arms": arms}
        if WITH_DRAFTER in rows[0]["ms"]:
            found["auto_over_best_fixed"] = over_best(rows)
        return found | {"raw": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--draft", type=Path, default=DEMO_DRAFT)
    parser.add_argument("--useless", type=Path, default=None, help="a drafter with random weights (useless.py)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parts", default="replay,copies,generated,alone")
    parser.add_argument("--minutes", type=float, default=4.0, help="of each part, beyond a first repeat")
    parser.add_argument("--tokens", type=int, default=32, help="of generated texts")
    parser.add_argument("--replays", type=int, default=20)
    parser.add_argument("--copies", type=int, default=24)
    parser.add_argument("--each", type=int, default=8, help="generated texts of each category")
    parser.add_argument("--each-alone", type=int, default=20, help="the same where no drafter takes part")
    args = parser.parse_args()
    run = Run(args)
    result: dict[str, Any] = {"curve": run.curve.to_dict()}
    if "replay" in args.parts:
        texts = contest.recorded(run.target, "answers_recorded.jsonl", 96, args.replays)
        result["replay"] = run.part("replay", run.free, texts, args.minutes)
    if "copies" in args.parts:
        texts = contest.recorded(run.target, "copies.jsonl", 64, args.copies)
        result["copies"] = run.part("copies", run.free, texts, args.minutes)
    if "generated" in args.parts:
        for temperature in (0.0, 0.8):
            texts = contest.generated(run.alone, temperature, args.tokens, args.each)
            name = f"generated, temperature {temperature:g}"
            result[name] = run.part(name, run.every, texts, args.minutes)
    if "alone" in args.parts:
        for temperature in (0.0, 0.8):
            texts = contest.generated(run.alone, temperature, args.tokens, args.each_alone, first=args.each)
            name = f"alone, temperature {temperature:g}"
            result[name] = run.part(name, run.free, texts, args.minutes)
    record.write(f"control-{args.name}", result)


if __name__ == "__main__":
    main()
