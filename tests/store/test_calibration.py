"""Figures about this machine on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgespec.store import calibration, files

DATA = {"rows": [1, 2], "pass_ms": [1.5, 2.5]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESPEC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def only_file(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def test_what_was_saved_is_loaded(folder: Path) -> None:
    """Fails when a figure is measured anew at every start."""
    assert calibration.load("abc") is None
    calibration.save("abc", DATA)
    calibration.save("abc", {**DATA, "depth": 3})
    assert calibration.load("abc") == {**DATA, "depth": 3}
    assert calibration.load("abd") is None
    only_file(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000, b'{"version": 0, "key": "abc", "data": {}}']
)
def test_a_damaged_file_counts_as_absent(folder: Path, content: bytes) -> None:
    """A crash or a full disk in the past must cost seconds, not a start."""
    calibration.save("abc", DATA)
    only_file(folder).write_bytes(content)
    assert calibration.load("abc") is None


def test_a_file_cut_anywhere_counts_as_absent(folder: Path) -> None:
    """Fails when a part of a figure is taken for a whole one."""
    calibration.save("abc", DATA)
    whole = only_file(folder).read_bytes()
    for end in range(len(whole)):
        only_file(folder).write_bytes(whole[:end])
        assert calibration.load("abc") is None


def test_a_file_under_another_name_counts_as_absent(folder: Path) -> None:
    """A copied file must not pass for the figures of another model."""
    calibration.save("abc", DATA)
    only_file(folder).rename(folder / "calibration-abd.json")
    assert calibration.load("abd") is None


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(folder: Path) -> None:
    """Fails when a read-only or full disk keeps the model from starting; no half-written file may stay."""
    folder.write_text("a file stands where the folder should be")
    calibration.save("abc", DATA)
    assert calibration.load("abc") is None


def test_a_failed_replacement_leaves_the_old_figures_and_no_rubbish(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a save writes into the file itself, or leaves its temporary file behind."""
    calibration.save("abc", DATA)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    calibration.save("abc", {"rows": []})
    assert calibration.load("abc") == DATA
    only_file(folder)


def test_what_json_cannot_hold_is_refused(folder: Path) -> None:
    """Not a number would be read back as something other parsers refuse."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        calibration.save("abc", {"ms": float("nan")})
    assert not folder.exists()


def test_a_model_keeps_its_key_when_copied_and_loses_it_when_changed(tmp_path: Path) -> None:
    """Fails when moving or touching a model measures it again, or another quantisation passes for it."""

    def key_of(content: bytes, name: str) -> str:
        (tmp_path / name).write_bytes(content)
        return calibration.key(tmp_path / name, runtime="r", machine="", kv_type="f16", n_threads=2)

    head = b"GGUF" + bytes(100)
    assert key_of(head, "a.gguf") == key_of(head, "b.gguf")
    long = head + bytes(1 << 20)
    assert len({key_of(c, "a.gguf") for c in (head, b"GGUG" + bytes(100), long, long + b"\0")}) == 4


@pytest.mark.parametrize(
    "other", [{"runtime": "s"}, {"machine": "gpu"}, {"kv_type": "q8_0"}, {"n_threads": 3}, {"options": "exact"}]
)
def test_everything_that_changes_times_changes_the_key(tmp_path: Path, other: dict) -> None:
    """Fails when figures of another build, machine, cache type or number of threads are believed."""
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    same = {"runtime": "r", "machine": "", "kv_type": "f16", "n_threads": 2}
    key = calibration.key(tmp_path / "a.gguf", **same)
    assert key == calibration.key(tmp_path / "a.gguf", **same, options="")
    assert key != calibration.key(tmp_path / "a.gguf", **{**same, **other})
