"""The passage that passes are timed on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.passage import PASSAGE, passage_ids

DEMO = Path(__file__).parents[1] / "edgespec" / "demo" / "demo.gguf"


def test_the_passage_is_long_and_varied_in_a_real_vocabulary() -> None:
    """Fails when the widest pass would run round in the text, or a few tokens make up most of it: then stretches would
    reach the same experts again and again."""
    model = LlamaModel(DEMO, LoadOptions())
    try:
        ids = passage_ids(model).tolist()
    finally:
        model.close()
    assert len(ids) > 2 * 256
    assert len(set(ids)) > len(ids) / 4
    assert Counter(ids).most_common(1)[0][1] < len(ids) / 8


def test_the_passage_is_prose_and_code() -> None:
    """Fails when one kind of text stands for all."""
    assert all(word in PASSAGE for word in ("def ", "#include", "SELECT", "The ferry"))
