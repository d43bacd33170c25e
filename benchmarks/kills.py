"""The worker is killed at random moments of an answer: is every answer finished, and the one that nobody disturbed?

Under --exact with q8_0 KV a row depends on nothing but its past, so the text must be identical, at temperature 0 and
0.8. Each answer is asked for until a kill hit it: while the prompt is read, while the answer comes, or in an answer and
then once more in the load that follows it. Half of them have no --context, and are turns of a conversation, so that its
length matters; a quarter has no drafter, whose next rung would be a shorter context. What a kill hit, and which signal
it was, is what the supervisor says of the death.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import re
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import record
from prompts import DATA

from edgespec.bench.questions import Question, read_questions, spread
from edgespec.service.messages import Done, Noted, Said
from edgespec.service.supervisor import Supervisor
from edgespec.settings import Settings
from edgespec.types import Answer, Message, Notice, Sampling

SHORT = Settings(model="demo", method="model", exact=True, kv="q8_0", context=1024)
LONG = Settings(model="demo", method="model", exact=True, kv="q8_0")
PLAIN = Settings(model="demo", method="plain", exact=True, kv="q8_0")
# Settings and their share of the answers.
SHARES = ((SHORT, 0.5), (LONG, 0.25), (PLAIN, 0.25))
TEMPERATURES = (0.0, 0.8)
SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)
LONGEST_PROMPT, N_TOKENS = 1200, 96
# What is hit, in turn; a load is hit by a second kill of the same answer.
CASES = ("prompt", "answer", "answer then load")
MOST_TRIES = 20
# A lower plan stays until the next load, which comes every so many answers, and has a conversation read again.
RELOAD = 8
PHASES = ("load", "prompt", "answer")


@dataclass(frozen=True)
class Asked:
    """One question undisturbed: its answer, and how long the first piece and the rest took."""

    turns: tuple[Message, ...]
    sampling: Sampling
    answer: Answer
    prompt_s: float
    answer_s: float
    n_left_out: int


@dataclass
class Tally:
    kills: collections.Counter[str] = field(default_factory=collections.Counter)
    signals: collections.Counter[str] = field(default_factory=collections.Counter)
    restart_ms: list[float] = field(default_factory=list)
    n_answers: int = 0
    n_finished: int = 0
    n_identical: int = 0
    n_missed: int = 0
    n_shortened: int = 0


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
            self.turn += 1

    def stop(self) -> None:
        self.timer.cancel()
        if self.timer.ident is not None:
            self.timer.join()


def undisturbed(worker: Supervisor, questions: list[Question], talks: bool) -> list[Asked]:
    """Temperatures in turn; talks: each question comes behind all earlier ones and their answers."""
    found: list[Asked] = []
    history: list[Message] = []
    for i, question in enumerate(questions):
        turns = (*history, Message("user", question.turns[0]))
        sampling = Sampling(temperature=TEMPERATURES[i % len(TEMPERATURES)], seed=i)
        start = first = time.perf_counter()
        for event in worker.generate(turns, sampling, N_TOKENS):
            if isinstance(event, Said) and first == start:
                first = time.perf_counter()
        assert isinstance(event, Done)
        n_left_out = sum(notice.kind == "turns" for notice in event.notices)
        found.append(Asked(turns, sampling, event.answer, first - start, time.perf_counter() - first, n_left_out))
        if talks:
            history = [*turns, Message("assistant", event.answer.text, event.answer.tokens)]
    return found


def what_was_hit(notice: Notice) -> str:
    if "while loading" in notice.text:
        return "load"
    return "answer" if notice.n_tokens else "prompt"


def signal_of(notice: Notice) -> str:
    found = re.search(r"killed by (\w+)", notice.text)
    return found[1] if found else "none"


def kill_one(killer: Killer, asked: Asked, case: str, load_s: float, tally: Tally) -> bool:
    """Ask once more under fire, note what came of it, and tell whether it was hit."""
    n_deaths, text, died_at = 0, "", 0.0
    if case == "prompt":
        killer.within(asked.prompt_s)
    for event in killer.worker.generate(asked.turns, asked.sampling, N_TOKENS):
        if isinstance(event, Noted) and event.notice.kind == "restart":
            n_deaths, died_at = n_deaths + 1, time.perf_counter()
            tally.kills[what_was_hit(event.notice)] += 1
            tally.signals[signal_of(event.notice)] += 1
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
    if n_deaths:
        assert isinstance(event, Done)
        want, got = asked.answer, event.answer
        tally.n_answers += 1
        tally.n_shortened += asked.n_left_out
        tally.n_finished += got.finish == want.finish
        tally.n_identical += (text, got.text, got.tokens) == (want.text, want.text, want.tokens)
    return n_deaths > 0


def one_by_one(settings: Settings, questions: list[Question], rng: random.Random, tally: Tally) -> Iterator[Asked]:
    """Each question's answer once it was hit, and noted."""
    with Supervisor() as worker:
        worker.load(settings)  # the first one fills caches
        start = time.perf_counter()
        loaded = worker.load(settings)
        load_s = time.perf_counter() - start
        every = undisturbed(worker, questions, talks=settings.context is None)
        killer = Killer(worker, rng, turn=tally.n_answers)
        for i, asked in enumerate(every):
            for _ in range(MOST_TRIES):
                if killer.killed == worker.pid or not i % RELOAD:  # a death behind the end is one of the load
                    worker.load(settings)
                if kill_one(killer, asked, CASES[i % len(CASES)], load_s, tally):
                    break
                tally.n_missed += 1
            else:
                raise SystemExit(f"{MOST_TRIES} kills missed an answer of {loaded.model}; raise N_TOKENS")
            yield asked


def run(n_answers: int, seed: int) -> Tally:
    rng, tally = random.Random(seed), Tally()
    known = [q for q in read_questions(DATA / "prompts_dev.jsonl") if len(q.turns[0]) <= LONGEST_PROMPT]
    for settings, share in SHARES:
        questions = spread(known, max(round(share * n_answers), 1))
        for _ in one_by_one(settings, questions, rng, tally):
            kills = tally.kills.total()
            print(f"{kills} kills, {tally.n_identical} of {tally.n_answers} answers identical", flush=True)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="answers to kill, each at least once")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    start = time.perf_counter()
    tally = run(args.n, args.seed)
    result = {
        "settings": [{"method": s.method, "context": s.context, "kv": s.kv, "share": share} for s, share in SHARES],
        "exact": True,
        "temperatures": TEMPERATURES,
        "max_tokens": N_TOKENS,
        "answers": tally.n_answers,
        "answers_finished": tally.n_finished,
        "texts_identical": tally.n_identical,
        "with_turns_left_out": tally.n_shortened,
        "kills": {phase: tally.kills[phase] for phase in PHASES},
        "signals": dict(tally.signals),
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
