"""Files that the tests of benchmarks/expand.py make once a module, in a llama.cpp that does not talk."""

import dataclasses
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import expand
from shapes import PRECISIONS, Shape

from edgespec.backends.llama_cpp import runtime
from tests.benchmarks.expanded import DEMO, Make


@pytest.fixture(scope="module")
def quiet_runtime() -> None:
    """Our own taking of the log: it is the process's, and tests after these go by it."""
    runtime.start()


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, quiet_runtime: None) -> Iterator[Make]:
    made: list[Path] = []

    @functools.cache
    def expanded(
        shape: Shape, kind: str, n_terms: int | None = None, source: Path = DEMO, n_vocab: int | None = None
    ) -> Path:
        made.append(tmp_path_factory.mktemp("expanded") / "model.gguf")
        precision = dataclasses.replace(PRECISIONS[kind], n_terms=n_terms or PRECISIONS[kind].n_terms)
        expand.expand(expand.Source(source), shape, precision, made[-1], n_vocab=n_vocab)
        return made[-1]

    yield expanded
    for path in made:
        path.unlink()
