"""`edgespec trim`: a drafter with fewer rows that drafts the same answer, and what cannot be trimmed."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgespec.gguf.header import read_header
from edgespec.gguf.keep import always_kept
from edgespec.gguf.trimmed import kept_ids
from edgespec.store.counts import Counted, read_counts, write_counts
from tests.cli.conftest import Command, sentence
from tests.cut import DEMO, DRAFT, cut, vocabulary_of
from tests.gguf.files import META, WEIGHTS, gguf

PROMPTS = (
    '{"category": "a", "prompt": "How do I bake bread?"}\n{"category": "b", "turns": ["Count to five.", "Go on."]}\n'
)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The cat sat on the mat. The dog sat on the cat, and the mat was flat.\n" * 30)
    return path


def ids_of(path: Path) -> set[int]:
    return set(kept_ids(path, read_header(path), 8192).tolist())


def test_a_drafter_is_trimmed_by_a_text(command: Command, tmp_path: Path, text: Path) -> None:
    """Fails when the text's tokens are not those kept, or the lines say something else than the files."""
    out = tmp_path / "t.gguf"
    done = command("trim", "demo-draft", "-o", str(out), "--coverage", "0.99", "--text", str(text))
    assert (done.code, done.err) == (0, "")
    k = len(ids_of(out))
    must = set(always_kept(vocabulary_of(DRAFT)).tolist())
    assert len(must) < k < len(must) + 40  # every word came up 30 times
    assert ids_of(out) >= must
    lines = done.out.splitlines()
    assert lines[0].startswith(f"kept {k} of 8,192 rows (")
    assert lines[0].endswith(" tokens in 1 texts of text.txt)")
    assert lines[1].endswith("where the whole drafter has 4.68 MiB")


def test_answers_are_counted_and_kept_for_others(command: Command, tmp_path: Path) -> None:
    """Fails when prompts are counted too, or --save-counts keeps what --counts would not take."""
    prompts, counts = tmp_path / "p.jsonl", tmp_path / "c.json"
    prompts.write_text(PROMPTS)
    flags = ("--calibrate", str(prompts), "-m", "demo", "--max-tokens", "10", "--save-counts", str(counts), "--json")
    done = command("trim", "demo-draft", "-o", str(tmp_path / "a.gguf"), "--keep", "1k", *flags)
    found: dict[str, Any] = json.loads(done.out)
    assert (found["k"], found["n_vocab"], found["counts"]) == (1024, 8192, "3 answers of demo")
    assert 3 <= read_counts(counts).n_tokens <= 30
    again = command("trim", "demo-draft", "-o", str(tmp_path / "b.gguf"), "--keep", "1024", "--counts", str(counts))
    assert again.code == 0, again.err
    assert ids_of(tmp_path / "a.gguf") == ids_of(tmp_path / "b.gguf")
    assert set(np.flatnonzero(read_counts(counts).counts).tolist()) <= ids_of(tmp_path / "a.gguf")


def test_auto_keeps_what_pays_under_the_model(command: Command, tmp_path: Path, text: Path) -> None:
    """Fails when rows that never come up stay, or those that do go: of a short text's words all come up often."""
    out = tmp_path / "t.gguf"
    done = command("trim", "demo-draft", "-o", str(out), "--keep", "auto", "--text", str(text), "-m", "demo", "--json")
    found = json.loads(done.out)
    assert found["coverage"] > 0.95
    assert found["k"] < 600
    said = sentence(command("trim", "demo-draft", "-o", str(out), "--keep", "auto", "--text", str(text), "-m", "x"), 4)
    assert "no model has the name 'x'" in said


def test_a_file_names_what_is_kept(command: Command, tmp_path: Path) -> None:
    """Fails when commas, brackets or lines stand in the way."""
    for content in ("700 701\n702", "[700, 701, 702]"):
        (tmp_path / "ids").write_text(content)
        done = command("trim", str(DRAFT), "-o", str(tmp_path / "t.gguf"), "--ids", str(tmp_path / "ids"))
        assert done.code == 0, done.err
        assert ids_of(tmp_path / "t.gguf") >= {700, 701, 702}
        assert "(no counts)" in done.out


