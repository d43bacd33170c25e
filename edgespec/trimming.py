"""From a drafter and what is said to a trimmed file. Not covered: the steps (counting, gguf/keep, gguf/trim)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgespec import counting
from edgespec.errors import BadSetting
from edgespec.gguf.header import read_header
from edgespec.gguf.inspect import headers
from edgespec.gguf.keep import (
    Kept,
    always_kept,
    check_counts,
    check_share,
    expected_coverage,
    keep_coverage,
    keep_named,
    keep_number,
)
from edgespec.gguf.shape import read_shape
from edgespec.gguf.trim import Trimmed, check_out, check_trimmable, trim
from edgespec.gguf.vocabulary import Vocabulary, read_vocabulary
from edgespec.memory.rows import best_for
from edgespec.settings import Settings
from edgespec.speculation.acceptance import Acceptance
from edgespec.store.counts import Counted, read_counts, write_counts
from edgespec.store.registry import Entry, resolve
from edgespec.types import Ids

Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Asked:
    """What to trim and by what: one of n_rows, best, coverage, ids; at most one of counts, prompts, sessions, text.

    best        as many rows as `model` is answered fastest with, by predicted goodput
    prompts     turns of conversations that `model` answers; sessions: what was said with it before
    max_tokens  of an answer that is counted
    """

    drafter: str
    out: Path
    n_rows: int | None = None
    best: bool = False
    coverage: float | None = None
    ids: Path | None = None
    counts: Path | None = None
    prompts: Sequence[Sequence[str]] | None = None
    sessions: bool = False
    text: Path | None = None
    model: str | None = None
    max_tokens: int = counting.MAX_TOKENS
    save_counts: Path | None = None


def trim_drafter(asked: Asked, report: Report) -> tuple[Trimmed, Counted]:
    """Count, choose and write. Raises what reading, counting and writing raise, BadSetting, OSError."""
    ids = None if asked.ids is None else read_ids(asked.ids)
    entry = resolve(asked.drafter)
    parts = headers(entry.path)
    check_trimmable(entry.path, parts)
    check_out(asked.out, parts)
    if asked.save_counts is not None:
        _check_counts_file(asked.save_counts, asked.out)
    vocabulary = read_vocabulary(entry.path, read_header(entry.path))
    _check_rows(asked, ids, vocabulary)
    if asked.model is not None:
        _check_model(asked.model, vocabulary)
    counted = _counted(asked, entry, vocabulary, report)
    if asked.save_counts is not None:
        write_counts(asked.save_counts, replace(counted, vocabulary=vocabulary.mark))
    kept = _kept(asked, ids, entry, vocabulary, counted)
    made = trim(entry.path, asked.out, kept, counted.origin, lambda done: report(f"writing {asked.out.name}", done))
    return made, counted


def _check_counts_file(path: Path, out: Path) -> None:
    """Raises BadSetting where counts could not be written, or over anything else than counts."""
    if not path.absolute().parent.is_dir():
        raise BadSetting(f"there is no folder {path.absolute().parent} to write {path.name} into; make it first")
    if path.absolute() == out.absolute():
        raise BadSetting(f"--save-counts {path} is the trimmed drafter's file; name another one for the counts")
    if os.path.lexists(path):
        try:
            read_counts(path)
        except BadSetting:
            raise BadSetting(f"--save-counts {path} is there and holds no counts; name another file for them") from None


def _check_model(name: str, vocabulary: Vocabulary) -> None:
    """Raises BadSetting for a model that could not use what the drafter drafts, and what reading it raises."""
    path = resolve(name).path
    other = read_vocabulary(path, read_header(path))
    check_counts(vocabulary, np.zeros(len(other), np.int64), f"-m {name}")
    n_same = sum(a == b for a, b in zip(vocabulary.pieces, other.pieces, strict=True))
    if n_same < len(vocabulary):
        raise BadSetting(
            f"-m {name} has another vocabulary than the drafter ({n_same} of {len(vocabulary)} tokens are alike); "
            "name a model of the same family"
        )


def _check_rows(asked: Asked, ids: Ids | None, vocabulary: Vocabulary) -> None:
    """Raises BadSetting for rows that there cannot be, before minutes of answering."""
    nothing = np.zeros(len(vocabulary), np.int64)
    if asked.n_rows is not None:
        keep_number(vocabulary, nothing, asked.n_rows)
    elif asked.coverage is not None:
        check_share(asked.coverage)
    elif ids is not None:
        keep_named(vocabulary, nothing, ids)


def read_ids(path: Path) -> Ids:
    """Ids in a file, with white space or commas between them; raises BadSetting naming what is none."""
    try:
        words = path.read_text(encoding="utf-8-sig").replace(",", " ").strip("[] \n").split()
    except OSError as error:
        raise BadSetting(f"--ids {path} cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise BadSetting(f"--ids {path} is no text; list ids in it, one a line") from None
    wrong = next((word for word in words if not re.fullmatch(r"\d{1,9}", word, re.ASCII)), None)
    if wrong is not None or not words:
        what = f"holds {wrong!r:.40}, which is no id" if words else "lists no ids"
        raise BadSetting(f"--ids {path} {what}; list ids in it, one a line")
    return np.array(words, np.int32)


def _counted(asked: Asked, entry: Entry, vocabulary: Vocabulary, report: Report) -> Counted:
    """Raises BadSetting for counts of another vocabulary."""
    if asked.counts is not None:
        found, whose = read_counts(asked.counts), f"--counts {asked.counts}"
    elif asked.prompts is not None:
        whose = f"-m {asked.model}"
        found = counting.from_answers(Settings(model=asked.model), asked.prompts, report, asked.max_tokens)
    elif asked.sessions:
        found, whose = counting.from_sessions(asked.model or ""), f"-m {asked.model}"
    elif asked.text is not None:
        found, whose = counting.from_text(entry, asked.text), f"--text {asked.text}"
    else:
        return Counted(np.zeros(len(vocabulary), np.int64), "no counts")
    check_counts(vocabulary, found.counts, whose)
    if found.vocabulary not in ("", vocabulary.mark):
        raise BadSetting(
            f"{whose} counts tokens of another vocabulary of {len(vocabulary)}; count with a model of the same family"
        )
    return found


def _kept(asked: Asked, ids: Ids | None, entry: Entry, vocabulary: Vocabulary, counted: Counted) -> Kept:
    n_rows = _best(asked.model or "", entry, vocabulary, counted) if asked.best else asked.n_rows
    if n_rows is not None:
        return replace(keep_number(vocabulary, counted.counts, n_rows), follows=asked.best)
    if asked.coverage is not None:
        return keep_coverage(vocabulary, counted.counts, asked.coverage)
    assert ids is not None
    return keep_named(vocabulary, counted.counts, ids)


def _best(model: str, entry: Entry, vocabulary: Vocabulary, counted: Counted) -> int:
    """Rows with the best predicted goodput under the model, for a pair of which nothing is known."""
    if not counted.n_tokens:
        raise BadSetting("--keep auto needs counts, and 0 tokens were counted; give a text, prompts or a counts file")
    target, draft = read_shape(resolve(model).path), read_shape(entry.path)
    coverage = expected_coverage(vocabulary, counted.counts)
    return best_for(target, draft, len(always_kept(vocabulary)), coverage, Acceptance().agreement())
