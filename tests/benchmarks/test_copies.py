"""benchmarks/data/copies.jsonl: a known answer is its question's own text, whole, with only the change asked for."""

from __future__ import annotations

import difflib
from collections import Counter
from pathlib import Path

import pytest

from edgespec.bench.questions import Question, read_questions

COPIES = read_questions(Path(__file__).parents[2] / "benchmarks" / "data" / "copies.jsonl", recorded=True)
REWRITTEN = [question for question in COPIES if question.category in ("edit", "typo")]


def named(questions: list[Question]) -> list[object]:
    return [pytest.param(q.turns[0], q.answers[0], id=q.id) for q in questions]


def n_shared(text: str, answer: str) -> int:
    """How many words of the answer stand in the text in the same order."""
    matcher = difflib.SequenceMatcher(None, text.split(), answer.split(), autojunk=False)
    return sum(block.size for block in matcher.get_matching_blocks())


def test_each_kind_of_copy_has_eight_questions_of_its_own() -> None:
    """Fails when a line goes missing or stands twice; ids alone would not show a text under two of them."""
    assert len({question.id for question in COPIES}) == len({question.turns for question in COPIES}) == len(COPIES)
    n_by_category = Counter(question.category for question in COPIES)
    assert set(n_by_category) == {"edit", "quote", "typo"}
    assert min(n_by_category.values()) >= 8


@pytest.mark.parametrize(("text", "answer"), named([q for q in COPIES if q.category == "quote"]))
def test_a_quote_stands_in_its_question(text: str, answer: str) -> None:
    """Fails on any character that differs, and on a quote of nearly everything."""
    assert answer in text
    assert len(answer) < 0.75 * len(text)


@pytest.mark.parametrize(("text", "answer"), named(REWRITTEN))
def test_a_rewritten_text_keeps_its_words_and_changes_some(text: str, answer: str) -> None:
    """Fails when an answer was written anew, or when its change was forgotten."""
    assert n_shared(text, answer) >= 0.9 * len(answer.split())
    assert answer not in text


@pytest.mark.parametrize(("text", "answer"), named(REWRITTEN))
def test_a_rewritten_text_is_whole(text: str, answer: str) -> None:
    """Fails when an answer stops early or chats: its paragraphs are the question's but for the one that asks."""
    paragraphs = text.split("\n\n")
    whole = min(paragraphs[1:], paragraphs[:-1], key=lambda kept: -n_shared("\n\n".join(kept), answer))
    assert len(answer.split("\n\n")) == len(whole)
    for before, after in zip(whole, answer.split("\n\n"), strict=True):
        assert 2 * n_shared(before, after) >= max(len(before.split()), len(after.split()))


@pytest.mark.parametrize("answer", [pytest.param(q.answers[0], id=q.id) for q in COPIES if q.category == "edit"])
def test_an_edit_is_one_code_block_and_nothing_else(answer: str) -> None:
    """Fails when an answer explains itself or leaves the block open."""
    lines = answer.split("\n")
    assert lines[0].startswith("```")
    assert lines[-1] == "```"
    assert answer.count("```") == 2
