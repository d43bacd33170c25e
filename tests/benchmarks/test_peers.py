"""A peers run: everybody in turn, budgets from plain decoding, and what happens where llama-server is missing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def peers() -> Iterator[ModuleType]:
    before = list(sys.path)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("peers")
    sys.path[:] = before


class Fake:
    """Says n tokens, `ms` each after the first; notes whom it was asked after."""

    def __init__(self, peers: ModuleType, name: str, ms: float, order: list[str], text: int = 0) -> None:
        self._run, self._name, self._ms, self._order, self._text = peers.Run, name, ms, order, text

    def answer(self, prompt: Sequence[int], n_tokens: int, temperature: float, seed: int) -> Any:
        self._order.append(self._name)
        tokens = tuple(self._text + i for i in range(n_tokens))
        return self._run(tokens, 10.0, self._ms * (n_tokens - 1), n_tokens - 1)


def test_everybody_answers_within_the_budget_in_an_order_that_rotates(peers: ModuleType) -> None:
    """Fails when a contender is always first, or gets another budget."""
    order: list[str] = []
    contenders = {name: Fake(peers, name, 1.0, order) for name in ("a", "b", "c", "d")}
    found = peers.meet(contenders, [[1], [2], [3]], [5, 6, 7], 0.0)
    assert [order[i] for i in (0, 4, 8)] == ["a", "b", "c"]
    assert {tuple(len(r.tokens) for r in runs) for runs in found.values()} == {(5, 6, 7)}


@pytest.mark.parametrize("n", [2, 3, 6, 9])
def test_everybody_comes_first_once_in_as_many_prompts(peers: ModuleType, n: int) -> None:
    """Fails when the order only seems to rotate for some numbers of contenders."""
    order: list[str] = []
    peers.meet({str(i): Fake(peers, str(i), 1.0, order) for i in range(n)}, [[1]] * n, [4] * n, 0.0)
    assert {order[i * n] for i in range(n)} == {str(i) for i in range(n)}


def test_settings_are_compared_within_their_own_heat(peers: ModuleType) -> None:
    """Fails when a heat in which our plain run was slow makes its settings look fast."""

    def row(over_theirs: float, over_ours: float) -> dict[str, Any]:
        return {
            "over_llama_server_plain": {"ratio": over_theirs},
            "over_edgespec_plain": {"ratio": over_ours},
        }

    screened = {
        "a quick heat": {"0.0": {peers.PLAIN: row(1, 1), "llama-server draft 2": row(2.0, 2.0)}},
        "a slow heat": {"0.0": {peers.PLAIN: row(1, 1.4), "llama-server ngram-mod": row(1.5, 2.6)}},
        "the third": {"0.0": {"llama-server draft 8": row(1.2, 1.2), "edgespec tree@4": row(3.0, 3.0)}},
    }
    found = [n for n in peers.finalists(screened, 0.0) if n.startswith("llama-server")]
    assert found == ["llama-server draft 2", "llama-server ngram-mod", *peers.IDENTICAL.values()]


def test_budgets_end_where_plain_decoding_begins_to_loop(peers: ModuleType) -> None:
    """Fails when loops are measured or their share is lost."""

    class Looping:
        def answer(self, *_: object) -> Any:
            return peers.Run((*range(30), *[7, 8, 9] * 20), 1.0, 1.0, 1)

    assert peers.budgets(Looping(), [[1]], 90, 0.0) == [(90, 33)]


def test_ratios_are_of_tokens_a_second_and_of_whole_answers(peers: ModuleType) -> None:
    """Fails when a ratio stands upside down, or the prompt's time is counted as decoding."""
    order: list[str] = []
    fast, slow = (Fake(peers, "x", ms, order).answer([1], 11, 0.0, 0) for ms in (1.0, 2.0))
    assert peers.ratio([fast] * 3, [slow] * 3)["ratio"] == pytest.approx(2)
    assert peers.ratio([fast] * 3, [slow] * 3, peers.whole)["ratio"] == pytest.approx(30 / 20)


def test_a_different_text_is_seen(peers: ModuleType) -> None:
    """Fails when agreement is claimed of outputs that differ."""
    order: list[str] = []
    plain, other = Fake(peers, "p", 1.0, order), Fake(peers, "o", 1.0, order, text=5)
    answers = peers.meet({peers.OUR_PLAIN: plain, "o": other}, [[1], [2]], [4, 4], 0.0)
    rows = peers.lines(answers, 0.0)
    assert rows["o"]["same_text_as_plain"] == "0 of 2"
    assert rows[peers.OUR_PLAIN]["same_text_as_plain"] == "2 of 2"


def run_main(peers: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, dict[str, Any]]:
    """main() with edgespec and llama_cpp.Llama as fakes, and what it would have recorded."""
    order: list[str] = []
    written: dict[str, Any] = {}

    @contextmanager
    def ours(_model: Path, methods: str, _n: int) -> Iterator[tuple[Any, Mapping[str, Any]]]:
        names = ["plain", *(m for m in methods.split(",") if m != "plain")]
        yield SimpleNamespace(target=None), {f"edgespec {n}": Fake(peers, n, 1.0 + len(n), order) for n in names}

    @contextmanager
    def library(_model: Path, _n: int) -> Iterator[Mapping[str, Any]]:
        yield {"llama_cpp.Llama plain": Fake(peers, "library", 3.0, order)}

    monkeypatch.setattr(peers, "open_ours", ours)
    monkeypatch.setattr(peers, "open_library", library)
    monkeypatch.setattr(peers, "dev_prompts", lambda _model, n, longest: [[1, i] for i in range(n)])
    monkeypatch.setattr(peers, "categories", lambda _model, prompts: ["all"] * len(prompts))
    monkeypatch.setattr(peers.llama_server, "find", lambda: None)
    monkeypatch.setattr(peers.record, "write", lambda _name, result: written.update(result) or ROOT / "x.json")
    monkeypatch.setattr(sys, "argv", ["peers.py", "model.gguf", "--name", "x", *arguments])
    return peers.main(), written


def test_without_llama_server_the_rest_runs_and_the_exit_code_is_1(
    peers: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails when nothing is measured, or what is missing is not said with the command that mends it."""
    code, written = run_main(peers, monkeypatch)
    assert code == 1
    assert "`make llama-server` builds it" in capsys.readouterr().err
    assert set(written["screening"]) == {"edgespec", "llama_cpp.Llama"}
    assert written["final"]["0.0"]["rows"]["edgespec plain"]["tokens_per_second"] > 0


def test_settings_that_are_named_meet_without_a_screening(peers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when they are screened all the same, or others than those take part."""
    _, written = run_main(peers, monkeypatch, "--ours", "auto,chain@4", "--theirs", "draft 3", "--prompts", "3")
    assert written["screening"] == {}
    assert set(written["final"]) == {"0.0", "0.8"}
    assert set(written["final"]["0.0"]["rows"]) == {"edgespec plain", "edgespec auto", "edgespec chain@4"}


def test_without_a_compiler_that_is_said_too(
    peers: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails when the person is sent to a build that cannot work."""
    monkeypatch.setattr(peers.shutil, "which", lambda _: None)
    assert run_main(peers, monkeypatch)[0] == 1
    assert "so is a C++ compiler" in capsys.readouterr().err


def test_a_server_that_is_not_where_it_was_said_to_be_is_named(
    peers: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails when a wrong --server is passed over in silence."""
    assert run_main(peers, monkeypatch, "--server", "/nowhere/llama-server")[0] == 1
    assert "there is no llama-server at /nowhere/llama-server" in capsys.readouterr().err
