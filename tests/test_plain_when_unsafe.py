"""Speculation steps back where it could change the text."""

from __future__ import annotations

import pytest

from edgespec import assemble
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.errors import DrafterUnusable
from edgespec.gguf.shape import Shape, read_shape
from edgespec.settings import Settings
from edgespec.store.registry import resolve
from edgespec.types import Sampling

SMALL = {"context": 128, "threads": 1}


def test_exact_is_tried_on_the_very_weights_and_decodes_plainly_where_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the demo's answer is believed for a file of another weight type."""
    tried: list[tuple[str, int]] = []

    def differ(model: LlamaModel, kv_type: str, *, n_threads: int, **_: object) -> bool:
        tried.append((model.name, n_threads))
        return False

    monkeypatch.setattr(assemble, "rows_agree", differ)
    with assemble.open_assistant(Settings(exact=True, **SMALL)) as assistant:
        assert tried == [("demo", 1)]
        assert assistant.engine.method == "plain"
        assert any("decoding is plain" in warning for warning in assistant.warnings)
        for _ in range(2):  # the second time every word of it was said before
            assert assistant.answer([{"role": "user", "content": "hi"}], Sampling(temperature=0), 12).draft_n == 0


def test_a_recurrent_target_decodes_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when rejected tokens stay in a state that cannot drop them."""
    monkeypatch.setattr(Shape, "recurrent", property(lambda _: True))
    with assemble.open_assistant(Settings(shape="chain", method="model", **SMALL)) as assistant:
        assert assistant.engine.method == "plain"
        assert any("recurrent" in line.reason for line in assistant.plan)


def test_a_recurrent_drafter_is_refused_when_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when it is found out in the middle of an answer."""
    drafter = read_shape(resolve("demo-draft").path)
    monkeypatch.setattr(Shape, "recurrent", property(lambda shape: shape.n_embd == drafter.n_embd))
    with pytest.raises(DrafterUnusable, match="recurrent state"):
        assemble.open_assistant(Settings(draft="demo-draft", **SMALL))
