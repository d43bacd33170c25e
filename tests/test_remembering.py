"""What one session leaves for the next: kept whole, moved aside when damaged, and never fatal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgespec.remembering import Remembered
from edgespec.store import learnt, tables
from tests.remembered import N_VOCAB, TEXT, files, started, talked


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESPEC_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target.gguf").write_bytes(b"weights" * 100)
    return tmp_path / "target.gguf"


def test_the_next_session_goes_on_from_this_one(target: Path) -> None:
    """Fails when texts, rows or fits are lost on the way through the files."""
    remembered, made = started(target)
    talked(made)
    assert remembered.keep(made) is None
    again, then = started(target)
    assert again.warnings == []
    assert then.suffix.automaton.n_tokens == len(TEXT)
    copied = then.suffix.guess(then.suffix.follow(np.array([50, 1, 2, 3], np.int32)))
    assert list(copied.chances) == [4]
    row = then.recycled.guess((5, 6, 7))
    assert max(row.chances, key=row.chances.__getitem__) == 99
    then.without_model()
    assert then.learnt()["fits"] == made.learnt()["fits"]


def test_a_third_session_still_has_all_of_it(target: Path) -> None:
    """Fails when a session in which nothing was said saves nothing over what was kept."""
    remembered, made = started(target)
    talked(made)
    remembered.keep(made)
    remembered, idle = started(target)
    idle.without_model()
    assert remembered.keep(idle) is None
    _, then = started(target)
    then.without_model()
    assert then.suffix.automaton.n_tokens == len(TEXT)
    assert then.learnt()["fits"] == made.learnt()["fits"]


def test_sessions_are_texts_of_their_own(target: Path) -> None:
    """Fails when the end of one session and the beginning of the next match as if they had been said in one."""
    remembered, made = started(target)
    talked(made)
    remembered.keep(made)
    _, then = started(target)
    then.suffix.follow(np.array([40, 41], np.int32))
    place = then.suffix.follow(np.array([40, 41, 7], np.int32))
    assert not then.suffix.guess(place).chances


def test_another_model_has_another_memory(tmp_path: Path, target: Path) -> None:
    """Fails when ids of one vocabulary are drafted for another."""
    remembered, made = started(target)
    talked(made)
    remembered.keep(made)
    (tmp_path / "other.gguf").write_bytes(b"others" * 100)
    _, then = started(tmp_path / "other.gguf")
    assert then.suffix.automaton.n_tokens == 0


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(1000))


@pytest.mark.parametrize("damage", [cut, flipped, emptied, garbage])
def test_a_damaged_table_is_moved_aside_with_a_line(target: Path, data: Path, damage: Callable[[Path], None]) -> None:
    """Fails when it ends the start, is believed, or is overwritten without a word."""
    remembered, made = started(target)
    talked(made)
    remembered.keep(made)
    (path,) = files(data, ".bin")
    damage(path)
    again, then = started(target)
    assert len(again.warnings) == 1
    assert path.with_suffix(".damaged").name in again.warnings[0]
    assert then.suffix.automaton.n_tokens == 0
    assert path.with_suffix(".damaged").exists()
    talked(then)
    assert again.keep(then) is None
    assert started(target)[0].warnings == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"data": 7}', b"[" * 100_000])
def test_damaged_json_is_moved_aside(target: Path, data: Path, content: bytes) -> None:
    """Fails when it ends the start, takes the texts with it, or is overwritten."""
    remembered, made = started(target)
    talked(made)
    remembered.keep(made)
    (path,) = files(data, ".json")
    path.write_bytes(content)
    again, then = started(target)
    assert path.with_suffix(".damaged").read_bytes() == content
    assert then.suffix.automaton.n_tokens == len(TEXT)
    assert again.keep(then) is None


def rewritten(data: Path, **arrays: np.ndarray) -> None:
    """The table with other arrays, under a right checksum."""
    (path,) = files(data, ".bin")
    key = path.stem.removeprefix("table-")
    kept = tables.load(key).arrays
    assert kept is not None
    assert tables.save(key, {**kept, **arrays}) is None


def test_an_id_that_the_model_lacks_is_damage(target: Path, data: Path) -> None:
    """In a text, or in a row. Fails when it is drafted: the runtime refuses it, and the answer ends."""
    remembered, made = started(target)
    talked(made)
    remembered.keep(made)
    tokens = made.suffix.automaton.arrays().tokens
    rewritten(data, tokens=np.where(tokens == 5, N_VOCAB, tokens).astype(np.int32))
    again, then = started(target)
    assert len(again.warnings) == 1
    assert str(N_VOCAB) in again.warnings[0]
    assert then.suffix.automaton.n_tokens == 0

    ids = made.recycled.arrays()["ids"].copy()
    ids[0, 0] = N_VOCAB
    remembered.keep(made)
    rewritten(data, **{"recycled-ids": ids})
    again, then = started(target)
    assert len(again.warnings) == 1
    assert files(data, ".damaged")
    assert then.recycled.arrays()["ids"].max() < N_VOCAB


def test_columns_that_no_table_could_have_are_damage(target: Path, data: Path) -> None:
    """Fails when a right checksum is proof enough: links that go round would hang the answer."""
    remembered, made = started(target)
    talked(made)
    remembered.keep(made)
    rewritten(data, link=np.ones(len(made.suffix.automaton.arrays().link), np.int32))
    again, then = started(target)
    assert len(again.warnings) == 1
    assert then.suffix.automaton.n_tokens == 0


@pytest.mark.parametrize(
    "control", [{"fits": 7}, {"control": []}, {"corpus": 3}, {"fits": {"lookup": {"greedy": "x"}}}]
)
def test_nonsense_in_json_counts_as_nothing_learnt(target: Path, data: Path, control: dict[str, object]) -> None:
    """Well-formed, and written by hand. Fails when it ends the start."""
    remembered, made = started(target)
    remembered.keep(made)
    (path,) = files(data, ".json")
    assert learnt.save(path.stem.removeprefix("learnt-"), control) is None
    again, then = started(target)
    then.without_model()
    assert again.keep(then) is None


def test_a_folder_that_cannot_be_written_is_told(target: Path, data: Path) -> None:
    """Fails when closing a session raises, or its loss is silent."""
    remembered, made = started(target)
    talked(made)
    data.parent.mkdir(exist_ok=True)
    data.write_bytes(b"a file where the folder should be")
    warning = remembered.keep(made)
    assert warning is not None
    assert "was not kept" in warning


def test_a_missing_model_file_is_an_error_to_handle(tmp_path: Path) -> None:
    """Fails when the error is another one than the caller is told to expect."""
    with pytest.raises(OSError, match=r"nowhere\.gguf"):
        Remembered(tmp_path / "nowhere.gguf", None, N_VOCAB)


def test_kept_files_are_json_and_arrays_only(target: Path, data: Path) -> None:
    """Fails when reading what was kept could run code, or a figure is no number that JSON has."""
    remembered, made = started(target)
    talked(made)
    remembered.keep(made)
    assert len(files(data, "")) == 2
    json.loads(files(data, ".json")[0].read_text(), parse_constant=lambda name: pytest.fail(name))
