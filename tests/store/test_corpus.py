"""What `--corpus` reads and what it passes over."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from edgespec.errors import BadSetting
from edgespec.store.corpus import Corpus, Counts


def put(root: Path, **contents: bytes) -> None:
    for name, content in contents.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    """Fails when the order is the disk's: then two starts draft differently."""
    put(tmp_path, c=b"3", a__z=b"2", a__b__q=b"1", b=b"", d__a=b"\xc3\xa4")
    corpus = Corpus(tmp_path)
    assert list(corpus) == [b"1", b"2", b"", b"3", b"\xc3\xa4"]
    assert corpus.counts == Counts(n_read=5, n_bytes=5)
    assert list(corpus) == [b"1", b"2", b"", b"3", b"\xc3\xa4"]
    assert corpus.counts == Counts(n_read=5, n_bytes=5)


def test_a_file_named_itself_is_read_whatever_its_name(tmp_path: Path) -> None:
    """Fails when only folders work, or a dot in front hides what the user typed."""
    put(tmp_path, **{".notes": b"text"})
    assert list(Corpus(tmp_path / ".notes")) == [b"text"]
    (tmp_path / "link").symlink_to(tmp_path / ".notes")
    assert list(Corpus(tmp_path / "link")) == [b"text"]


def test_a_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    """Fails when a typing error means an empty corpus."""
    with pytest.raises(BadSetting, match="nowhere is not there; name a text file"):
        Corpus(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(BadSetting, match="is not there"):
        Corpus(tmp_path / "loop")


@pytest.mark.parametrize(
    ("content", "is_text"),
    [
        (b"a\0b", False),
        (b"\x89PNG\r\n", False),
        (b"caf\xe9", False),
        ("ä".encode()[:1], False),
        (("x" + "ä" * 10_000).encode(), True),
        (b"x" * 8192 + b"\0\xff", True),
    ],
)
def test_binaries_are_told_by_their_first_8_kib(tmp_path: Path, content: bytes, is_text: bool) -> None:
    """Fails when a letter that the 8 KiB cut makes a text a binary, or pictures fill the table."""
    put(tmp_path, file=content)
    corpus = Corpus(tmp_path)
    assert list(corpus) == ([content] if is_text else [])
    assert corpus.counts.n_skipped_binary == (not is_text)


def test_a_huge_file_is_passed_over_unread(tmp_path: Path) -> None:
    """A sparse file of 2 GiB; fails when memory or time follows its size."""
    put(tmp_path, small=b"text", big=b"text")
    os.truncate(tmp_path / "big", 2 << 30)
    tracemalloc.start()
    corpus = Corpus(tmp_path)
    assert list(corpus) == [b"text"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert corpus.counts == Counts(n_read=1, n_skipped_large=1, n_bytes=4)
    assert peak < 1 << 20


def test_the_limit_of_a_file_is_inclusive(tmp_path: Path) -> None:
    """Fails when a file of just the limit is dropped or cut."""
    put(tmp_path, a=b"x" * 9000, b=b"y" * 9001)
    corpus = Corpus(tmp_path, most_file_bytes=9000)
    assert list(corpus) == [b"x" * 9000]
    assert corpus.counts.n_skipped_large == 1


def test_hidden_names_and_links_are_not_followed(tmp_path: Path) -> None:
    """Fails when .git fills the table, a secret in .env is kept, or a link leads out of the folder or round in it."""
    put(tmp_path, **{"in__.git__HEAD": b"ref", "in__.env": b"secret", "in__a": b"text", "out__b": b"other"})
    (tmp_path / "in" / "out").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "b").symlink_to(tmp_path / "out" / "b")
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    corpus = Corpus(tmp_path / "in")
    assert list(corpus) == [b"text"]
    assert corpus.counts == Counts(n_read=1, n_bytes=4)


def test_what_cannot_be_read_is_counted_and_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe, a file and a folder without permission; fails when one ends the start or a pipe makes it wait."""
    put(tmp_path, a=b"text", closed=b"no", folder__b=b"no", z=b"more")
    os.mkfifo(tmp_path / "pipe")
    # the rights themselves do not hold for root, who runs tests in containers
    honest_scan = os.scandir

    def scandir(path: Path):
        if Path(path).name == "folder":
            raise PermissionError(13, "Permission denied")
        return honest_scan(path)

    def opened(path: Path, mode: str):
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return path.open(mode)

    monkeypatch.setattr("edgespec.store.corpus.os.scandir", scandir)
    monkeypatch.setattr("edgespec.store.corpus.open", opened, raising=False)
    corpus = Corpus(tmp_path)
    assert list(corpus) == [b"text", b"more"]
    assert corpus.counts == Counts(n_read=2, n_unreadable=3, n_bytes=8)


def test_all_bytes_together_are_bounded(tmp_path: Path) -> None:
    """Fails when a disk full of text is read to the end, or the user is not told that it was not."""
    put(tmp_path, a=b"12", b=b"34", c=b"5")
    corpus = Corpus(tmp_path, most_bytes=3)
    assert list(corpus) == [b"12"]
    assert corpus.counts == Counts(n_read=1, n_bytes=2, cut=True)
    assert Corpus(tmp_path, most_bytes=5).counts == Counts()
    corpus = Corpus(tmp_path, most_bytes=5)
    assert list(corpus) == [b"12", b"34", b"5"]
    assert not corpus.counts.cut


def test_all_names_together_are_bounded(tmp_path: Path) -> None:
    """The folder itself and two files; fails when a home directory keeps the start waiting."""
    put(tmp_path, a=b"1", b=b"2", c=b"3", d=b"4")
    corpus = Corpus(tmp_path, most_names=3)
    assert list(corpus) == [b"1", b"2"]
    assert corpus.counts.cut
    corpus = Corpus(tmp_path, most_names=5)
    assert len(list(corpus)) == 4
    assert not corpus.counts.cut
