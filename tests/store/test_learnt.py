"""What answering taught: kept under a pair of models, moved aside when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgespec.store import files, learnt

DATA = {"greedy tree": [[1.0, 0.0], [2.0, 1.0]]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESPEC_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def test_what_was_saved_comes_back(folder: Path) -> None:
    """Fails when anything is lost on the way, or one pair gets another's figures."""
    assert learnt.load("abc") is None
    assert learnt.save("abc", DATA) is None
    assert learnt.save("abd", {}) is None
    assert learnt.load("abc") == DATA


def test_a_damaged_file_is_moved_aside_and_learning_goes_on(folder: Path) -> None:
    """What it holds may be rescued by hand; fails when it is overwritten, or keeps the model from starting."""
    learnt.save("abc", DATA)
    path = folder / "learnt-abc.json"
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert learnt.load("abc") is None
        assert path.with_suffix(".damaged").read_bytes() == whole[:end]
        assert not path.exists()
    learnt.save("abc", DATA)
    assert learnt.load("abc") == DATA


@pytest.mark.parametrize(
    "content", ["[]", '{"data": 3, "key": "abc", "version": 1}', '{"data": {}, "key": "x"}', "[" * 10**5]
)
def test_json_of_another_kind_is_damage(folder: Path, content: str) -> None:
    """Fails when a copied or edited file is believed, or kills the start."""
    folder.mkdir()
    (folder / "learnt-abc.json").write_text(content)
    assert learnt.load("abc") is None
    assert [file.name for file in folder.iterdir()] == ["learnt-abc.damaged"]


def test_another_version_is_no_damage(folder: Path) -> None:
    """Someone tries an older release: what the newer one learnt must not be lost by looking."""
    folder.mkdir()
    (folder / "learnt-abc.json").write_text('{"version": 0, "key": "abc", "data": {}}')
    assert learnt.load("abc") is None
    assert (folder / "learnt-abc.json").exists()


def test_a_full_disk_is_told_and_leaves_the_old_figures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when an answer dies of it, or nobody is told, or half a file stays."""
    learnt.save("abc", DATA)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    assert "No space left on device" in (learnt.save("abc", {}) or "")
    assert learnt.load("abc") == DATA
    assert len(list(folder.iterdir())) == 1


def test_the_key_follows_the_models_and_not_their_places(tmp_path: Path) -> None:
    """Fails when moving a file forgets what was learnt, or two drafters share figures."""
    for name, content in (("a", b"GGUF1"), ("b", b"GGUF2"), ("c", b"GGUF1")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (tmp_path / name for name in "abc")
    assert learnt.key(a, b, "model") == learnt.key(c, b, "model")
    assert (
        len(
            {
                learnt.key(a, b, "model"),
                learnt.key(a, c, "model"),
                learnt.key(a, None, "model"),
                learnt.key(a, b, "mix"),
            }
        )
        == 4
    )
