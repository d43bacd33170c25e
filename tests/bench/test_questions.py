"""Prompt files: both forms are read, and what cannot be is named with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgespec.bench.questions import BUNDLED, Question, read_questions, spread
from edgespec.errors import BadSetting


def written(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "asked.jsonl"
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return path


def test_both_forms_are_read_in_order(tmp_path: Path) -> None:
    """Fails when a form, a turn or the order is lost; an id that is missing is the line's number."""
    path = written(
        tmp_path,
        {"question_id": 81, "category": "writing", "turns": ["one", "two"], "reference": ["x"]},
        "",
        {"category": "qa", "prompt": "three"},
    )
    assert read_questions(path) == [Question("81", "writing", ("one", "two")), Question("line 3", "qa", ("three",))]


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    """Fails on files that Windows editors wrote."""
    path = tmp_path / "bom.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"category": "a", "prompt": "hi"}\n')
    assert read_questions(path)[0].turns == ("hi",)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{oops", "no JSON"),
        ("[1, 2]", "a list, not an object"),
        ('{"category": "a"}', "neither turns nor prompt"),
        ('{"category": "a", "prompt": "x", "turns": ["y"]}', "both turns and prompt"),
        ('{"category": "a", "turns": []}', "turns must be text"),
        ('{"category": "a", "turns": "text"}', "turns must be text"),
        ('{"category": "a", "turns": ["x", 3]}', "turns must be text"),
        ('{"category": "a", "prompt": "  "}', "prompt must be text"),
        ('{"category": 3, "prompt": "x"}', "a category that is no text"),
        ('{"category": "a", "prompt": "half \\ud800"}', "half a character"),
        ("[" * 100_000, ""),
    ],
)
def test_a_malformed_line_is_named_with_its_number(tmp_path: Path, line: str, what: str) -> None:
    """Fails when the message does not lead to the line, or the line is passed over."""
    path = written(tmp_path, {"category": "a", "prompt": "fine"}, line)
    with pytest.raises(BadSetting, match=rf"line 2: .*{what}"):
        read_questions(path)


@pytest.mark.parametrize(
    ("content", "what"), [(b"", "holds no prompt"), (b"\n\n", "holds no prompt"), (b"\xff\xfe\x00", "not UTF-8")]
)
def test_a_file_that_holds_no_prompts_is_refused(tmp_path: Path, content: bytes, what: str) -> None:
    """Fails when a bench of nothing starts."""
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadSetting, match=what):
        read_questions(path)


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    """Fails when the system's error reaches the user as a traceback."""
    with pytest.raises(BadSetting, match="cannot be read"):
        read_questions(tmp_path / name)


def test_a_replay_needs_an_answer_for_every_turn(tmp_path: Path) -> None:
    """Fails when a turn without a recorded answer is replayed from nothing."""
    path = written(tmp_path, {"category": "a", "turns": ["x", "y"], "answers": ["z"]})
    with pytest.raises(BadSetting, match="2 turns but 1 answers"):
        read_questions(path, recorded=True)
    assert read_questions(path)[0].answers == ()


def test_an_id_names_one_question(tmp_path: Path) -> None:
    """Fails when two prompts become one pair of every ratio; ids that are missing or null never meet others."""
    path = written(tmp_path, {"question_id": 2, "prompt": "a"}, {"question_id": None, "prompt": "b"}, {"prompt": "c"})
    assert [q.id for q in read_questions(path)] == ["2", "line 2", "line 3"]
    path = written(tmp_path, {"question_id": 2, "prompt": "a"}, {"question_id": 2, "prompt": "b"})
    with pytest.raises(BadSetting, match="line 2: a second question with the id 2"):
        read_questions(path)


def test_line_separators_of_other_scripts_end_no_line(tmp_path: Path) -> None:
    """Fails when valid JSON is cut at a raw U+2028 and the lines after it are miscounted."""
    path = written(tmp_path, '{"category": "a", "prompt": "one\u2028two"}', "{oops")
    with pytest.raises(BadSetting, match="line 2"):
        read_questions(path)


def test_a_limit_takes_the_categories_in_turn() -> None:
    """Fails when a short run measures one category only."""
    asked = [Question(str(i), category, ("x",)) for i, category in enumerate("aaabbc")]
    assert [q.category for q in spread(asked, 4)] == ["a", "b", "c", "a"]
    assert spread(asked, None) == asked
    assert spread(asked, 99) == asked


def test_the_bundled_questions_are_of_many_categories() -> None:
    """Fails when the file that ships is damaged."""
    assert len({q.category for q in read_questions(BUNDLED)}) == 8
