"""How often tokens came up in what was said here before, and in texts. Answers: tests/cli/test_trim.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgespec.counting import from_sessions, from_text
from edgespec.errors import BadSetting
from edgespec.store.registry import resolve
from tests.remembered import started, talked

N_VOCAB = 8192


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGESPEC_DATA_DIR", str(tmp_path / "data"))


def test_conversations_that_were_kept_are_counted_with_the_first_token_of_each_text() -> None:
    """Fails when a text's first token, which is kept as its complement, is lost or counted as another."""
    remembered, made = started(resolve("demo").path, N_VOCAB)
    talked(made)  # tokens 1 to 7; the pending 8 is read with what follows it
    made.suffix.automaton.separate()
    made.suffix.automaton.extend([5, 5, 700])
    assert remembered.keep(made) is None
    found = from_sessions("demo")
    expected = np.zeros(N_VOCAB, np.int64)
    expected[1:8] = 1
    expected[[5, 700]] = 3, 1
    assert np.array_equal(found.counts, expected)
    assert found.origin == "10 tokens of conversations with demo"


def test_where_nothing_was_said_there_is_nothing_to_count() -> None:
    """Fails when a head would be cut by zeros."""
    with pytest.raises(BadSetting, match="nothing that was said with demo is kept here"):
        from_sessions("demo")


def test_texts_of_a_folder_are_counted_in_the_model_s_tokens(tmp_path: Path) -> None:
    """Fails when one text hides another, or a control token written out in a text counts as one."""
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "texts" / name).write_text("7 7 <|end|>")
    found = from_text(resolve("demo-draft"), tmp_path / "texts")
    assert found.origin == "2 texts of texts"
    assert found.counts[8189] == 0  # <|end|>
    assert found.n_tokens % 2 == 0
    assert found.n_tokens > 8
    assert len(found.counts) == N_VOCAB
