"""What a host finds out about itself, where it cannot be remembered."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgespec.backends.llama_cpp import selftest
from edgespec.backends.llama_cpp.selftest import HostFacts, host_facts


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only home folder is no reason to refuse an answer."""
    found = HostFacts(extra_buffers=True, exact=True, row_depends_on_width=True)
    monkeypatch.setattr(selftest, "_try", lambda *_: (found, ""))
    (tmp_path / "file").write_text("no folder")
    assert host_facts(Path("unused"), tmp_path / "file" / "cache") == found
