"""Answers by several methods in turn, from cold caches, timed: the samples that every figure is made of.

Methods are interleaved prompt by prompt in an order that rotates, so that a machine that drifts favours none. How long
an answer may be is said by a plain run beforehand, which is cut where it begins to loop. Not covered: figures.py makes
sense of samples; memory.py takes a pass of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgespec.bench.loops import loop_start
from edgespec.bench.questions import Question
from edgespec.errors import Cancelled, EdgespecError
from edgespec.speculation.verify import Draws, recorded_draws
from edgespec.types import Ids, Message, Sampling, Step
from edgespec.workbench import Workbench


@dataclass(frozen=True)
class Sample:
    """One answer of one method.

    ttft_ms    from the question to its first tokens, cold; the first round emits n_first of them at once
    decode_ms  from there to the end, of which target_ms and draft_ms were the runtime's
    accepted   drafted tokens that each pass after the first round accepted, of n_drafted in all
    """

    method: str
    question: str
    category: str
    turn: int
    repeat: int
    n_prompt: int
    n_tokens: int
    n_first: int
    n_drafted: int
    accepted: tuple[int, ...]
    ttft_ms: float
    decode_ms: float
    target_ms: float
    draft_ms: float


@dataclass(frozen=True)
class Cut:
    """What a plain run said before the timed ones: how many tokens, and how many before its first loop."""

    question: str
    turn: int
    n_said: int
    n_kept: int


@dataclass(frozen=True)
class Failure:
    """A method that failed on a prompt, in its own words."""

    method: str
    question: str
    turn: int
    error: str


@dataclass(frozen=True)
class Text:
    """Ids of a prompt and of the plain answer that set the budget: what drafters are measured along afterwards."""

    prompt: Ids
    answer: Ids
    seed: int


Event = Sample | Cut | Failure | Text


def n_answers(questions: Sequence[Question], n_methods: int, n_repeats: int) -> int:
    """Answers of a whole run, those that set the budgets included: what a progress bar counts to."""
    return sum(len(q.turns) for q in questions) * (1 + n_methods * n_repeats)


def measure(
    bench: Workbench,
    names: Sequence[str],
    questions: Sequence[Question],
    sampling: Sampling,
    max_tokens: int | None,
    n_repeats: int,
    cancelled: Callable[[], bool],
    system: str | None = None,
) -> Iterator[Event]:
    """Events as they come; a method that fails on a prompt is a Failure, and the rest goes on. Raises Cancelled.

    names: the methods to take in turn; the bench's "plain" sets the budgets whether it is among them or not.
    system: instructions in front of every conversation.
    """
    for number, question in enumerate(questions):
        turns = [Message("system", system)] if system else []
        for turn, asked in enumerate(question.turns):
            turns.append(Message("user", asked))
            own = replace(sampling, seed=sampling.seed + number)
            try:
                task = _task(bench, question, turn, turns, own, max_tokens, cancelled)
            except Cancelled:
                raise
            except EdgespecError as error:
                yield from (Failure(name, question.id, turn, str(error)) for name in names)
                break  # later turns have no history
            yield task.cut
            yield Text(np.asarray(task.prompt, np.int32), task.answer, own.seed)
            for repeat in range(n_repeats):
                first = (number + turn + repeat) % len(names)
                for name in (*names[first:], *names[:first]):
                    yield _sampled(bench, name, task, repeat, cancelled)
            turns.append(Message("assistant", task.text))


@dataclass(frozen=True)
class _Task:
    """One turn to answer: its prompt, its budget, and the plain answer (in a replay: the recorded one, its draws)."""

    question: Question
    turn: int
    prompt: list[int]
    answer: Ids
    text: str
    cut: Cut
    sampling: Sampling
    draws: Draws | None


def _task(
    bench: Workbench,
    question: Question,
    turn: int,
    turns: Sequence[Message],
    sampling: Sampling,
    max_tokens: int | None,
    cancelled: Callable[[], bool],
) -> _Task:
    prompt = bench.assistant.chat.prompt_ids(turns)
    if question.answers:
        text = question.answers[turn]
        said = bench.target.tokenize(text.encode(), special=False)[:max_tokens]
        room = bench.assistant.engine.n_ctx - len(prompt)
        answer = np.asarray(said[: max(room, 0)], np.int32)
        whole = np.concatenate([np.asarray(prompt, np.int32), answer])
        cut = Cut(question.id, turn, len(answer), len(answer))
        return _Task(question, turn, prompt, answer, text, cut, sampling, recorded_draws(whole.tolist()))
    bench.use("plain")
    end_ids = bench.target.end_ids
    events = bench.assistant.engine.generate(prompt, sampling, max_tokens, end_ids=end_ids, cancelled=cancelled)
    steps = [e for e in events if isinstance(e, Step)]
    _refuse_a_stop(steps)
    answer = np.array([t for s in steps for t in s.tokens], np.int32)
    start = loop_start(answer.tolist())
    cut = Cut(question.id, turn, len(answer), len(answer) if start is None else start)
    pieces = bench.target.pieces()
    text = b"".join(pieces[t] for t in answer if t not in end_ids).decode("utf-8", "replace")
    return _Task(question, turn, prompt, answer[: cut.n_kept], text, cut, sampling, None)


def _refuse_a_stop(steps: Sequence[Step]) -> None:
    """Half an answer is no sample; raises Cancelled."""
    if steps[-1].finish == "cancelled":
        raise Cancelled("stopped")


def _sampled(bench: Workbench, name: str, task: _Task, repeat: int, cancelled: Callable[[], bool]) -> Sample | Failure:
    """One cold answer within the task's budget."""
    bench.use(name)
    engine = bench.assistant.engine
    end_ids = frozenset[int]() if task.question.answers else bench.target.end_ids
    try:
        engine.forget()
        start = time.perf_counter()
        steps: list[Step] = []
        first = start
        events = engine.generate(
            task.prompt,
            task.sampling,
            len(task.answer),
            end_ids=end_ids,
            draws=task.draws,
            cancelled=cancelled,
        )
        for event in events:
            if not isinstance(event, Step):
                continue
            steps.append(event)
            if len(steps) == 1:
                first = time.perf_counter()
        end = time.perf_counter()
        _refuse_a_stop(steps)
    except Cancelled:
        raise
    except EdgespecError as error:
        return Failure(name, task.question.id, task.turn, str(error))
    return Sample(
        method=name,
        question=task.question.id,
        category=task.question.category,
        turn=task.turn,
        repeat=repeat,
        n_prompt=len(task.prompt),
        n_tokens=sum(len(s.tokens) for s in steps),
        n_first=len(steps[0].tokens),
        n_drafted=sum(s.n_drafted for s in steps[1:]),
        accepted=tuple(s.n_accepted for s in steps[1:]),
        ttft_ms=1e3 * (first - start),
        decode_ms=1e3 * (end - first),
        target_ms=sum(s.target_ms for s in steps[1:]),
        draft_ms=sum(s.draft_ms for s in steps[1:]),
    )
