"""The texts of --corpus: read into what drafts are copied from, once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgespec import remembering
from edgespec.drafting import N_TOKENS, Drafting
from edgespec.errors import BadSetting
from edgespec.speculation.drafters.automaton import Automaton
from edgespec.store.corpus import Corpus
from tests.remembered import files, started, tokenize


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESPEC_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target.gguf").write_bytes(b"weights" * 100)
    return tmp_path / "target.gguf"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.md").write_bytes(b"one two three")
    (tmp_path / "texts" / "b.py").write_bytes(b"four five")
    return tmp_path / "texts"


def test_a_corpus_is_text_to_copy_from(target: Path, corpus: Path) -> None:
    """Fails when files are not read, or run into each other or into the conversation."""
    remembered, _ = started(target)
    automaton = Automaton(N_TOKENS)
    line = remembered.read(Corpus(corpus), automaton, tokenize)
    assert line == f"{corpus}: 2 texts, 22 tokens to copy from"
    match = automaton.here()
    for token in b"two":
        match = automaton.advance(match, token)
    assert automaton.children(match, 4)[0] == [ord(" ")]
    for token in b"three":
        match = automaton.advance(match, token)
    assert ord("f") not in automaton.children(match, 4)[0]


def test_what_is_no_text_is_passed_over_with_a_count(target: Path, corpus: Path) -> None:
    """A picture and a sparse file of 2 GiB. Fails when they are read, or left out in silence."""
    (corpus / "c.png").write_bytes(b"\x89PNG\r\n\0\0")
    (corpus / "d.bin").write_bytes(b"text")
    os.truncate(corpus / "d.bin", 2 << 30)
    remembered, _ = started(target)
    line = remembered.read(Corpus(corpus), Automaton(N_TOKENS), tokenize)
    assert line == f"{corpus}: 2 texts, 22 tokens to copy from; passed over: 1 binary, 1 over 4 MiB"


def test_a_corpus_takes_no_more_than_its_share(target: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when files fill the table, and leave no room for the conversation, or the user is not told."""
    monkeypatch.setattr(remembering, "CORPUS_TOKENS", 17)
    remembered, _ = started(target)
    automaton = Automaton(N_TOKENS)
    line = remembered.read(Corpus(corpus), automaton, tokenize)
    assert automaton.n_tokens == 17
    assert "17 tokens" in line
    assert "more than 17 tokens are not taken" in line


def test_a_corpus_that_is_not_there_is_told(target: Path, corpus: Path) -> None:
    """Fails when a typing error means no corpus."""
    remembered, _ = started(target)
    with pytest.raises(BadSetting, match="name a text file"):
        remembered.read(Corpus(corpus / "nowhere"), Automaton(N_TOKENS), tokenize)


def asked(target: Path, corpus: Path) -> tuple[str, int, Drafting]:
    """A session that reads the corpus and ends: the line, how many texts it turned into ids, and what it had."""
    remembered, made = started(target)
    n = 0

    def counted(text: bytes) -> list[int]:
        nonlocal n
        n += 1
        return tokenize(text)

    line = remembered.read(Corpus(corpus), made.suffix.automaton, counted)
    remembered.keep(made)
    return line, n, made


def test_a_corpus_is_read_once(target: Path, corpus: Path) -> None:
    """Fails when every start reads the same files, which would count everything in them twice."""
    assert asked(target, corpus)[1] == 2
    line, n, made = asked(target, corpus)
    assert (line, n) == (f"{corpus}: as it was read before", 0)
    assert made.suffix.automaton.n_tokens == 22


@pytest.mark.parametrize("change", ["content", "new", "gone", "another"])
def test_a_corpus_that_changed_is_read_again(target: Path, corpus: Path, tmp_path: Path, change: str) -> None:
    """Fails when yesterday's files are drafted from."""
    asked(target, corpus)
    if change == "content":
        (corpus / "a.md").write_bytes(b"seven eight nine")
    elif change == "new":
        (corpus / "c.md").write_bytes(b"seven eight nine")
    elif change == "gone":
        (corpus / "a.md").unlink()
    else:
        (tmp_path / "more").mkdir()
        (tmp_path / "more" / "a.md").write_bytes(b"seven eight nine")
        corpus = tmp_path / "more"
    assert asked(target, corpus)[1] > 0


def test_a_corpus_whose_text_was_lost_is_read_again(target: Path, corpus: Path, data: Path) -> None:
    """The table was damaged, and what it held is gone. Fails when the mark alone says that the files are in it."""
    asked(target, corpus)
    files(data, ".bin")[0].write_bytes(b"")
    assert asked(target, corpus)[1] == 2


def test_a_long_memory_leaves_room_for_this_session(
    target: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older text gives way, and a corpus that may have gone with it is read again. Fails when the table is full from
    the start, or a corpus is told of that is no longer there."""
    monkeypatch.setattr(remembering, "N_TOKENS", 100)
    _, _, made = asked(target, corpus)
    made.suffix.automaton.extend(np.random.default_rng(0).integers(100, 200, 60))
    remembered, _ = started(target)
    remembered.keep(made)
    line, n, then = asked(target, corpus)
    assert n == 2
    assert "22 tokens" in line
    assert then.suffix.automaton.n_tokens <= 100 // 2
    assert not then.suffix.automaton.full
