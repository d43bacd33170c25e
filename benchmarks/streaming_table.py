"""Writes docs/specexec.md's measured figures from results/streaming.json; a test holds the two together.

usage: streaming_table.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tables import RESULTS, ROOT, load, ranged, replaced

# The second: fewer variants on more prompts.
RUNS = ("streaming", "streaming-more")
PLACES = {"throttled": "the disk throttled to 150 MB/s", "unthrottled": "the disk as it is"}


def table() -> str:
    paper = ", ".join(f"{tokens} at {k}" for k, tokens in load("streaming")["paper_tokens_per_pass"].items())
    runs = [run for name in RUNS if (RESULTS / f"{name}.json").exists() for run in (*_run(load(name)), "")]
    return "\n".join([*runs, f"The paper's tokens a pass, of other models: {paper}."])


def _run(result: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{result['model']} ({result['file_bytes'] / 1e6:.0f} MB) under a limit of {result['limit_bytes'] / 1e6:.0f} "
        f"MB, {result['prompts']} prompts by up to {result['tokens']} tokens, {result['repeats']} repeat(s), times "
        "paired by answer.",
    ]
    for place, shown in PLACES.items():
        for part, found in result.get(place, {}).items():
            if part.startswith("temperature"):
                lines += ["", f"{part.capitalize()}, {shown}:", "", *_variants(found["variants"]), "", _compared(found)]
    return lines


def _variants(variants: Mapping[str, Any]) -> list[str]:
    head = ("", "tokens a pass", "rows a pass", "ms a round", "of them drafting", "tokens/s", "over plain")
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, own in variants.items():
        drafting = own["draft_ms_per_round"]
        cells = [
            name,
            f"{own['tokens_per_pass']:.2f}",
            f"{own['rows_per_pass']:.0f}" if own["rows_per_pass"] else "",
            f"{own['ms_per_round']:,.0f}",
            f"{drafting:.0f}" if drafting else "",
            f"{own['tokens_per_s']:.2f}",
            ranged(own["over_plain"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _compared(found: Mapping[str, Any]) -> str:
    said = [f"Auto: its speed-up is {found['speedup_over_tokens_per_pass']:.2f} of its tokens a pass"]
    for part, words in (("best_fixed", "the best fixed one"), ("best_chain", "the best chain")):
        if part in found:
            said.append(f"{ranged(found[part]['auto_over_it'])} of {words} ({found[part]['which']})")
    return "; ".join(said) + "."


def rendered(page: str) -> str:
    """The page with its figures written anew."""
    return replaced(page, "streaming_table", table())


if __name__ == "__main__":
    path = ROOT / "docs" / "specexec.md"
    path.write_text(rendered(path.read_text()))
