"""Random budgets under a real limit of memory: does every plan run, or refuse with the shortfall, and nothing dies?

    python benchmarks/budgets.py            # 200 cases, about 12 minutes; models as `make models-memory` makes them

Each case is a fresh `edgespec run` in a fresh control group with a limit of 0.2 to 2 times what the unlimited plan says
it needs in all; half of them are told so with --budget, the others must find out. Some demo cases are a machine's first
start: nothing was measured yet, so the self-test's child and timing contexts come on top. A death that the supervisor
hid counts as a restart. Where control groups cannot be had, cases run without a limit and the result says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cgroups
from record import ROOT, write

MODELS = ROOT / ".cache" / "models"
PROMPT, N_TOKENS, SEED = "Tell me about the sea.", 48, 1
# Fills what a context promises, so that it is opened whole; by the demo's tokenizer a word is a token, more or less.
FILLER, CHAT_TOKENS = "the sea ", 80
FACTORS = (0.2, 2.0)
# Mostly the bundled model: a case takes a second.
SHARE_LARGE, SHARE_FIRST, SHARE_LONG = 0.2, 0.1, 0.5
CONTEXTS = (512, 2048, None)
SIZE = re.compile(r"\d(?:\.\d+)? ?(?:[KMG]i?B|bytes)")
DONE, REFUSED = 0, 3


@dataclass(frozen=True)
class Setup:
    """What is asked for, budget aside."""

    model: str
    kv: str
    method: str = "auto"
    draft: str | None = None
    context: int | None = None

    def flags(self) -> list[str]:
        model = self.model if self.model == "demo" else str(MODELS / f"{self.model}.gguf")
        found = ["-m", model, "--kv", self.kv, "--method", self.method]
        found += ["-d", self.draft] if self.draft else []
        return found + (["--context", str(self.context)] if self.context else [])


@dataclass(frozen=True)
class Case:
    """told: with --budget; first: with nothing measured or tried out before; long: the prompt fills the context."""

    setup: Setup
    factor: float
    told: bool
    first: bool
    long: bool

    @property
    def prompt(self) -> str:
        n_words = (self.setup.context or 0) - N_TOKENS - CHAT_TOKENS if self.long else 0
        return FILLER * (n_words // 2) + PROMPT


@dataclass(frozen=True)
class Ended:
    """A run of the program: peak_bytes and own_bytes are the most that was charged, with and without file cache."""

    code: int
    out: str
    said: str
    seconds: float
    peak_bytes: int = 0
    own_bytes: int = 0
    n_limited: int = 0
    n_killed: int = 0


def cases(n: int) -> Iterator[Case]:
    rng = random.Random(SEED)
    for i in range(n):
        setup = _large(rng) if rng.random() < SHARE_LARGE else _demo(rng)
        first = setup.model == "demo" and rng.random() < SHARE_FIRST / (1 - SHARE_LARGE)
        long = setup.model == "demo" and setup.context is not None and rng.random() < SHARE_LONG
        yield Case(setup, rng.uniform(*FACTORS), i % 2 == 0, first, long)


def _demo(rng: random.Random) -> Setup:
    kv, method = rng.choice(("f16", "q8_0")), rng.choice(("auto", "model"))
    return Setup("demo", kv, method, context=rng.choice(CONTEXTS))


def _large(rng: random.Random) -> Setup:
    """No drafter is known for these, so that -d names one."""
    model, draft = rng.choice(("demo-0.5b-q4_0", "demo-0.5b-q8_0")), rng.choice(("demo-draft", None))
    return Setup(model, "f16", draft=draft, context=rng.choice(CONTEXTS))


def run(
    setup: Setup, budget: int | None, folder: Path, group: cgroups.Group | None = None, prompt: str = PROMPT
) -> Ended:
    """edgespec run, its caches in `folder`; told the budget where there is one."""
    told = [] if budget is None else ["--budget", str(budget)]
    answering = ["-p", prompt, "--max-tokens", str(N_TOKENS), "--temperature", "0", "--json"]
    command = [sys.executable, "-m", "edgespec.cli", "run", *setup.flags(), *answering, *told]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "EDGESPEC_CACHE_DIR": str(folder / "cache"),
        "EDGESPEC_DATA_DIR": str(folder / "data"),
    }
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            group.command(command) if group else command, stdout=out, stderr=said, env=environment, cwd=ROOT
        )
        own = cgroups.watch(process, group)
        seconds = time.perf_counter() - start
        for file in (out, said):
            file.seek(0)
        figures = (group.peak_bytes, own, group.n_limited, group.n_killed) if group else ()
        return Ended(process.returncode, out.read(), said.read().strip(), seconds, *figures)


def need(setup: Setup, folder: Path) -> int:
    """Bytes the unlimited plan says it needs in all; passes are timed on the way."""
    ended = run(setup, None, folder)
    if ended.code != DONE:
        raise SystemExit(f"{setup} does not run without a limit: {ended.said}")
    told = json.loads(ended.out)["memory"]
    return int(told["predicted"]["total_bytes"] + told["program_bytes"] + told["margin_bytes"])


def judged(case: Case, needed: int, budget: int, ended: Ended) -> dict[str, Any]:
    """The line of a case; verdict: run, refusal, or visible death."""
    answer = json.loads(ended.out) if ended.out.startswith("{") else None
    events = answer["speculation"]["events"] if answer else []
    verdict = "visible death"
    if ended.code == DONE and answer and answer["tokens"] and answer["text"]:
        verdict = "run"
    elif ended.code == REFUSED and len(SIZE.findall(ended.said)) >= 2:
        verdict = "refusal"
    figures = {name: getattr(ended, name) for name in ("peak_bytes", "own_bytes", "n_limited", "n_killed", "seconds")}
    return {
        **asdict(case.setup),
        "told": case.told,
        "first": case.first,
        "prompt_n": answer["timings"]["prompt_n"] if answer else None,
        "factor": case.factor,
        "need_bytes": needed,
        "budget_bytes": budget,
        "verdict": verdict,
        "code": ended.code,
        "said": cgroups.nameless(ended.said),
        "method": answer["speculation"]["method"] if answer else None,
        "planned_bytes": _planned(answer["memory"]) if answer else None,
        "restarts": [e["text"] for e in events if e["kind"] == "restart"] + _hidden(ended.said),
        "steps": [e["text"] for e in events if e["kind"] == "ladder"],
        **figures,
    }


def _planned(memory: dict[str, Any]) -> int:
    return int(memory["predicted"]["total_bytes"] + memory["program_bytes"] + memory["margin_bytes"])


def _hidden(said: str) -> list[str]:
    """Deaths while loading are warnings."""
    return [line for line in said.splitlines() if "it starts again" in line and "warning" in line]


@dataclass
class Bench:
    """Cases one after the other, each in a group of its own where that is possible."""

    folder: Path
    limited: bool
    verbose: bool
    needs: dict[Setup, int]

    def one(self, case: Case) -> dict[str, Any]:
        if case.setup not in self.needs:
            self.needs[case.setup] = need(case.setup, self.folder)
        needed = self.needs[case.setup]
        budget = int(case.factor * needed)
        with contextlib.ExitStack() as stack:
            folder = self.folder
            if case.first:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            group = stack.enter_context(cgroups.new_group(budget)) if self.limited else None
            told = budget if case.told else None
            line = judged(case, needed, budget, run(case.setup, told, folder, group, case.prompt))
        if self.verbose or line["verdict"] == "visible death" or line["n_killed"] or line["restarts"]:
            print(json.dumps(line), flush=True)
        return line


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    def count(verdict: str) -> int:
        return sum(line["verdict"] == verdict for line in lines)

    ran = [line for line in lines if line["verdict"] == "run"]
    filled = sorted(line["own_bytes"] / line["budget_bytes"] for line in ran)
    planned = sorted(line["planned_bytes"] / line["budget_bytes"] for line in ran)
    return {
        "cases": len(lines),
        "visible_deaths": count("visible death"),
        "refusals": count("refusal"),
        "runs": len(ran),
        "speculative": sum(line["method"] != "plain" for line in ran),
        "restarts": sum(len(line["restarts"]) for line in lines),
        "killed": sum(line["n_killed"] for line in lines),
        "steps": sum(len(line["steps"]) for line in lines),
        "least_factor_that_ran": {
            str(told): min((line["factor"] for line in ran if line["told"] == told), default=None)
            for told in (True, False)
        },
        "own_bytes_of_budget": {"median": filled[len(filled) // 2], "max": filled[-1]} if ran else None,
        "planned_bytes_of_budget": {"median": planned[len(planned) // 2], "max": planned[-1]} if ran else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="cases")
    parser.add_argument("--verbose", action="store_true", help="print every case")
    args = parser.parse_args()
    if why := cgroups.unavailable():
        print(f"{why}; cases run without a limit", flush=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), not why, args.verbose, {})
        lines = []
        for i, case in enumerate(cases(args.n), 1):
            lines.append(bench.one(case))
            if i % 20 == 0 or i == args.n:
                print(f"{i} cases, {time.perf_counter() - start:.0f} s: {summary(lines)}", flush=True)
    found = summary(lines)
    head = {"limited": not why, "why_unlimited": why, "seed": SEED, "seconds": time.perf_counter() - start}
    write("budgets", {**head, "summary": found, "cases": lines})
    if found["visible_deaths"]:
        raise SystemExit(f"{found['visible_deaths']} cases died in front of the user")


if __name__ == "__main__":
    main()
