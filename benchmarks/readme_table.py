"""Writes README's table of measured figures from results/*.json, so that the two cannot disagree (a test reads it).

`python benchmarks/readme_table.py` rewrites the table in place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- measured: benchmarks/readme_table.py writes this -->", "<!-- /measured -->"
RUNS = {"f16": "bound by bandwidth, as 4-bit weights are on a GPU", "q4_0": "bound by arithmetic on two cores"}


def load(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return result


def table() -> str:
    lines = [
        "| 1B shape, 2 cores | temperature | plain | best chain | best tree |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind, why in RUNS.items():
        for temperature, methods in load(f"speculation-1b-{kind}")["results"].items():
            cells = [f"{kind} ({why})", temperature, f"{methods['plain']['tokens_per_second']:.1f} tokens/s"]
            cells += [_best(methods, shape) for shape in ("chain", "tree")]
            lines.append("| " + " | ".join(cells) + " |")
    first = load("speculation-1b-f16")
    n = first["prompts"]
    lines += [
        "",
        f"Ratios to plain decoding, paired over {n} prompts in one run, with 95 % intervals, "
        f"on {first['machine']['cpu']}:",
        "the demo pair's real acceptance at a 1B model's real cost. Each row is",
        "`python benchmarks/speculation.py` on a model made by `python benchmarks/expand.py`; raw figures:",
        "[results](benchmarks/results).",
    ]
    return "\n".join(lines)


def _best(methods: dict[str, Any], shape: str) -> str:
    """The best fixed setting of a shape that ranks with the shared noise."""
    found = {n: m for n, m in methods.items() if n.startswith(shape) and "probability" not in n}
    name = max(found, key=lambda n: found[n]["ratio_to_plain"]["ratio"])
    ratio = found[name]["ratio_to_plain"]
    return f"**{ratio['ratio']:.2f}x** ({ratio['low']:.2f} to {ratio['high']:.2f}, {name.split()[1]} rows)"


def rendered(readme: str) -> str:
    """The README with its table written anew."""
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(rendered(path.read_text()))
