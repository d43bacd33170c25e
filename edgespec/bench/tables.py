"""A bench's result as tables for a terminal; the plain text of a pipe is the same without colours."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def show(result: dict[str, Any], console: Console | None = None) -> None:
    """Print the card, what was measured over all prompts, and the ratios by category; fits into 80 columns."""
    out = console or Console(soft_wrap=True, highlight=False)
    _show_card(result, out)
    tables = [_speed(result["methods"]), _costs(result["methods"])]
    if len(next(iter(result["methods"].values()))["categories"]) > 1:
        tables.append(_by_category(result["methods"]))
    for table in tables:
        out.print()
        out.print(table)
    cut = result["cut_as_loops"]
    if cut["n_answers_cut"]:
        out.print()
        out.print(
            f"{cut['n_answers_cut']} of {cut['n_answers']} answers fell into a loop and were cut there "
            f"({cut['share_of_tokens']:.0%} of the tokens)."
        )


def _show_card(result: dict[str, Any], out: Console) -> None:
    settings = result["settings"]
    what = f"{result['model']}, drafted by {result['draft']}" if result["draft"] else result["model"]
    out.print(
        f"{what}: {settings['n_prompts']} prompts of {settings['prompts']}, temperature {settings['temperature']:g}"
    )
    card = result["ceilings"]
    if card is None:
        return
    curve = ", ".join(f"{rows}: {ms:.3g}" for rows, ms in zip(card["curve"]["rows"], card["curve"]["ms"], strict=True))
    if card["limit_tokens_per_s"]:
        out.print(
            f"Ceiling of plain decoding: {card['bytes_per_token'] / 1e9:.3g} GB a token at "
            f"{card['bandwidth_bytes_per_s'] / 1e9:.3g} GB/s, {card['limit_tokens_per_s']:.3g} tokens/s."
        )
    out.print(f"ms of a pass by rows: {curve}")
    if bound := card["speculation"]:
        rows = bound["rows"]
        out.print(
            f"Bound of speculation here: {bound['speedup']:.2f} x plain, at {rows} rows"
            + (f" and {bound['tokens_per_pass_by_rows'][str(rows)]:.2f} tokens a pass." if rows > 1 else ".")
        )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _speed(methods: dict[str, Any]) -> Table:
    table = _table("method", "tokens/s", "x plain (95 %)", "x plain, whole", "of bound", "first token")
    for name, f in methods.items():
        table.add_row(
            name,
            _range(f, "tokens_per_second", ".1f"),
            _range(f, "ratio_to_plain", ".2f"),
            _number(f["answer_ratio_to_plain"], ".2f"),
            _number(f["share_of_bound"], ".0%"),
            f"{_number(f['ttft_ms'], '.0f')} ms",
        )
    return table


def _costs(methods: dict[str, Any]) -> Table:
    table = _table("method", "tokens/pass", "accepted", "target", "draft", "rest", "memory")
    for name, f in methods.items():
        memory, split = f["memory"], f["time_split"]
        table.add_row(
            name,
            _number(f["tokens_per_pass"], ".2f"),
            _number(f["acceptance_rate"], ".0%"),
            *(_number(split and split[part], ".0%") for part in ("target", "draft", "overhead")),
            f"{memory['pss_bytes'] / 1e6:.0f} MB" if memory else "-",
        )
    return table


def _by_category(methods: dict[str, Any]) -> Table:
    table = _table("x plain", *(f"{name}" for name in methods))
    for category in next(iter(methods.values()))["categories"]:
        found = (f["categories"].get(category, {}).get("ratio_to_plain") for f in methods.values())
        table.add_row(category, *(_number(ratio, ".2f") for ratio in found))
    return table


def _range(figure: dict[str, Any], name: str, form: str) -> str:
    """A value and, where it has one, its spread."""
    value = figure.get(name)
    if value is None:
        return "-"
    low, high = figure[f"{name}_low"], figure[f"{name}_high"]
    return format(value, form) if low is None or low == high else f"{value:{form}} ({low:{form}}-{high:{form}})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
