"""A surface through the runtime's figures, on figures made up in the form that the page documents (docs/memory.md)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import edgespec
from edgespec.backends.llama_cpp.dimensions import dimensions
from edgespec.backends.llama_cpp.figures import Figures
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.gguf.shape import read_shape
from edgespec.memory import fitted
from edgespec.memory.fitted import Surface, surface
from edgespec.memory.predict import widest
from edgespec.types import KV_TYPES, ContextSpec

SHAPE = read_shape(Path(edgespec.__file__).parent / "demo" / "demo.gguf")
BASE = ContextSpec(512, n_threads=2)
FACTOR = {"f16": 1, "q8_0": 3, "q4_0": 7}


def documented(spec: ContextSpec) -> dict[str, int]:
    """The wider of layers (tokens, those times cells, cells) and end (logits of rows), by cache type;
    on a device without the head there is no such end."""
    reserved = widest(SHAPE, dimensions(spec, trees=True), spec.kv_type)
    tokens, cells, rows = reserved.n_tokens, reserved.n_cells, reserved.n_rows
    layers = 5000 + 1024 * tokens + 2 * tokens * cells + 16 * cells
    end = 4 * SHAPE.n_vocab * rows + 7000
    return {"cpu": max(FACTOR[spec.kv_type] * layers, end), "CUDA0": 100_000 + 64 * cells}


def through(monkeypatch: pytest.MonkeyPatch, says: Callable[[ContextSpec], dict[str, int]]) -> Surface:
    def figures(_path: Path, _options: LoadOptions, specs: list[ContextSpec], trees: bool) -> list[Figures]:
        assert trees
        return [Figures({}, says(spec), 0, 0, 0) for spec in specs]

    monkeypatch.setattr(fitted, "runtime_figures", figures)
    monkeypatch.setattr(fitted, "by_device", dict)
    return surface(Path("unread.gguf"), SHAPE, LoadOptions(), BASE)


@pytest.mark.parametrize("kv", KV_TYPES)
@pytest.mark.parametrize(("n_ctx", "n_ubatch", "rows"), [(512, 32, 2), (2048, 128, 9), (32768, 512, 40)])
def test_figures_of_the_documented_form_are_met_anywhere(
    monkeypatch: pytest.MonkeyPatch, kv: str, n_ctx: int, n_ubatch: int, rows: int
) -> None:
    """Between the contexts that were asked for and beyond them. Fails when a term is missing, cache types mix, or one
    plane is laid through what is wider now here, now there."""
    spec = ContextSpec(n_ctx, max_nodes=rows, max_leaves=rows, kv_type=kv, n_ubatch=n_ubatch, n_threads=2)
    found = through(monkeypatch, documented)(spec)
    assert found == pytest.approx(documented(spec), abs=64)


def test_it_is_never_below_the_figures_it_was_made_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime's allocator goes in steps. Fails when a plan at a known context is too small for it."""
    asked: list[tuple[ContextSpec, int]] = []

    def steps(spec: ContextSpec) -> dict[str, int]:
        n_bytes = documented(spec)["cpu"] + 300_000 * (len(asked) * 7 % 5)
        asked.append((spec, n_bytes))
        return {"cpu": n_bytes}

    fit = through(monkeypatch, steps)
    assert len(asked) == 27 * len(KV_TYPES)
    assert all(fit(spec)["cpu"] >= n_bytes for spec, n_bytes in asked)
    assert all(fit(spec)["cpu"] <= n_bytes + 2_500_000 for spec, n_bytes in asked)
