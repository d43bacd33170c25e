"""A memory hog comes and goes in the middle of an answer: does the ladder go down and up again, and no token get lost?

    python benchmarks/hog.py            # about 2 minutes

The model's process and a hog share a control group with a limit somewhat above what the chat needs. After so many
tokens of the answer the hog takes what is free but for half the low mark, and after some more it gives it back. Under
--exact with q8_0 KV a row depends on nothing but its past, so the text must be the undisturbed one. Once more through
the command line, to see the steps in `--json`. Skipped where control groups cannot be had.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import cgroups
import record
from prompts import DATA

from edgespec.bench.questions import read_questions
from edgespec.planning import LOW_BYTES
from edgespec.service.messages import Done, Loaded, Noted, Said
from edgespec.service.supervisor import COMMAND, Supervisor
from edgespec.settings import Settings
from edgespec.types import Answer, Message, Notice, Sampling

SETTINGS = Settings(model="demo", method="model", exact=True, kv="q8_0")
SAMPLING = Sampling(temperature=0.8, seed=1)
QUESTION = "Create a lesson plan that integrates drama"  # one that the demo model answers at length
# Beyond what the process takes at its most: the margin that a plan without a budget leaves, and some room to be taken.
SPARE_BYTES, LIMIT_BYTES = 48 << 20, 1 << 30
LOADED_BYTES = 64 << 20  # face and worker hold more than that once the model is there
# Takes and gives back what it is told; a mapping, since an allocator may keep what is freed.
HOG = """
import mmap, sys
held = None
for line in sys.stdin:
    if held is not None:
        held.close()
        held = None
    if int(line):
        held = mmap.mmap(-1, int(line))
        for at in range(0, len(held), 4096):
            held[at] = 1
    print("done", flush=True)
