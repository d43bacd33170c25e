"""Writes docs/trim.md's measured figures from results/trim.json; a test holds the two together.

usage: trim_table.py
"""

from __future__ import annotations

from typing import Any

from tables import ROOT, load, ranged, replaced


def table() -> str:
    result = load("trim")
    return "\n".join([*_acceptance(result["acceptance"]), "", *_times(result["times"], result["memory"])])


def _acceptance(found: dict[str, Any]) -> list[str]:
    shapes = list(next(iter(found["by_k"].values()))["tokens_a_pass"])
    head = ["rows kept", "k", "of the counted text", "of the measured text", *shapes]
    lines = [
        f"Tokens a pass of the demo pair (8,192 rows), {found['n_tokens_counted']:,} tokens of the target's answers to "
        f"other prompts counted, {' and '.join(map(str, found['n_texts_measured'].values()))} answers measured; beside "
        "all rows, paired by text:",
        "",
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
    ]
    for name, line in found["by_k"].items():
        ratios = line["block_efficiency_to_all_rows"]
        shares = (f"{100 * line[part]:.1f} %" for part in ("coverage_counted", "coverage_measured"))
        cells = [name, f"{line['k']:,}", *shares]
        for shape in shapes:
            beside = "" if name == "all rows" else f", {ranged(ratios[shape])}"
            cells.append(f"{line['tokens_a_pass'][shape]:.2f}{beside}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _times(times: dict[str, Any], memory: dict[str, Any]) -> list[str]:
    step = times["step_ms"]["1"]
    lines = [
        f"A 0.5b-shaped drafter of {times['n_vocab']:,} rows under a 1b-shaped f16 target, cut to {times['k']:,} "
        f"({times['bytes']['full'] / 1e6:.0f} and {times['bytes']['trimmed'] / 1e6:.0f} MB): a draft step takes "
        f"{step['full']:.1f} and {step['trimmed']:.1f} ms, {ranged(step['full_over_trimmed'])}. Its added tokens never "
        "come up, so both draft the same:",
        "",
        "| drafts | tokens a pass | tokens/s, all rows | tokens/s, trimmed | gain | gain that the split promises | "
        "one over the other |",
        "|" + " --- |" * 7,
    ]
    for name, own in times["answers"].items():
        rate = own["tokens_per_second"]
        cells = [name, f"{own['tokens_a_pass'][0]:.2f}", f"{rate['full']:.2f}", f"{rate['trimmed']:.2f}"]
        promised, kept = own["gain_promised_by_the_time_split"], own["gain_over_promised"]
        cells += [ranged(own["gain"]), f"{promised:.3f}", f"{kept:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    saved = {key: n / 1e6 for key, n in memory["saved"].items()}
    return [
        *lines,
        "",
        f"Memory saved: {saved['measured_bytes']:.1f} MB, {saved['predicted_bytes']:.1f} MB predicted "
        f"({memory['saved_measured_over_predicted']:.3f}).",
    ]


def rendered(page: str) -> str:
    """The page with its figures written anew."""
    return replaced(page, "trim_table", table())


if __name__ == "__main__":
    path = ROOT / "docs" / "trim.md"
    path.write_text(rendered(path.read_text()))
