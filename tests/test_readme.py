"""README says what is so."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_first_screen_shows_exactly_the_two_commands() -> None:
    """Fails when a newcomer has to choose, or a command is not a target of the Makefile."""
    first = re.search(r"```sh\n(.*?)```", README, re.S)
    assert first
    assert README[: first.end()].count("\n") < 12
    commands = [line.split("#")[0].strip() for line in first[1].strip().splitlines()]
    assert commands == ["make chat", "make test"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert {"chat", "test"} <= set(targets)


@pytest.mark.parametrize(
    ("page", "script"),
    [
        ("README.md", "readme_table"),
        ("docs/control.md", "control_table"),
        ("docs/trim.md", "trim_table"),
        ("docs/specexec.md", "streaming_table"),
    ],
)
def test_the_table_is_what_the_results_say(page: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a figure was typed by hand, or measured again without the script that writes the table."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module(script)
    text = (ROOT / page).read_text()
    assert module.rendered(text) == text


def test_every_link_leads_somewhere() -> None:
    """Fails when a file was moved."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_library_example_runs(capsys) -> None:
    """Fails when five lines are not enough, or not right."""
    code = next(c for c in re.findall(r"```python\n(.*?)```", README, re.S) if "edgespec.open" in c)
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    ast.parse(code)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_every_flag_named_is_a_flag() -> None:
    """Fails when README or a page promises an option that the program it belongs to refuses."""
    cli = ROOT / "edgespec" / "cli"
    options = "".join((cli / name).read_text() for name in ("options.py", "run.py", "bench.py", "trim.py"))
    scripts = "".join(file.read_text() for file in (ROOT / "benchmarks").glob("peers*.py"))
    pages = README + (ROOT / "docs" / "bench.md").read_text()
    in_scripts = re.findall(r"`python benchmarks/peers[^`]*`", pages)
    for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", " ".join(in_scripts))):
        assert f'"{flag}"' in scripts, flag
    for line in in_scripts:
        pages = pages.replace(line, "")
    for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", pages)):
        assert f'"{flag}"' in options, flag
