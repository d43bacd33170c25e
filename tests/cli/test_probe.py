"""`edgespec probe`: one JSON object or a picture, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from edgespec.store import registry
from tests.cli.conftest import Command, sentence
from tests.gguf.files import META, Q8_0, gguf

DRAFTING = ("probe", "-m", "demo", "--method", "model", "--nodes", "4", "--context", "256")
CONTRADICTS = gguf(
    {**META, "llama.block_count": 3, "llama.embedding_length": 32, "llama.attention.head_count": 1},
    [("token_embd.weight", (32, 3), Q8_0, 102), ("blk.0.attn_k.weight", (32, 32), Q8_0, 1088)],
)


def result(command: Command, *arguments: str) -> dict[str, Any]:
    done = command(*arguments, "--json")
    assert (done.code, done.err) == (0, "")
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_json_is_one_object_whose_sums_agree(demo: Command) -> None:
    """Programs read it. Fails when a component is in no sum, or stray text stands beside the object."""
    found = result(demo, *DRAFTING)
    memory = found["memory"]
    predicted = memory["predicted"]
    total = predicted["total_bytes"]
    assert total == sum(predicted["components"].values()) == sum(predicted["by_device"].values())
    assert total == sum(item["n_bytes"] for item in predicted["items"])
    assert {"weights", "kv", "compute", "draft weights"} <= set(predicted["components"])
    assert memory["measured"] is None
    assert set(memory["runtime"]["components"]) <= set(predicted["components"])
    assert (found["model"], found["fits"], found["shortfall"]) == ("demo", True, None)
    assert found["devices"][0]["name"] == "cpu"
    assert found["alternatives"]
    assert found["speculation"]["method"] == "model"
    assert ["context", "256", "asked for"] in [[p["line"], p["value"], p["reason"]] for p in found["plan"]]


def test_load_weighs_what_was_planned(command: Command) -> None:
    """Beside the prediction for the whole plan stands the one for the moment of weighing."""
    memory = result(command, *DRAFTING, "--load")["memory"]
    measured = memory["measured"]
    assert measured["total_bytes"] == sum(measured["by_device"].values()) > 1_000_000
    assert 0 < measured["predicted_at_that_moment_bytes"] <= memory["predicted"]["total_bytes"]
    assert 0 < measured["cells_in_use"] <= 256 + 4
    assert set(measured["components"]) <= set(memory["predicted"]["components"])


def test_the_picture_has_a_bar_for_every_component(demo: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each begins where the one before ended. Fails when a small component vanishes, or a line is wider than the
    terminal."""
    monkeypatch.setenv("COLUMNS", "100")
    done = demo(*DRAFTING)
    assert done.code == 0
    lines = done.out.splitlines()
    for name in result(demo, *DRAFTING)["memory"]["predicted"]["components"]:
        (line,) = (line for line in lines if re.match(rf"{name} {{2,}}", line) and re.search("[█▏]", line))
        assert re.search(r"[\d.]+ ([KMGT]iB|bytes)", line)
        assert len(line) <= 100
    assert any(line.startswith("total") for line in lines)
    assert any(line.startswith("drafter ") and "demo-draft" in line for line in lines)
    assert any(line.startswith("instead:") for line in lines)


def test_without_a_model_every_known_one_has_a_line(demo: Command) -> None:
    """It answers what this machine can run. Fails when a model is left out."""
    names = {model["model"] for model in result(demo, "probe")["models"]}
    assert names == set(registry.names())
    lines = demo("probe").out.splitlines()
    for name in names:
        assert any(re.match(rf"{name} +[\d.]+ MiB  \d+ tokens/s expected", line) for line in lines), name


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--budget", "6GB5"), 2, "--budget '6GB5' is no size; write a number with a unit, such as 6GiB"),
        (("-m", "demo", "--context", "4096"), 2, "--context 4096 is beyond the 2048 tokens this model was trained for"),
        (("-m", "demi"), 4, "no model has the name 'demi'; did you mean demo?"),
        (("-m", "contradicts.gguf"), 1, "contradicts itself: its metadata says 3 layers, its tensor table has no tens"),
        (("-d", "missing.gguf", "-m", "demo"), 5, "there is no file missing.gguf"),
    ],
    ids=["size", "context", "name", "file", "drafter"],
)
def test_what_cannot_be_probed(
    demo: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    """One sentence and an exit code, as everywhere; --json changes neither."""
    (tmp_path / "contradicts.gguf").write_bytes(CONTRADICTS)
    given = [str(tmp_path / a) if a == "contradicts.gguf" else a for a in arguments]
    assert says in sentence(demo("probe", *given), code)
    assert says in sentence(demo("probe", *given, "--json"), code)


def test_a_budget_below_the_weights_says_what_is_needed_and_what_would_fit(demo: Command) -> None:
    """Both figures and a way out. Fails when a person has to guess how much to add."""
    said = sentence(demo("probe", "-m", "demo", "--budget", "9MB"), 3)
    assert re.search(r"the weights of demo alone take 12\.8 MiB and the programs [\d.]+ MiB", said)
    assert "and the budget is 8.58 MiB" in said
    assert re.search(r"raise --budget to \d+MiB, or use ", said)
