"""Measuring: methods in turn from cold caches, budgets from plain decoding, failures that stop nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgespec.bench.loops import loop_start
from edgespec.bench.measure import Cut, Event, Failure, Sample, Text, measure, n_answers
from edgespec.bench.questions import Question
from edgespec.errors import Cancelled, DecodeFailed
from edgespec.types import Message, Prefill, Sampling
from edgespec.workbench import Workbench

ASKED = [Question(str(i), "ab"[i % 2], (f"question {i}",)) for i in range(6)]
GREEDY = Sampling(temperature=0)


def events(bench: Workbench, asked=ASKED, n=24, repeats=1, sampling=GREEDY, stop: Callable[[], bool] = bool):
    return list(measure(bench, list(bench.choices), asked, sampling, n, repeats, stop))


def of(kind: type, found: list[Event]) -> list:
    return [e for e in found if isinstance(e, kind)]


def test_every_method_answers_every_prompt_in_every_repeat(bench: Workbench) -> None:
    """Fails when an answer is missing, or the progress bar counts to another number."""
    found = events(bench, repeats=2)
    answered = {(s.method, s.question, s.repeat) for s in of(Sample, found)}
    assert len(answered) == len(of(Sample, found)) == 3 * 6 * 2
    assert n_answers(ASKED, 3, 2) == len(of(Sample, found)) + len(of(Cut, found))


def test_the_order_rotates(bench: Workbench) -> None:
    """Fails when one method always comes first: a machine that drifts would favour it."""
    samples = of(Sample, events(bench))
    firsts = [samples[i].method for i in range(0, len(samples), 3)]
    assert firsts == ["plain", "chain", "tree", "plain", "chain", "tree"]
    repeated = [s.method for s in of(Sample, events(bench, asked=ASKED[:1], repeats=2))]
    assert repeated == ["plain", "chain", "tree", "chain", "tree", "plain"]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_methods_say_what_plain_decoding_said(bench: Workbench, temperature: float) -> None:
    """Fails when methods are timed on different texts: the counts of tokens are plain's, cut where it loops."""
    found = events(bench, n=120, sampling=Sampling(temperature=temperature))
    kept = {c.question: c.n_kept for c in of(Cut, found)}
    assert {(s.question, s.n_tokens) for s in of(Sample, found)} == set(kept.items())
    for cut, text in zip(of(Cut, found), of(Text, found), strict=True):
        assert loop_start(text.answer.tolist()) is None
        assert len(text.answer) == cut.n_kept <= cut.n_said


def test_all_methods_draw_with_one_seed_a_prompt(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a method is timed on another draw of the answer than the one that set its budget."""
    engine, asked = bench.assistant.engine, []
    generate = engine.generate

    def noting(prompt, sampling, *args, **more):
        asked.append((tuple(prompt), sampling.seed, sampling.temperature))
        return generate(prompt, sampling, *args, **more)

    monkeypatch.setattr(engine, "generate", noting)
    events(bench, sampling=Sampling(temperature=0.8, seed=40), repeats=2)
    assert len(set(asked)) == len(ASKED)
    assert {seed for _, seed, _ in asked} == set(range(40, 46))
    assert {temperature for *_, temperature in asked} == {0.8}


def test_a_looping_answer_is_cut(bench: Workbench) -> None:
    """Fails when loops are measured: greedy text of the fake model, a walk on few states, falls into one."""
    assert any(c.n_kept < c.n_said for c in of(Cut, events(bench, n=250)))


def test_answers_start_cold(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a prompt is found in the cache that another method's answer left."""
    engine, cached = bench.assistant.engine, []
    generate = engine.generate

    def noting(*args: object, **more: object):
        for event in generate(*args, **more):
            if isinstance(event, Prefill):
                cached.append(event.n_cached)
            yield event

    monkeypatch.setattr(engine, "generate", noting)
    n_budget = len(of(Cut, events(bench)))
    assert cached.count(0) >= len(cached) - n_budget


def test_a_second_turn_follows_the_plain_answer(bench: Workbench) -> None:
    """Fails when the history of a later turn is lost, or differs between methods."""
    asked = [Question("q", "a", ("first", "second"))]
    first, second = of(Text, events(bench, asked=asked))
    pieces = bench.target.pieces()
    said = b"".join(pieces[t] for t in first.answer).decode("utf-8", "replace")
    turns = [Message("user", "first"), Message("assistant", said), Message("user", "second")]
    assert second.prompt.tolist() == bench.assistant.chat.prompt_ids(turns)
    assert [s.turn for s in of(Sample, events(bench, asked=asked))] == [0, 0, 0, 1, 1, 1]


def test_a_method_that_fails_on_a_prompt_is_reported_and_the_rest_goes_on(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when one bad answer ends the run, or is passed over in silence."""
    engine = bench.assistant.engine
    evaluate = engine._target.evaluate

    def failing(spans, cancelled=None):
        if engine.method == "model" and len(spans[0].tree) == 8:
            raise DecodeFailed("the runtime failed")
        return evaluate(spans, cancelled)

    monkeypatch.setattr(engine._target, "evaluate", failing)
    found = events(bench)
    assert {(f.method, f.error) for f in of(Failure, found)} == {("tree", "the runtime failed")}
    assert len(of(Failure, found)) == 6
    assert {s.method for s in of(Sample, found)} == {"plain", "chain"}
    assert len(of(Sample, found)) == 12


def test_where_plain_decoding_fails_no_method_is_measured(bench: Workbench) -> None:
    """Fails when a prompt without a budget is timed, or ends the run: here it does not fit."""
    found = events(bench, asked=[Question("long", "a", ("x" * 400, "then")), ASKED[0]])
    assert [(f.method, f.question) for f in of(Failure, found)] == [(m, "long") for m in ("plain", "chain", "tree")]
    assert {s.question for s in of(Sample, found)} == {"0"}


def test_a_stop_raises_and_counts_no_half_answer(bench: Workbench) -> None:
    """Fails when an answer that was stopped half-way becomes a sample."""
    found: list[Event] = []
    with pytest.raises(Cancelled):
        for event in measure(bench, list(bench.choices), ASKED, GREEDY, 24, 1, lambda: len(of(Sample, found)) >= 4):
            found.append(event)
    assert len(of(Sample, found)) == 4
    assert all(s.n_tokens == 24 for s in of(Sample, found))


def test_a_replay_verifies_along_the_recorded_answer(bench: Workbench) -> None:
    """Fails when the model's own words are measured, or the record is cut as a loop."""
    answer = "abcdefgh" * 12
    asked = [Question("r", "a", ("say",), (answer,))]
    found = events(bench, asked=asked, n=60)
    (text,) = of(Text, found)
    assert text.answer.tolist() == bench.target.tokenize(answer.encode(), special=False)[:60]
    assert {s.n_tokens for s in of(Sample, found)} == {60}


def test_accepted_lengths_and_tokens_agree(bench: Workbench) -> None:
    """Fails when a pass or a token is counted twice: every pass yields what it accepted and one token more, but for the
    last one, which the budget may cut."""
    for s in of(Sample, events(bench)):
        assert s.n_tokens == s.n_first + sum(s.accepted) + len(s.accepted)
        assert s.n_first <= s.n_tokens
        assert s.ttft_ms > 0
        assert s.decode_ms >= s.target_ms + s.draft_ms
        assert s.target_ms > 0
        assert (s.draft_ms > 0) == (s.method != "plain")
