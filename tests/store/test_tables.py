"""Arrays kept in the data folder: whole or not at all, and never fatal."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from edgespec.store import files, tables

ARRAYS = {
    "first": np.arange(5, dtype=np.int32),
    "none": np.zeros(0, np.int32),
    "square": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bytes": np.array([7, 8, 9], np.uint8),
    "last": np.array([], np.int64),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESPEC_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def is_saved(key: str = "abc") -> bool:
    """Whether everything comes back as it was."""
    found = tables.load(key)
    if found.arrays is None:
        return False
    assert found.warning is None
    assert list(found.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)
    return True


def test_what_was_saved_comes_back(folder: Path) -> None:
    """Fails when a type, a shape, an empty array or an order is lost, or one key gets another's arrays."""
    assert tables.load("abc") == tables.Found(None)
    assert tables.save("abc", ARRAYS) is None
    assert tables.save("abd", {}) is None
    assert is_saved()
    assert tables.load("abd") == tables.Found({})


def test_arrays_that_are_no_plain_memory_are_kept_too(folder: Path) -> None:
    """Fails when a column of a matrix or the other byte order is written as it lies."""
    given = np.arange(6, dtype=">i4").reshape(2, 3)[:, 1]
    tables.save("abc", {"column": given})
    found = tables.load("abc").arrays
    assert found is not None
    assert found["column"].tolist() == [1, 4]
    assert found["column"].dtype == np.int32


def test_arrays_of_objects_are_refused(folder: Path) -> None:
    """Reading them back would run code."""
    with pytest.raises(ValueError, match="tables keep"):
        tables.save("abc", {"objects": np.array([{}], object)})
    assert not folder.exists()


def test_a_file_cut_or_changed_anywhere_is_moved_aside_and_told(folder: Path) -> None:
    """Every length and every byte; fails when damage is believed, fatal, or overwritten without a word."""
    tables.save("abc", ARRAYS)
    path = folder / "table-abc.bin"
    whole = path.read_bytes()
    damaged = [whole[:end] for end in range(len(whole))] + [whole + b"\0"]
    for i in range(len(whole)):
        damaged.append(whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :])
    n_other_version = 0
    for content in damaged:
        path.write_bytes(content)
        found = tables.load("abc")
        assert found.arrays is None
        if found.warning is None:  # the digit of the version itself
            n_other_version += 1
            continue
        assert "it is damaged; it is now" in found.warning
        assert not path.exists()
        assert path.with_suffix(".damaged").read_bytes() == content
    assert n_other_version == 1
    assert tables.save("abc", ARRAYS) is None
    assert is_saved()


def written(path: Path, header: object, content: bytes = b"") -> None:
    """A file whose checksum is right."""
    rest = json.dumps(header).encode() + b"\n" + content
    path.write_bytes(b"edgespec-table 1 " + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {},
        {"key": "abc", "arrays": 3},
        {"key": "abd", "arrays": {}},
        {"key": "abc", "arrays": {"a": ["<i4", [4]]}},
        {"key": "abc", "arrays": {"a": ["<i4", [2**70]]}},
        {"key": "abc", "arrays": {"a": ["<i4", [0, 2**70]]}},
        {"key": "abc", "arrays": {"a": ["<i4", [-1]]}},
        {"key": "abc", "arrays": {"a": ["<i4", None]}},
        {"key": "abc", "arrays": {"a": ["O", [0]]}},
        {"key": "abc", "arrays": {"a": 1}},
    ],
)
def test_a_header_of_another_make_is_damage(folder: Path, header: object) -> None:
    """Fails when a copied or hand-made file kills the start."""
    folder.mkdir()
    written(folder / "table-abc.bin", header)
    found = tables.load("abc")
    assert found.arrays is None
    assert found.warning is not None
    assert [file.name for file in folder.iterdir()] == ["table-abc.damaged"]


def test_bytes_that_belong_to_no_array_are_damage(folder: Path) -> None:
    """Fails when a file that another make filled is half understood."""
    folder.mkdir()
    header = {"key": "abc", "arrays": {"a": ["<i4", [1]]}}
    written(folder / "table-abc.bin", header, bytes(4))
    assert tables.load("abc").arrays == {"a": 0}
    written(folder / "table-abc.bin", header, bytes(5))
    assert tables.load("abc").arrays is None


def test_another_version_is_no_damage(folder: Path) -> None:
    """Someone tries an older release: what the newer one kept must not be lost by looking."""
    tables.save("abc", ARRAYS)
    path = folder / "table-abc.bin"
    path.write_bytes(path.read_bytes().replace(b"table 1 ", b"table 2 "))
    assert tables.load("abc") == tables.Found(None)
    assert path.exists()


def test_a_file_too_large_is_moved_aside_unread(folder: Path) -> None:
    """A sparse file of 8 GiB; fails when it is read into memory."""
    folder.mkdir()
    path = folder / "table-abc.bin"
    path.touch()
    os.truncate(path, 8 << 30)
    found = tables.load("abc")
    assert f"{8 << 30} bytes and {tables.MOST_BYTES} is the most" in (found.warning or "")
    assert not path.exists()


def test_what_is_no_file_is_moved_aside(folder: Path) -> None:
    """Fails when opening a pipe waits for ever."""
    folder.mkdir()
    os.mkfifo(folder / "table-abc.bin")
    assert "it is no file" in (tables.load("abc").warning or "")
    assert tables.save("abc", ARRAYS) is None
    assert is_saved()


def test_a_full_disk_is_told_and_leaves_the_old_arrays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when an answer dies of it, or nobody is told, or half a file stays."""
    tables.save("abc", ARRAYS)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    assert "No space left on device" in (tables.save("abc", {}) or "")
    assert is_saved()
    assert len(list(folder.iterdir())) == 1


def test_damage_that_cannot_be_moved_is_told_as_such(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the user is sent to a file that is not there."""
    folder.mkdir()
    (folder / "table-abc.bin").write_bytes(b"x")

    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tables.os, "replace", read_only)
    assert "remove it (Read-only file system)" in (tables.load("abc").warning or "")


def test_an_owner_that_cannot_use_the_arrays_has_them_moved_aside(folder: Path) -> None:
    """Fails when a table that passes the checksum and not its owner's check comes back at every start."""
    tables.save("abc", ARRAYS)
    assert "its link cannot be; it is now" in tables.discard("abc", "its link cannot be")
    assert tables.load("abc") == tables.Found(None)