def test_a_trimmed_drafter_drafts_the_same_answer(demo: Command, tmp_path: Path) -> None:
    """Fails when a head that lacks tokens changes what is said, or its drafts are never accepted."""
    path = cut(DRAFT, tmp_path / "t.gguf", 4096).path
    flags = ("run", "-p", "How do I bake bread?", "-m", "demo", "--seed", "3", "--max-tokens", "40", "--json")
    found = []
    for draft in ("demo-draft", str(path)):
        done = demo(*flags, "-d", draft, "--method", "model", "--no-remember", "--exact")
        assert done.code == 0, done.err
        found.append(json.loads(done.out))
    assert found[0]["tokens"] == found[1]["tokens"]
    assert found[1]["speculation"]["tokens_per_round"] > 1.2


def refused(command: Command, tmp_path: Path, *flags: str, drafter: str = "demo-draft", code: int = 2) -> str:
    out = tmp_path / "out.gguf"
    said = sentence(command("trim", drafter, "-o", str(out), *flags), code)
    assert not out.exists()
    return said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "0 of --keep, --coverage and --ids are given; give one of them"),
        (("--keep", "1k", "--coverage", "0.9"), "2 of --keep, --coverage and --ids are given"),
        (("--keep", "1k"), "0 of --calibrate, --sessions, --text and --counts are given; give one"),
        (("--keep", "lots", "--text", "."), "--keep 'lots' is no number of rows"),
        (("--keep", "auto", "--text", "TEXT"), "--keep auto weighs the drafter against the model"),
        (("--keep", "9k", "--text", "TEXT"), "--keep 9216 is more than the 8192 tokens of the vocabulary"),
        (("--keep", "9", "--text", "TEXT"), "--keep 9 is less than the "),
        (("--coverage", "2", "--text", "TEXT"), "--coverage is 2 but must be above 0 and at most 1"),
        (("--keep", "1k", "--text", "nowhere"), "--text nowhere is not there"),
        (("--keep", "1k", "--text", "EMPTY"), "holds no UTF-8 text"),
        (("--keep", "1k", "--counts", "OTHER"), "counts tokens of a vocabulary of 3072, but the drafter's has 8192"),
        (
            ("--keep", "1k", "--calibrate", "PROMPTS"),
            "--calibrate needs the model that drafts are for; name it with -m",
        ),
        (
            ("--keep", "1k", "--calibrate", "PROMPTS", "-m", "demo-xdraft"),
            "-m demo-xdraft counts tokens of a vocabulary",
        ),
        (("--keep", "1k", "--sessions", "-m", "demo"), "nothing that was said with demo is kept here"),
        (("--keep", "1k", "--sessions", "--text", "TEXT"), "--text and --sessions both say what to count"),
        (("--ids", "nowhere"), "--ids nowhere cannot be read"),
        (("--ids", "TEXT"), "holds 'The', which is no id"),
        (("--ids", "FAR"), "--ids names token 8192, but the vocabulary has 8192"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_flags_that_cannot_be_met(
    command: Command, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], says: str
) -> None:
    """Fails when a file is written all the same, or minutes of answering come before the refusal."""
    monkeypatch.setenv("EDGESPEC_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "p.jsonl").write_text(PROMPTS)
    (tmp_path / "far").write_text("8192")
    write_counts(tmp_path / "other.json", Counted(np.ones(3072, np.int64), "another"))
    places = {"TEXT": text, "EMPTY": "empty", "OTHER": "other.json", "PROMPTS": "p.jsonl", "FAR": "far"}
    assert says in refused(command, tmp_path, *[str(places.get(flag, flag)) for flag in flags])


def test_files_that_cannot_be_trimmed(command: Command, tmp_path: Path, text: Path) -> None:
    """Fails when what comes out could not draft, or the original would be overwritten by what needs it."""
    by_text = ("--keep", "1k", "--text", str(text))
    (tmp_path / "headless.gguf").write_bytes(gguf(META, WEIGHTS[1:]))
    said = refused(command, tmp_path, *by_text, drafter=str(tmp_path / "headless.gguf"), code=1)
    assert "has no head to trim" in said
    trimmed = cut(DRAFT, tmp_path / "t.gguf").path
    assert "is trimmed already" in refused(command, tmp_path, *by_text, drafter=str(trimmed), code=1)
    assert "no model has the name 'nobody'" in refused(command, tmp_path, *by_text, drafter="nobody", code=4)
    own = tmp_path / "own.gguf"
    shutil.copyfile(DRAFT, own)
    assert "is the drafter itself" in sentence(command("trim", str(own), "-o", str(own), *by_text), 2)
    assert own.read_bytes() == DRAFT.read_bytes()


def test_a_trimmed_drafter_without_its_original(demo: Command, tmp_path: Path) -> None:
    """Fails when it drafts noise, or who named it hears nothing of it; and a trimmed file answers nobody."""
    shutil.copyfile(DRAFT, tmp_path / "draft.gguf")
    path = str(cut(tmp_path / "draft.gguf", tmp_path / "t.gguf").path)
    assert "is a trimmed drafter: it can say 1024 of 8192 tokens" in sentence(demo("run", "-p", "hi", "-m", path), 1)
    (tmp_path / "draft.gguf").unlink()
    said = sentence(demo("run", "-p", "hi", "-m", "demo", "-d", path), 5)
    assert "goes on reading its original, draft.gguf, and there is no" in said
    shutil.copyfile(DEMO / "demo.gguf", tmp_path / "draft.gguf")
    assert "bytes; now it has" in sentence(demo("run", "-p", "hi", "-m", "demo", "-d", path), 5)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("out.gguf", "is the trimmed drafter's file; name another one"),
        ("own.gguf", "is there and holds no counts; name another file"),
        ("text.txt", "is there and holds no counts; name another file"),
        (".", "is there and holds no counts; name another file"),
        ("nowhere/c.json", "to write c.json into; make it first"),
    ],
)
def test_counts_are_written_over_nothing_but_counts(
    command: Command, tmp_path: Path, text: Path, place: str, says: str
) -> None:
    """Fails when --save-counts replaces a model or what was counted, or fails after minutes of answering."""
    own = tmp_path / "own.gguf"
    shutil.copyfile(DRAFT, own)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    flags = ("--keep", "1k", "--text", str(text), "--save-counts", str(tmp_path / place))
    assert says in refused(command, tmp_path, *flags, drafter=str(own))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


