"""Prompt files: one JSON object a line, Spec-Bench's form (question_id, category, turns) or {"category", "prompt"}.

Recorded answers (`--replay`) are the same with "answers", one a turn. Not covered: chat templates (chat).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgespec.errors import BadSetting

BUNDLED = Path(__file__).parent / "questions.jsonl"


@dataclass(frozen=True)
class Question:
    """Turns of one conversation; answers, one a turn, where a recorded file has them."""

    id: str
    category: str
    turns: tuple[str, ...]
    answers: tuple[str, ...] = ()


def read_questions(path: Path, *, recorded: bool = False) -> list[Question]:
    """The questions of a file, in its order; recorded: each must have its answers.

    Raises BadSetting naming the line where one is no question.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # JSON may hold the other line separators
    except UnicodeDecodeError as error:
        raise BadSetting(f"{path} is not UTF-8 text (byte {error.start}); convert it, as with iconv -t UTF-8") from None
    except OSError as error:
        raise BadSetting(f"{path} cannot be read ({error.strerror}); name a .jsonl file of prompts") from None
    found: dict[str, Question] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                question = _question(json.loads(line), number, recorded)
                if question.id in found:
                    raise ValueError(f"a second question with the id {question.id}")
                found[question.id] = question
            except (ValueError, RecursionError) as error:
                what = f"no JSON ({error})" if isinstance(error, json.JSONDecodeError) else str(error)
                raise BadSetting(f"{path}, line {number}: {what}; {_FORM}") from None
    if not found:
        raise BadSetting(f"{path} holds no prompt; {_FORM}")
    return list(found.values())


_FORM = 'a line is {"category": ..., "turns": [...]} or {"category": ..., "prompt": ...}'


def _question(entry: Any, number: int, recorded: bool) -> Question:
    """Raises ValueError saying what is wrong with a line."""
    if not isinstance(entry, dict):
        raise ValueError(f"a {type(entry).__name__}, not an object")
    if ("turns" in entry) == ("prompt" in entry):
        raise ValueError("both turns and prompt" if "turns" in entry else "neither turns nor prompt")
    turns = _texts(entry["turns"], "turns") if "turns" in entry else _texts([entry["prompt"]], "prompt")
    answers = _texts(entry["answers"], "answers") if recorded and "answers" in entry else ()
    if recorded and len(answers) != len(turns):
        raise ValueError(f"{len(turns)} turns but {len(answers)} answers to replay")
    category = entry.get("category", "all")
    if not isinstance(category, str) or not category.strip():
        raise ValueError("a category that is no text")
    given = entry.get("question_id")
    return Question(f"line {number}" if given is None else str(given), category, turns, answers)


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
        raise ValueError(f"{name} must be text that is not empty")
    if any("\ud800" <= c <= "\udfff" for text in value for c in text):
        raise ValueError(f"{name} with half a character (a lone surrogate)")
    return tuple(value)


def spread(questions: Sequence[Question], n: int | None) -> list[Question]:
    """The first n, taking the categories in turn; all of them, in their order, for None."""
    if n is None or n >= len(questions):
        return list(questions)
    by_category: dict[str, list[Question]] = {}
    for question in questions:
        by_category.setdefault(question.category, []).append(question)
    rounds = max(map(len, by_category.values()))
    return [queue[i] for i in range(rounds) for queue in by_category.values() if i < len(queue)][:n]