"""


@dataclass
class Hog:
    """A process in the group that holds so many bytes."""

    group: cgroups.Group
    process: subprocess.Popen[str]
    held_bytes: int = 0

    def take_but(self, left_bytes: int) -> None:
        """Everything that is free but for so much."""
        self.hold(max(self.group.free_bytes - left_bytes, 0) // 4096 * 4096)

    def hold(self, n_bytes: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(n_bytes, file=self.process.stdin, flush=True)
        if not self.process.stdout.readline():
            raise SystemExit("the hog died; nothing can be said")
        self.held_bytes = n_bytes


@contextmanager
def hog_in(group: cgroups.Group) -> Iterator[Hog]:
    command = group.command([sys.executable, "-I", "-S", "-c", HOG])
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        hog = Hog(group, process)
        hog.hold(0)  # the interpreter is there before anybody measures
        yield hog
    finally:
        process.kill()
        process.communicate()


@dataclass
class Told:
    """An answer with its steps: notices, and milliseconds from the last piece before a notice to the first after it."""

    answer: Answer | None = None
    text: str = ""
    notices: list[Notice] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)
    free_bytes: list[int] = field(default_factory=list)
    seconds: float = 0.0


def ask(worker: Supervisor, question: str, n_tokens: int, group: cgroups.Group, when: dict[int, Any]) -> Told:
    """One answer; `when` so many tokens were said something is called, once."""
    told, n_said, start = Told(), 0, time.perf_counter()
    last, stepping = start, 0
    for event in worker.generate((Message("user", question),), SAMPLING, n_tokens):
        now = time.perf_counter()
        if isinstance(event, Noted):
            told.notices.append(event.notice)
            told.free_bytes.append(group.free_bytes)
            stepping += 1
        elif isinstance(event, Said):
            told.step_ms += [1e3 * (now - last)] * min(stepping, 1) + [0.0] * (stepping - 1)
            last, stepping = now, 0
            n_said += len(event.piece.ids)
            told.text += event.piece.text
            for at in [n for n in when if n <= n_said]:
                when.pop(at)()
        elif isinstance(event, Done):
            told.answer = event.answer
    told.seconds = time.perf_counter() - start
    return told


def in_chat(question: str, args: argparse.Namespace, limit: int) -> tuple[dict[str, Any], Told, Loaded]:
    """The answer undisturbed and disturbed, by one process; the hog comes and goes with the answer's tokens."""
    with cgroups.new_group(limit) as group, hog_in(group) as hog:
        with Supervisor(group.command(COMMAND)) as worker:
            loaded = worker.load(SETTINGS)
            calm = ask(worker, question, args.tokens, group, {})
            came, went = args.tokens // 5, args.tokens // 2
            when = {came: lambda: hog.take_but(LOW_BYTES // 2), went: lambda: hog.hold(0)}
            short = ask(worker, question, args.tokens, group, when)
        n_killed = group.n_killed
    assert calm.answer
    assert short.answer
    same = (calm.text, calm.answer.text, calm.answer.tokens) == (short.text, short.answer.text, short.answer.tokens)
    line = {
        "limit_bytes": limit,
        "hog_at_tokens": [came, went],
        "tokens": len(short.answer.tokens),
        "identical": same,
        "killed": n_killed,
        "seconds": {"calm": calm.seconds, "short": short.seconds},
        "rounds": {"calm": calm.answer.n_rounds, "short": short.answer.n_rounds},
        "calm_events": [noted(notice) for notice in calm.notices],
        "events": [
            {**noted(notice), "free_bytes_after": free, "ms": ms}
            for notice, free, ms in zip(short.notices, short.free_bytes, short.step_ms, strict=False)
        ],
        **counts([noted(notice) for notice in short.notices]),
    }
    return line, calm, loaded


def noted(notice: Notice) -> dict[str, Any]:
    return {**asdict(notice), "text": cgroups.nameless(notice.text)}


def counts(events: list[dict[str, Any]]) -> dict[str, int]:
    ladder = [event["text"] for event in events if event["kind"] == "ladder"]
    up = sum(text.startswith("memory is free again") for text in ladder)
    restarts = sum(event["kind"] == "restart" for event in events)
    return {"steps_down": len(ladder) - up, "steps_up": up, "restarts": restarts}


def until_still(group: cgroups.Group, process: subprocess.Popen[str]) -> None:
    """Until a model was loaded and what is free has not changed by more than a MiB for half a second: it answers. A hog
    that comes while a load allocates is what the system kills, and shows nothing."""
    start, last, n_still = group.free_bytes, 0, 0
    while n_still < 5 and process.poll() is None:
        time.sleep(0.1)
        free = group.free_bytes
        n_still = n_still + 1 if start - free > LOADED_BYTES and abs(free - last) < 1 << 20 else 0
        last = free


def by_command(question: str, args: argparse.Namespace, limit: int, calm: Told) -> dict[str, Any]:
    """edgespec run --json in the group, face and all; the hog comes once memory stands still and goes by the clock."""
    flags = ["-m", "demo", "--method", "model", "--exact", "--kv", "q8_0", "--temperature", str(SAMPLING.temperature)]
    flags += ["--seed", str(SAMPLING.seed), "--max-tokens", str(args.tokens), "--json", "-p", question]
    command = [sys.executable, "-m", "edgespec.cli", "run", *flags]
    with cgroups.new_group(limit) as group, hog_in(group) as hog:
        environment = {**os.environ, "PYTHONPATH": str(record.ROOT)}
        process = subprocess.Popen(
            group.command(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        until_still(group, process)
        hog.take_but(LOW_BYTES // 2)
        time.sleep(calm.seconds / 4)
        hog.hold(0)
        out, said = process.communicate()
        n_killed = group.n_killed
    if process.returncode:
        return {
            "code": process.returncode,
            "said": cgroups.nameless(said),
            "killed": n_killed,
            "identical": False,
            **counts([]),
        }
    answer = json.loads(out)
    events = [noted(Notice(**event)) for event in answer["speculation"]["events"]]
    assert calm.answer
    same = (answer["text"], answer["tokens"]) == (calm.answer.text, list(calm.answer.tokens))
    head = {"code": 0, "killed": n_killed, "limit_bytes": limit, "tokens": len(answer["tokens"])}
    return {**head, "identical": same, "events": events, **counts(events)}


def limits(question: str, n_tokens: int) -> tuple[int, int]:
    """For the worker alone and for the program as a whole: what it takes at its most, and room to be taken."""
    with cgroups.new_group(LIMIT_BYTES) as group, Supervisor(group.command(COMMAND)) as worker:
        worker.load(SETTINGS)  # the first one may try out the runtime and time passes
        ask(worker, question, n_tokens, group, {})
    with cgroups.new_group(LIMIT_BYTES) as group:
        with Supervisor(group.command(COMMAND)) as worker:
            worker.load(SETTINGS)
            ask(worker, question, n_tokens, group, {})
        peak = group.peak_bytes
    face = 16 << 20
    return peak + (64 << 20) + SPARE_BYTES, peak + face + (64 << 20) + SPARE_BYTES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1500)
    args = parser.parse_args()
    if why := cgroups.unavailable():
        print(f"skipped: {why}")
        record.write("hog", {"skipped": why})
        return
    every = read_questions(DATA / "prompts_dev.jsonl")
    question = next(q.turns[0] for q in every if q.turns[0].startswith(QUESTION))
    start = time.perf_counter()
    limit, limit_all = limits(question, args.tokens)
    chat, calm, loaded = in_chat(question, args, limit)
    print(json.dumps(chat, indent=1), flush=True)
    command = by_command(question, args, limit_all, calm)
    print(json.dumps(command, indent=1), flush=True)
    settings = {"kv": "q8_0", "exact": True, "method": loaded.method, "context": loaded.n_ctx, **asdict(SAMPLING)}
    ladder = next(p.value for p in loaded.plan if p.line == "ladder")
    head = {"settings": settings, "ladder": ladder, "low_mark_bytes": LOW_BYTES}
    record.write("hog", {**head, "chat": chat, "command": command, "seconds": time.perf_counter() - start})
    for name, line in (("chat", chat), ("command", command)):
        if not line["identical"] or line["restarts"] or not (line["steps_down"] and line["steps_up"]):
            raise SystemExit(f"{name}: a token was lost, a process died, or no step was taken")


if __name__ == "__main__":
    main()
