"""Writes docs/control.md's tables of measured figures from results/control-*.json and ablation.json.

`python benchmarks/control_table.py` rewrites them in place; a test holds the two together.
"""

from __future__ import annotations

from typing import Any

from tables import RESULTS, ROOT, load, ranged, replaced

SHAPES = {"1b-f16": "1B shape, f16", "1b-q4_0": "1B shape, Q4_0", "moe-q4_0": "mixture of experts, Q4_0"}
FREE = "auto, no drafter"


def table() -> str:
    lines: list[str] = []
    for name, shown in SHAPES.items():
        if (RESULTS / f"control-{name}.json").exists():
            lines += [*_shape(name, shown), ""]
    return "\n".join([*lines, *_ablation()])


def _shape(name: str, shown: str) -> list[str]:
    result = load(f"control-{name}")
    lines = [f"**{shown}** ([figures](../benchmarks/results/control-{name}.json)). {_recorded(result)}"]
    for part, found in result.items():
        if part.startswith("generated"):
            lines += ["", f"{_title(part, found)}:", "", *_generated(found)]
            alone = result.get(part.replace("generated", "alone"))
            if alone:
                lines += ["", f"Without a drafter on {alone['n_texts']} more texts: {_alone(alone)}."]
            lines += ["", _useless(found)]
    return lines


def _recorded(result: dict[str, Any]) -> str:
    said = []
    for part, words in (("replay", "Recorded answers"), ("copies", "answers that copy their context")):
        if part in result:
            ratio = result[part]["ratio_to_plain"]["overall"][FREE]
            said.append(f"{words} without a drafter: {ranged(ratio)}, {result[part]['n_texts']} of them")
    return "; ".join(said) + "." if said else ""


def _title(part: str, found: dict[str, Any]) -> str:
    temperature = part.rsplit(" ", 1)[1]
    repeats = f", {found['n_repeats']} repeats" if found["n_repeats"] > 1 else ""
    return f"Generated text at temperature {temperature}, {found['n_texts']} texts{repeats}"


def _generated(found: dict[str, Any]) -> list[str]:
    ratios, best = found["ratio_to_plain"], found.get("auto_over_best_fixed", {})
    names = sorted(ratios["overall"], key=_order)
    head = ["", *names, *(["auto, drafter, over the best fixed one"] if best else [])]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for group, own in ratios.items():
        cells = [group.replace("_", " "), *(ranged(own[name]) for name in names)]
        if best:
            cells.append(f"{ranged(best[group])}, {best[group]['best']}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _order(name: str) -> int:
    return ["auto, no drafter", "chain 4", "tree 6", "tree 8", "auto, drafter", "auto, useless drafter"].index(name)


def _alone(found: dict[str, Any]) -> str:
    return ", ".join(f"{g.replace('_', ' ')} {ranged(own[FREE])}" for g, own in found["ratio_to_plain"].items())


def _useless(found: dict[str, Any]) -> str:
    arms = found["arms"].get("auto, useless drafter")
    if arms is None:
        return ""

    def drafted(rounds: dict[str, int]) -> int:
        return rounds.get("model", 0) + rounds.get("mix", 0)

    first = arms.get("first_40_rounds", {})
    return f"The useless drafter took part in {drafted(arms['rounds'])} of {sum(arms['rounds'].values())} rounds" + (
        f", {drafted(first)} of the first 40." if first else "."
    )


def _ablation() -> list[str]:
    result = load("ablation")
    lines = [
        "**What each part is worth**, every one off, one at a time, in virtual time "
        "([figures](../benchmarks/results/ablation.json)), ratios to plain:"
    ]
    for name, shown in SHAPES.items():
        kinds = result.get(f"control-{name}")
        if not kinds:
            continue
        lines += ["", f"On the curve of the {shown}:", ""]
        lines += ["| off | " + " | ".join(kinds) + " |", "|" + " --- |" * (len(kinds) + 1)]
        for part in next(iter(kinds.values())):
            cells = [f"{own[part]['ratio_to_plain']:.2f}" for own in kinds.values()]
            lines.append(f"| {'(nothing)' if part == 'all on' else part} | " + " | ".join(cells) + " |")
    return lines


def rendered(page: str) -> str:
    """The page with its tables written anew."""
    return replaced(page, "control_table", table())


if __name__ == "__main__":
    path = ROOT / "docs" / "control.md"
    path.write_text(rendered(path.read_text()))