def test_counts_are_written_over_older_ones(command: Command, tmp_path: Path, text: Path) -> None:
    """Fails when a second run needs another name."""
    flags = ("--keep", "1k", "--text", str(text), "--save-counts", str(tmp_path / "c.json"))
    for _ in range(2):
        assert command("trim", "demo-draft", "-o", str(tmp_path / "t.gguf"), *flags).code == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--keep", "9k"), "--keep 9216 is more than the 8192 tokens"),
        (("--keep", "9"), "--keep 9 is less than the "),
        (("--coverage", "2"), "--coverage is 2 but must be above 0"),
        (("--ids", "FAR"), "--ids names token 8192"),
    ],
    ids=["more", "less", "share", "id"],
)
def test_rows_that_cannot_be_are_refused_before_anybody_answers(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], says: str
) -> None:
    """Fails when minutes of answering come before the refusal."""

    def answers(*_: object) -> None:
        raise AssertionError("asked for answers")

    monkeypatch.setattr("edgespec.counting.from_answers", answers)
    (tmp_path / "p.jsonl").write_text(PROMPTS)
    (tmp_path / "far").write_text("8192")
    counting = () if "--ids" in flags else ("--calibrate", str(tmp_path / "p.jsonl"), "-m", "demo")
    given = [str(tmp_path / "far") if flag == "FAR" else flag for flag in flags]
    assert says in refused(command, tmp_path, *given, *counting)


def test_a_model_of_as_many_other_tokens_is_refused(command: Command, tmp_path: Path, text: Path) -> None:
    """Fails when rows are chosen by what another tokenizer's ids stand for."""
    other = tmp_path / "other.gguf"
    content = DRAFT.read_bytes()
    word = vocabulary_of(DRAFT).pieces[4000]
    stored = struct.pack("<Q", len(word)) + word
    assert content.count(stored) == 1
    other.write_bytes(content.replace(stored, struct.pack("<Q", len(word)) + word[::-1]))
    said = refused(command, tmp_path, "--keep", "1k", "--text", str(text), "-m", str(other))
    assert "has another vocabulary than the drafter (8191 of 8192 tokens are alike)" in said


def test_counts_of_as_many_other_tokens_are_refused(command: Command, tmp_path: Path, text: Path) -> None:
    """Fails when rows are chosen by what another tokenizer's ids stand for; a file that does not say is believed."""
    saved = tmp_path / "c.json"
    flags = ("trim", "demo-draft", "-o", str(tmp_path / "t.gguf"), "--keep", "1k")
    assert command(*flags, "--text", str(text), "--save-counts", str(saved)).code == 0
    assert command(*flags, "--counts", str(saved)).code == 0
    found = read_counts(saved)
    write_counts(saved, Counted(found.counts, "another", "0123456789abcdef"))
    assert "counts tokens of another vocabulary of 8192" in sentence(command(*flags, "--counts", str(saved)), 2)
    write_counts(saved, Counted(found.counts, "another"))
    assert command(*flags, "--counts", str(saved)).code == 0
