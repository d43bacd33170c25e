"""`edgespec bench`: one JSON object, tables, plots, and what cannot be measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgespec.bench import card
from edgespec.bench import run as bench_run
from tests.cli.conftest import Command, sentence

SHORT = ("bench", "-m", "demo", "--limit", "3", "--max-tokens", "12", "--threads", "1")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A card of a blink, kept where no other run finds it."""
    monkeypatch.setattr(card, "CURVE_BUDGET_S", 0.2)
    monkeypatch.setattr(card, "BOUND_ROWS", (2, 4))


def result(command: Command, *more: str) -> dict[str, Any]:
    done = command(*SHORT, "--json", *more)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_json_is_one_object_with_a_ratio_for_every_method_and_category(command: Command) -> None:
    """Fails when a program that reads the last line finds no figures, or figures that no other run could check."""
    found = result(command)
    assert list(found["methods"]) == ["plain", "chain", "tree"]
    for name, f in found["methods"].items():
        assert f["n_answers"] == 3
        assert f["ratio_to_plain"] > 0
        assert all(c["ratio_to_plain"] > 0 for c in f["categories"].values())
        assert len(f["categories"]) == 3
        assert f["memory"]["pss_bytes"] == sum(s["bytes"] for s in f["memory"]["stages"]) > 10_000_000
        assert sum(f["accepted_lengths"]) > 0
        assert f["ttft_ms"] > 0
        assert (f["acceptance_rate"] is None) == (name == "plain")
    assert found["methods"]["plain"]["ratio_to_plain"] == 1
    assert found["ceilings"]["curve"]["rows"][0] == 1
    assert found["ceilings"]["speculation"]["speedup"] >= 1
    assert found["failures"] == []
    assert found["machine"]["cores"] >= 1


def test_a_table_says_the_same_to_a_person(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a line is wider than a terminal, or a method, the ceiling or the bound is missing."""
    monkeypatch.setenv("COLUMNS", "80")
    done = command(*SHORT)
    assert done.code == 0
    for word in ("plain", "chain", "tree", "Ceiling of plain decoding", "Bound of speculation", "tokens/s", "memory"):
        assert word in done.out
    tables = done.out[done.out.index("method") :]
    assert max(map(len, tables.splitlines())) <= 80


def test_a_plot_is_written(command: Command, tmp_path: Path) -> None:
    """Fails when the result and the plots have grown apart."""
    done = command(*SHORT, "--plot", str(tmp_path / "bench.svg"))
    assert done.code == 0
    assert "tree" in (tmp_path / "bench.svg").read_text()


def test_a_replay_measures_along_recorded_text(command: Command, tmp_path: Path) -> None:
    """Fails when the recorded answers are not what is verified: 12 of its tokens, none of them cut."""
    line = {"category": "a", "turns": ["Say it."], "answers": ["the same the same the same " * 20]}
    (tmp_path / "said.jsonl").write_text(json.dumps(line))
    found = result(command, "--replay", str(tmp_path / "said.jsonl"), "--methods", "chain")
    assert found["settings"]["replayed"]
    assert {s["n_tokens"] for s in found["samples"]} == {12}
    assert found["cut_as_loops"]["n_answers_cut"] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--methods", "plain,chian"), "no method has the name 'chian'; did you mean chain?"),
        (("--prompts", "missing.jsonl"), "missing.jsonl cannot be read"),
        (("--prompts", "a.jsonl", "--replay", "b.jsonl"), "leave one of them out"),
        (("--plot", "plot.pdf"), ".svg"),
        (("--replay", "a.jsonl", "--temperature", "0.8"), "use it with --temperature 0"),
        (("--max-tokens", "0"), "--max-tokens is 0"),
        (("--repeat", "0"), "repeat"),
        (("-d", "none"), "-d none forbids one"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_loaded(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    """Fails when a slip costs minutes, or is not said in a sentence."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_run, "open_workbench", lambda *_: pytest.fail("a model was loaded"))
    assert says in sentence(command("bench", "-m", "demo", *arguments), 2)


def test_a_malformed_line_is_named(command: Command, tmp_path: Path) -> None:
    """Fails when the person has to look for it."""
    path = tmp_path / "asked.jsonl"
    path.write_text('{"category": "a", "prompt": "fine"}\n{oops\n')
    assert "line 2" in sentence(command("bench", "--prompts", str(path)), 2)


def test_a_prompt_that_fails_is_reported_and_the_rest_is_measured(command: Command, tmp_path: Path) -> None:
    """Fails when one prompt that is too long ends the run, or the exit code hides it."""
    path = tmp_path / "asked.jsonl"
    path.write_text('{"category": "a", "prompt": "short"}\n' + json.dumps({"category": "b", "prompt": "long " * 900}))
    done = command(*SHORT, "--context", "256", "--prompts", str(path), "--json")
    assert done.code == 1
    found = json.loads(done.out)
    assert {f["question"] for f in found["failures"]} == {"line 2"}
    assert found["methods"]["chain"]["n_answers"] == 1
    assert "chain failed on prompt line 2: the prompt with one token of answer needs" in done.err
