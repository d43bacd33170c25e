"""The worker is killed at random moments of an answer: is every answer finished, and the one that nobody disturbed?

Under --exact with q8_0 KV a row depends on nothing but its past, so the text must be identical, at temperature 0 and
0.8. A timer kills while the prompt is read, while the answer comes, or in an answer and then once more in the load that
follows it. What a kill hit is taken from what the supervisor says of the death; one that missed is repeated.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import signal
import statistics
import threading
import time
from dataclasses import dataclass, field

import record
from prompts import DATA

from edgespec.bench.questions import Question, read_questions, spread
from edgespec.service.messages import Done, Loaded, Noted, Said
from edgespec.service.supervisor import Supervisor
from edgespec.settings import Settings
from edgespec.types import Answer, Message, Notice, Sampling

SETTINGS = Settings(model="demo", method="model", exact=True, kv="q8_0", context=1024)
TEMPERATURES = (0.0, 0.8)
SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)
LONGEST_PROMPT, N_TOKENS, N_PROMPTS = 1200, 96, 20
# Shares of the cases; a load is hit by a second kill of the same answer.
CASES = ("prompt", "answer", "answer", "answer then load")


@dataclass(frozen=True)
class Asked:
    """One question undisturbed: its answer, and how long the first piece and the rest took."""

    turns: tuple[Message, ...]
    sampling: Sampling
    answer: Answer
    prompt_s: float
    answer_s: float


@dataclass
class Tally:
    kills: collections.Counter[str] = field(default_factory=collections.Counter)
    signals: collections.Counter[str] = field(default_factory=collections.Counter)
    restart_ms: list[float] = field(default_factory=list)
    n_answers: int = 0
    n_finished: int = 0
    n_identical: int = 0
    n_missed: int = 0


@dataclass
class Killer:
    """Kills the worker's process, but never twice the same one, at a moment of each window."""

    worker: Supervisor
    rng: random.Random
    turn: int = 0
    killed: int = 0
    timer: threading.Timer = field(default_factory=lambda: threading.Timer(0, lambda: None))

    def within(self, seconds: float) -> None:
        self.timer = threading.Timer(self.rng.uniform(0, seconds), self._kill)
        self.timer.start()

    def _kill(self) -> None:
        if self.worker.pid != self.killed:
            self.killed = self.worker.pid
            os.kill(self.killed, SIGNALS[self.turn % len(SIGNALS)])

    def stop(self) -> None:
        self.timer.cancel()
        self.timer.join()


def undisturbed(worker: Supervisor, questions: list[Question], temperature: float) -> list[Asked]:
    found = []
    for i, question in enumerate(questions):
        turns, sampling = (Message("user", question.turns[0]),), Sampling(temperature=temperature, seed=i)
        start = first = time.perf_counter()
        for event in worker.generate(turns, sampling, N_TOKENS):
            if isinstance(event, Said) and first == start:
                first = time.perf_counter()
        assert isinstance(event, Done)
        found.append(Asked(turns, sampling, event.answer, first - start, time.perf_counter() - first))
    return found


def what_was_hit(notice: Notice) -> str:
    if "while loading" in notice.text:
        return "load"
    return "answer" if notice.n_tokens else "prompt"


def kill_one(killer: Killer, asked: Asked, case: str, load_s: float, tally: Tally) -> None:
    """Ask once more under fire, and note what came of it."""
    n_deaths, text, died_at = 0, "", 0.0
    if case == "prompt":
        killer.within(asked.prompt_s)
    for event in killer.worker.generate(asked.turns, asked.sampling, N_TOKENS):
        if isinstance(event, Noted):
            n_deaths, died_at = n_deaths + 1, time.perf_counter()
            tally.kills[what_was_hit(event.notice)] += 1
            tally.signals[SIGNALS[killer.turn % len(SIGNALS)].name] += 1
            killer.turn += 1
            if case == "answer then load" and n_deaths == 1:
                killer.within(load_s)
        elif isinstance(event, Said | Done):
            if died_at:
                tally.restart_ms.append(1e3 * (time.perf_counter() - died_at))
                died_at = 0.0
            if isinstance(event, Said):
                if not text and not n_deaths and case != "prompt":
                    killer.within(asked.answer_s)
                text += event.piece.text
    killer.stop()
    tally.n_missed += not n_deaths
    if n_deaths:
        want = asked.answer
        assert isinstance(event, Done)
        tally.n_answers += 1
        tally.n_finished += event.answer.finish == want.finish
        same = (text, event.answer.text, event.answer.tokens) == (want.text, want.text, want.tokens)
        tally.n_identical += same


def run(n_kills: int, seed: int) -> tuple[Tally, Loaded]:
    rng, tally = random.Random(seed), Tally()
    known = [q for q in read_questions(DATA / "prompts_dev.jsonl") if len(q.turns[0]) <= LONGEST_PROMPT]
    with Supervisor() as worker:
        worker.load(SETTINGS)  # the first one fills caches
        start = time.perf_counter()
        loaded = worker.load(SETTINGS)
        load_s = time.perf_counter() - start
        questions = spread(known, min(N_PROMPTS, n_kills))
        asked = [undisturbed(worker, questions, temperature) for temperature in TEMPERATURES]
        killer, turn = Killer(worker, rng), 0
        while tally.kills.total() < n_kills:
            of_temperature = asked[turn % len(asked)]
            one = of_temperature[turn // len(asked) % len(of_temperature)]
            kill_one(killer, one, rng.choice(CASES), load_s, tally)
            turn += 1
            if killer.killed == worker.pid:  # it came after the end: a death between answers is another question
                worker.load(SETTINGS)
            print(
                f"{tally.kills.total()} kills, {tally.n_identical} of {tally.n_answers} answers identical", flush=True
            )
    return tally, loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="kills to deliver, or one more")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    start = time.perf_counter()
    tally, loaded = run(args.n, args.seed)
    result = {
        "settings": {"kv": "q8_0", "exact": True, "method": loaded.method, "context": loaded.n_ctx},
        "temperatures": TEMPERATURES,
        "max_tokens": N_TOKENS,
        "kills": {stage: tally.kills[stage] for stage in ("load", "prompt", "answer")},
        "signals": dict(tally.signals),
        "answers": tally.n_answers,
        "answers_finished": tally.n_finished,
        "texts_identical": tally.n_identical,
        "cases_repeated": tally.n_missed,
        "restart_ms": {"median": statistics.median(tally.restart_ms), "max": max(tally.restart_ms)},
        "seconds": time.perf_counter() - start,
    }
    print(result)
    record.write("kills", result)
    if not tally.n_answers == tally.n_finished == tally.n_identical:
        raise SystemExit("an answer was lost or changed by a death of the worker")


if __name__ == "__main__":
    main()
