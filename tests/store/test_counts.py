"""Files of counts: what was written is read, and anything else is refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgespec.errors import BadSetting
from edgespec.store.counts import Counted, read_counts, write_counts


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Fails when a count lands at another token, or the vocabulary's size is lost."""
    counts = np.zeros(50, np.int64)
    counts[[0, 7, 49]] = 1, 12, 3
    write_counts(tmp_path / "c.json", Counted(counts, "3 answers of demo"))
    found = read_counts(tmp_path / "c.json")
    assert np.array_equal(found.counts, counts)
    assert (found.origin, found.n_tokens) == ("3 answers of demo", 16)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "holds no counts"),
        ("[" * 100_000, "holds no counts"),
        ('{"counts": []}', "it has no counts"),
        ('{"counts": {}}', "its n_vocab is None"),
        ('{"n_vocab": true, "counts": {}}', "its n_vocab is True"),
        ('{"n_vocab": 1e9, "counts": {}}', "its n_vocab is 1000000000.0"),
        ('{"n_vocab": 5, "counts": {"5": 1}}', "it counts token '5' of 5"),
        ('{"n_vocab": 5, "counts": {"-1": 1}}', "it counts token '-1' of 5"),
        ('{"n_vocab": 5, "counts": {"1": -1}}', "it counts token 1 -1 times"),
        ('{"n_vocab": 5, "counts": {"1": 0.5}}', "it counts token 1 0.5 times"),
    ],
)
def test_a_file_that_holds_no_counts(tmp_path: Path, content: str, says: str) -> None:
    """Fails when a wrong file is taken for counts of nothing, or ends in a traceback."""
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(BadSetting, match="--save-counts writes it") as caught:
        read_counts(path)
    assert says in str(caught.value)
    with pytest.raises(BadSetting, match="cannot be read"):
        read_counts(tmp_path / "missing.json")


@pytest.mark.parametrize("origin", [None, 5, ["a"], "", "\x1b\n"])
def test_an_origin_that_says_nothing_is_a_file_of_counts(tmp_path: Path, origin: object) -> None:
    """Fails when a number, or a terminal's control codes, stand where words are read."""
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"n_vocab": 5, "origin": origin, "counts": {"1": 1}}))
    assert read_counts(path).origin == "a file of counts"


def test_an_origin_is_a_line(tmp_path: Path) -> None:
    """Fails when a file's word for itself moves the cursor or fills the screen."""
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"n_vocab": 5, "origin": "\x1b[2Jmine\n" + "x" * 500, "counts": {"1": 1}}))
    found = read_counts(path).origin
    assert found.startswith("[2Jminex")
    assert len(found) == 200
