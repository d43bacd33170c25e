"""Tokens a pass at equal rows: one tree of all sources against each of them alone, paired by answer (docs/sources.md).

usage: mixed.py [--rows 8] [--each 8] [--tokens 64]; results/mixed.json. The bundled demo models: passes are counted,
not timed. Fixed rows, generated texts with loops cut at temperature 0 and 0.8, recorded answers and copies.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import contest
import record
from contest import Corner, Text

from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.speculation.cost import Curve
from edgespec.types import Choice

DEMO = Path(__file__).resolve().parents[1] / "edgespec" / "demo"
ALONE = ("suffix", "recycle", "model")
ANY_CURVE = Curve(0, (1,), (1.0,))


def passes(corner: Corner, texts: Sequence[Text], rows: int) -> list[dict[str, Any]]:
    """For each text the tokens behind the first round and the passes that every source took for them."""
    contestants = {name: corner.fixed(Choice(name, rows, rows - 1, 8)) for name in (*ALONE, "lookup", "mix")}
    found = []
    for text in texts:
        steps = {name: contest.say(c, text) for name, c in contestants.items()}
        n = {name: sum(len(s.tokens) for s in some) for name, some in steps.items()}
        if min(n.values()):
            found.append(
                {"category": text.category, "n_tokens": n["mix"], "passes": {k: len(s) for k, s in steps.items()}}
            )
    for c in contestants.values():
        c.engine.close()
    return found


def compared(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Tokens a pass by source, and the mixed tree over each of them, overall and by category."""
    groups: dict[str, list[dict[str, Any]]] = {"overall": list(found)}
    for row in found:
        groups.setdefault(row["category"], []).append(row)
    result = {}
    for group, rows in groups.items():
        n = sum(r["n_tokens"] for r in rows)
        own: dict[str, Any] = {name: n / sum(r["passes"][name] for r in rows) for name in rows[0]["passes"]}
        for name in ALONE:
            own[f"mix over {name}"] = contest.ratio(
                [r["passes"][name] for r in rows], [r["passes"]["mix"] for r in rows]
            )
        result[group] = own
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--each", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    target, draft = (LlamaModel(DEMO / f"{name}.gguf", LoadOptions()) for name in ("demo", "demo-draft"))
    corner = Corner(target, ANY_CURVE, 2, draft)
    result: dict[str, Any] = {"rows": args.rows}
    for temperature in (0.0, 0.8):
        texts = contest.generated(corner, temperature, args.tokens, args.each)
        result[f"generated, temperature {temperature:g}"] = compared(passes(corner, texts, args.rows))
    for name in ("answers_recorded", "copies"):
        texts = contest.recorded(target, f"{name}.jsonl", 128, 24)
        result[name] = compared(passes(corner, texts, args.rows))
    for part, groups in result.items():
        if isinstance(groups, dict):
            for group, own in groups.items():
                print(part, group, {k: round(v if isinstance(v, float) else v["ratio"], 2) for k, v in own.items()})
    record.write("mixed", result)


if __name__ == "__main__":
    main()
