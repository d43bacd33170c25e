"""What pages with tables of figures share: reading a result, a ratio in words, a part of a page written anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
END = "<!-- /measured -->"


def load(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def ranged(ratio: Mapping[str, float]) -> str:
    return f"{ratio['ratio']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def begin(script: str) -> str:
    """The mark in front of what a script writes."""
    return f"<!-- measured: benchmarks/{script}.py writes this -->"


def replaced(page: str, script: str, table: str) -> str:
    """The page with the part between the script's marks written anew."""
    head, _, rest = page.partition(begin(script))
    _, _, tail = rest.partition(END)
    return f"{head}{begin(script)}\n{table}\n{END}{tail}"
