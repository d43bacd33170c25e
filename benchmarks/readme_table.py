"""Writes README's tables of measured figures from results/*.json, so that the two cannot disagree (a test reads them).

`python benchmarks/readme_table.py` rewrites the tables in place. A row names the result it comes from, and the result
holds the command.
"""

from __future__ import annotations

import re
from typing import Any

from tables import ROOT, load, ranged, replaced

KINDS = {"f16": "f16", "q4_0": "Q4_0"}


def table() -> str:
    return "\n".join([*_speed(), "", *_first_token()])


def _speed() -> list[str]:
    lines = [
        "| 1B shape, 2 cores | temperature | llama-server, plain | edgespec, best fixed setting | llama-server, "
        "best setting | edgespec, nothing set, over llama-server, best setting | best fixed setting over it "
        "| whole answers, cold prompt | command |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind, shown in KINDS.items():
        result = load(f"peers-1b-{kind}")
        for temperature, final in result["final"].items():
            rows, mine, theirs = final["rows"], final["best_edgespec"], final["best_llama_server"]
            base = "over_llama_server_plain"
            cells = [
                shown,
                f"{float(temperature):g}",
                f"{rows['llama-server plain']['tokens_per_second']:.1f} tokens/s",
                f"{_times(rows[mine][base])}, {mine.removeprefix('edgespec ')}",
                f"{_times(rows[theirs][base])}, {theirs.removeprefix('llama-server ')}",
                f"**{ranged(final['auto_over_best']['decoding'])}**" if final.get("auto_over_best") else "-",
                ranged(final["best_over_best"]["decoding"]),
                ranged(final["best_over_best"]["whole_answer"]),
                _command(f"peers-1b-{kind}", result),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    first = load("peers-1b-f16")
    lines += [
        "",
        f"Fastest of each side among settings that a screening left, on {first['prompts']} other prompts of up to "
        f"{first['tokens']} tokens, answered in turn; medians of ratios paired by prompt,",
        f"with 95 % intervals, on {first['machine']['cpu']}. A 1B model's real cost, the demo pair's real acceptance; "
        "f16 weights on two cores are bound by bandwidth, as 4-bit",
        "weights are on a GPU, Q4_0 by arithmetic. What each figure is made of: [docs/bench.md](docs/bench.md).",
    ]
    return lines


SHOWN = ("cold, 64 tokens", "1000 tokens reused, 24 new")


def _first_token() -> list[str]:
    """Rows of SHOWN with a drafter, and in a line below how far all that were measured lie apart."""
    lines = [
        "| time to first token, 1B shape, with a drafter | edgespec | llama-server | edgespec over llama-server "
        "| command |",
        "| --- | --- | --- | --- | --- |",
    ]
    every: list[float] = []
    for kind, shown in KINDS.items():
        result = load(f"peers_ttft-1b-{kind}")
        every += [row["over_llama_server"]["ratio"] for rows in result["results"].values() for row in rows.values()]
        for name in SHOWN:
            row = result["results"]["chain@6"][name]
            cells = [
                f"{shown}, {name}",
                f"{row['edgespec_ms']:.0f} ms",
                f"{row['llama_server_ms']:.0f} ms",
                ranged(row["over_llama_server"]),
                _command(f"peers_ttft-1b-{kind}", result),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"With and without a drafter, cold at 16 to 768 tokens and behind a reused prefix, {len(every)} comparisons: "
        f"{min(every):.2f} to {max(every):.2f}.",
    ]
    return lines


def _command(name: str, result: dict[str, Any]) -> str:
    """The command as it was typed, but for the earlier result that a screening was taken from."""
    words = re.sub(r" --screened \S+", "", result["command"])
    return f"[`{words}`](benchmarks/results/{name}.json)"


def _times(ratio: dict[str, float]) -> str:
    return f"{ratio['ratio']:.2f}x plain"


def rendered(page: str) -> str:
    """The page with its tables written anew."""
    return replaced(page, "readme_table", table())


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(rendered(path.read_text()))
