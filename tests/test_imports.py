"""The import table of docs/design.md: a layer sees only layers below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "edgespec"

# Top to bottom; rooms on one line are siblings that never see each other.
LAYERS = (
    ("cli",),
    ("tui", "server", "bench"),
    ("service",),
    ("trimming",),
    ("probing", "counting"),
    ("assemble",),
    ("workbench",),
    ("opening",),
    ("remembering", "retrimming"),
    ("planning", "loading"),
    ("drafting", "candidates"),
    ("assistant", "explain", "passage"),
    ("chat",),
    ("engine",),
    ("memory",),
    ("speculation", "store"),
    ("backends", "gguf"),
    ("settings",),
    ("types",),
    ("errors",),
)
ONLY_IN = {
    "ctypes": "backends/llama_cpp",
    "llama_cpp": "backends/llama_cpp",
    "tvm": "backends/mlc",
    "textual": "tui",
    "sqlite3": "store",
    "huggingface_hub": "store/pull",
    "jinja2": "chat",
    "gguf": "gguf",
    "fastapi": "server",
    "starlette": "server",
    "typer": "cli",
}
NOT_IN = {"time": "speculation", "pathlib": "speculation"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(source: str) -> set[str]:
    """Every module a source names in an import, wherever it stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def level(room: str) -> int:
    return next(i for i, rooms in enumerate(LAYERS) if room in rooms)


def violations(path: str, source: str) -> list[str]:
    """What a file at a path inside the package imports against the table."""
    room = path.split("/")[0].removesuffix(".py")
    wrong = []
    for name in sorted(imports(source)):
        top, _, rest = name.partition(".")
        if top == "edgespec":
            other = rest.split(".")[0]
            if room == "__init__" or other in (room, "__version__"):
                continue
            if level(other) <= level(room):
                wrong.append(f"{path} imports {name}")
        elif top in ONLY_IN and not path.startswith(ONLY_IN[top]):
            wrong.append(f"{path} imports {name}, which only {ONLY_IN[top]} may")
        elif top in NOT_IN and path.startswith(NOT_IN[top]):
            wrong.append(f"{path} imports {name}, which {NOT_IN[top]} may not")
    return wrong


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_a_file_imports_only_what_its_layer_may_see(file: Path) -> None:
    """Fails on an import of a layer above, of a sibling, or of a library that has a room of its own."""
    assert violations(file.relative_to(PACKAGE).as_posix(), file.read_text()) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("speculation/verify.py", "from edgespec.engine.loop import Engine"),
        ("speculation/tree.py", "import time"),
        ("store/paths.py", "from edgespec.speculation import tree"),
        ("engine/loop.py", "def f():\n    import llama_cpp"),
        ("service/worker.py", "import jinja2.sandbox"),
        ("types.py", "from edgespec.backends.base import Model"),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str) -> None:
    """Fails when the check above has gone blind."""
    assert violations(path, source)
