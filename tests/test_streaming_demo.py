"""The demo on a machine that has no room for it, as far as the planner knows: opened, timed, answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgespec.assemble import open_assistant
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.engine import calibrate
from edgespec.errors import DoesNotFit
from edgespec.memory import survey
from edgespec.settings import Settings
from edgespec.speculation.cost import Curve
from edgespec.types import Sampling, Step

PROMPT = "<|bos|><|user|>Write a short story about a ferry.<|end|><|assistant|>"


def answer(
    settings: Settings, loaded: list[bool], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Step], dict[str, str]]:
    make = LlamaModel.__init__

    def made(self, path, options, *more) -> None:
        loaded.append(options.extra_buffers)
        make(self, path, options, *more)

    with monkeypatch.context() as patched:
        patched.setattr(LlamaModel, "__init__", made)
        with open_assistant(settings) as assistant:
            target = assistant.chat._model
            ids = target.tokenize(PROMPT.encode(), special=True)
            events = assistant.engine.generate(ids, Sampling(temperature=0.8, seed=2), 40, end_ids=target.end_ids)
            return [e for e in events if isinstance(e, Step)], {line.line: line.value for line in assistant.plan}


@pytest.mark.parametrize(("method", "n_timed"), [("auto", 1), ("model", 1), ("plain", 0)])
def test_a_model_that_does_not_fit_runs_and_says_what_it_says(
    method: str, n_timed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Fails when a big model is refused, when its passes are timed as if it lay in memory, when a copy of its weights
    is made, or when being streamed changes the text: under --exact with q8_0 KV it may not by one token."""
    monkeypatch.setenv("EDGESPEC_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("EDGESPEC_CACHE_DIR", str(tmp_path / "cache"))
    settings = Settings(model="demo", method=method, exact=True, kv="q8_0", remember=False, context=512)
    usual, plan = answer(settings, [], monkeypatch)
    assert "streaming" not in plan
    timed: list[Curve] = []
    measure = calibrate.measure_wide

    def measured(*args, **kwargs) -> Curve:
        timed.append(measure(*args, **kwargs))
        return timed[-1]

    def no_room(*_args) -> None:
        raise DoesNotFit("the weights alone take more than there is")

    monkeypatch.setattr(calibrate, "measure_wide", measured)
    monkeypatch.setattr(survey, "_check_weights", no_room)
    loaded: list[bool] = []
    streamed, plan = answer(settings, loaded, monkeypatch)
    assert plan["streaming"].startswith("streamed from disk")
    assert plan["extra buffers"] == "off"
    assert not loaded[0]
    assert len(timed) == n_timed
    assert all(len(curve.rows) > 1 for curve in timed)
    assert [t for s in streamed for t in s.tokens] == [t for s in usual for t in s.tokens]
