"""A trimmed drafter follows what is said, while nobody waits."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest

from edgespec.gguf.header import read_header
from edgespec.gguf.keep import Kept, always_kept
from edgespec.gguf.trim import trim
from edgespec.gguf.trimmed import kept_ids
from edgespec.memory.source import read_source
from edgespec.retrimming import Retrimming
from edgespec.store.registry import resolve
from tests.cut import DRAFT, vocabulary_of

OFTEN = np.arange(5000, 5400)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGESPEC_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a drafter that has nothing but what must stay."""
    return cut(tmp_path / "t.gguf", follows=True)


def cut(out: Path, follows: bool, source: Path = DRAFT) -> Path:
    return trim(source, out, Kept(always_kept(vocabulary_of(DRAFT)), None, follows), "a test").path


def made(path: Path) -> Retrimming:
    return Retrimming(read_source("demo", resolve("demo").path), read_source("t", path))


def ids_of(path: Path) -> set[int]:
    return set(kept_ids(path, read_header(path), 8192).tolist())


def usual(_: float) -> float:
    """Agreement of the whole drafter."""
    return 0.7


def said(n: int) -> list[int]:
    return np.random.default_rng(0).choice(OFTEN, n).tolist()


def test_what_is_said_and_not_kept_is_kept_from_then_on(path: Path) -> None:
    """Fails when a topic's words stay out of the head, or the file is written again and again."""
    one = made(path)
    one.heard(said(4000))
    line = one.tidy(usual)
    assert line is not None
    assert "was trimmed again" in line
    assert "instead of 0.0 %" in line
    assert set(OFTEN.tolist()) <= ids_of(path)
    before = path.stat().st_mtime_ns
    assert one.tidy(usual) is None
    assert made(path).tidy(usual) is None
    assert path.stat().st_mtime_ns == before


def test_counts_go_on_in_the_next_session(path: Path) -> None:
    """Fails when every session must say enough by itself."""
    first = made(path)
    first.heard(said(1500))
    assert first.tidy(usual) is None  # too few to judge by
    assert first.keep() is None
    again = made(path)
    again.heard(said(1500))
    assert again.tidy(usual) is not None


@pytest.mark.parametrize("n_asked", [0, 1, 3, 10, 40])
def test_who_waits_is_served_and_the_old_file_stands(path: Path, n_asked: int) -> None:
    """Whenever the question comes. Fails when it waits for a file, or half a file replaces the whole one."""
    one, asked = made(path), count()
    one.heard(said(4000))
    content = path.read_bytes()
    assert one.tidy(usual, cancelled=lambda: next(asked) >= n_asked) is None
    assert next(asked) == n_asked + 1  # asked no more once it was told
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["t.gguf"]
    assert one.tidy(usual) is not None


def test_a_head_that_fits_is_left_alone(path: Path) -> None:
    """Fails when a few misses, or none, cost a new file."""
    one = made(path)
    kept = sorted(ids_of(path))
    one.heard(np.random.default_rng(0).choice(kept, 4000).tolist())
    assert one.tidy(usual) is None


def test_a_place_that_cannot_be_written_is_told_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when idle time is spent on a full disk again and again, or an answer fails for it."""
    one = made(path)
    one.heard(said(4000))

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("edgespec.retrimming.trim", full)
    assert one.tidy(usual) == "the drafter was not trimmed again: no space left on device"
    assert one.tidy(usual) is None


def test_counts_of_another_vocabulary_are_moved_aside(path: Path, tmp_path: Path) -> None:
    """Fails when ids beyond the vocabulary end in an index error at every start."""
    from edgespec.store import tables

    one = made(path)
    wrong = {"ids": np.array([9000], np.int32), "counts": np.ones(1, np.float32), "recent": np.zeros(0, np.int32)}
    tables.save(one._key, wrong)
    again = made(path)
    assert "it counts another vocabulary" in str(again.warning)
    assert not again.usage.counts.any()
    assert made(path).warning is None


def test_rows_that_the_user_chose_are_left_and_told_once(tmp_path: Path) -> None:
    """Fails when --ids or --keep is undone behind the user's back, or said after every answer."""
    path = cut(tmp_path / "mine.gguf", follows=False)
    content = path.read_bytes()
    one = made(path)
    one.heard(said(4000))
    line = one.tidy(usual)
    assert line is not None
    assert line.startswith("mine.gguf holds 0.0 % of what was said here of late")
    assert one.tidy(usual) is None
    assert path.read_bytes() == content


def test_a_head_that_follows_still_follows_after_it_was_cut_again(path: Path) -> None:
    """Fails when the second change of topic finds a head that counts as the user's choice."""
    first = made(path)
    first.heard(said(4000))
    assert first.tidy(usual) is not None
    assert first.keep() is None
    second = made(path)
    second.heard(np.random.default_rng(1).choice(np.arange(6000, 6400), 8000).tolist())
    line = second.tidy(usual)
    assert line is not None
    assert "was trimmed again" in line


def test_text_that_stays_the_same_settles(path: Path) -> None:
    """Session after session. Fails when rows are judged by the tokens that chose them, and every one rewrites the
    file."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, 8001)
    lines = []
    for _ in range(30):
        one = made(path)
        one.heard(rng.choice(8000, 3000, p=share / share.sum()).tolist())
        lines += [line for line in [one.tidy(usual)] if line]
        assert one.keep() is None
    assert 1 <= len(lines) <= 3
    assert all("was trimmed again" in line for line in lines)


def test_rows_that_would_not_be_better_are_not_looked_for_after_every_answer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when every pause of a long talk costs a second of arithmetic that came to nothing before."""
    one = made(path)
    one.heard(np.random.default_rng(0).choice(8192, 4000).tolist())
    n_judged = count()
    monkeypatch.setattr(one, "_choice", lambda original, *_: (next(n_judged), (Kept(original.ids, None), 0.0))[1])
    for _ in range(20):
        assert one.tidy(usual) is None
        one.heard([7] * 200)
    assert next(n_judged) == 2


def test_a_head_that_another_process_trimmed_is_judged_as_it_is_now(path: Path) -> None:
    """Fails when one chat's idle time undoes what another's, or the user, has just chosen."""
    one, other = made(path), made(path)
    one.heard(said(4000))
    other.heard(said(4000))
    assert other.tidy(usual) is not None
    content = path.read_bytes()
    assert one.tidy(usual) is None
    assert path.read_bytes() == content


def test_an_original_that_was_replaced_is_not_cut(tmp_path: Path) -> None:
    """Fails when rows of another model are filed under this drafter's name."""
    source = tmp_path / "original.gguf"
    source.write_bytes(DRAFT.read_bytes())
    path = cut(tmp_path / "t.gguf", True, source)
    one = made(path)
    one.heard(said(4000))
    content = path.read_bytes()
    source.write_bytes(content)
    line = one.tidy(usual)
    assert line is not None
    assert "the drafter was not trimmed again" in line
    assert path.read_bytes() == content
