"""A model's file as a planner sees it: which mask it was taught to fill in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgespec.errors import BadSetting
from edgespec.gguf.inspect import inspect
from edgespec.memory import source
from edgespec.memory.source import read_source
from edgespec.store.registry import resolve

DRAFT = resolve("demo-draft").path


def test_the_files_own_mask_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """models.toml speaks for files that cannot. Fails when it overrules one that was taught another mask."""
    assert read_source("d", DRAFT).mask_token_id is None
    assert read_source("d", DRAFT, 8191).mask_token_id == 8191
    monkeypatch.setattr(source, "inspect", lambda path: replace(inspect(path), mask_token_id=0))
    assert read_source("d", DRAFT, 8191).mask_token_id == 0


def test_a_mask_outside_the_vocabulary_is_refused() -> None:
    """The runtime would read beyond its table. Fails when a slip in models.toml reaches it."""
    with pytest.raises(BadSetting, match="is 8192, but its vocabulary has 8192 tokens; correct"):
        read_source("d", DRAFT, 8192)
