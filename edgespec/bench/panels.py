"""The four panels of a bench's figure, each drawn into axes that are handed in.

Figures are read from the object `edgespec bench --json` writes. Ink is one colour that nothing else has (grid lines
are the same ink, thinned by alpha), so that plots.py can make it follow the reader's light or dark page.

Not covered: which panels there are, the legend, files (plots.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1f2328"
FAINT, MUTED = 0.15, 0.72  # alpha of ink: lines to read by, words beside the figures
GREY = "#7a828c"
# Okabe and Ito's colours and five more; each has a contrast of 3 or better on white and on #0d1117.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c564b", "#8a6fe8", "#a8730a", "#0e8a9c", "#c2314f")
PANEL_WIDTH_PT = 400  # about what the axes of a panel get; only decides which labels have room
N_LENGTHS = 17  # columns of the histogram; longer paths are counted in the last one
SMALL, TINY = 8.0, 7.0

Figures = Mapping[str, Mapping[str, Any]]


def colours(methods: Sequence[str]) -> dict[str, str]:
    """One colour for each method, in every panel the same: grey for plain, the palette in order for the others."""
    others = [name for name in methods if name != "plain"]
    return {"plain": GREY} | {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(others)}


def shortened(name: str, n_most: int) -> str:
    """The name, its middle left out when it is longer than n_most characters."""
    half = (n_most - 1) // 2
    return name if len(name) <= n_most else f"{name[: n_most - 1 - half]}…{name[-half:]}"


def acceptance(axes: Axes, drafted: Figures, colour: Mapping[str, str]) -> None:
    """One row of bars a method: which share of its passes accepted 0, 1, 2, ... drafted tokens."""
    shares = {name: _shares(figures["accepted_lengths"]) for name, figures in drafted.items()}
    n_columns = max(map(len, shares.values()))
    highest = max(max(share) for share in shares.values())
    size = SMALL if len(shares) <= 5 else TINY - 0.5
    for row, (name, share) in enumerate(reversed(shares.items())):
        heights = [0.68 * x / highest for x in share]
        axes.bar(range(len(share)), heights, width=0.82, bottom=row, color=colour[name], linewidth=0)
        axes.axhline(row, color=INK, alpha=2 * FAINT, linewidth=0.8)
        for x, (height, part) in enumerate(zip(heights, share, strict=True)):
            if part >= 0.005:
                axes.annotate(f"{100 * part:.0f}", (x, row + height), (0, 1.5), textcoords="offset points", ha="center",
                              va="bottom", fontsize=size - 1, color=INK, alpha=MUTED)  # fmt: skip
        rate = drafted[name].get("acceptance_rate")
        mean = drafted[name].get("tokens_per_pass")
        note = [f"{mean:.2f} tokens"] if mean is not None else []
        note += [f"{100 * rate:.0f} % accepted"] if rate is not None else []
        axes.annotate("\n".join(note), (1, row + 0.1), (6, 0), xycoords=axes.get_yaxis_transform(),
                      textcoords="offset points", va="bottom", fontsize=size, color=INK)  # fmt: skip
    _headings(axes, "Accepted tokens in a pass", "% of passes; beside it: mean tokens a pass, share of drafts accepted")
    axes.set_xlim(-0.6, n_columns - 0.4)
    axes.set_ylim(0, len(shares))
    ticks = [str(x) for x in range(n_columns)]
    if any(len(figures["accepted_lengths"]) > N_LENGTHS for figures in drafted.values()):
        ticks[-1] += "+"
    axes.set_xticks(range(n_columns), ticks)
    axes.set_yticks([row + 0.25 for row in range(len(shares))], [shortened(name, 20) for name in reversed(shares)])
    axes.set_xlabel("drafted tokens accepted")


def speed(axes: Axes, methods: Figures, colour: Mapping[str, str]) -> None:
    """A group of bars a category, one bar a method, with a line from its low to its high figure."""
    names = list(dict.fromkeys(name for figures in methods.values() for name in figures.get("categories") or {}))
    groups = names if len(names) == 1 else ["all", *names]
    width = min(0.84 / len(methods), 0.3)
    roomy = PANEL_WIDTH_PT / len(groups) * width >= 3.1 * TINY
    for i, (method, figures) in enumerate(methods.items()):
        parts = {**(figures.get("categories") or {}), **({} if len(names) == 1 else {"all": figures})}
        for at, group in enumerate(groups):
            figure = parts.get(group) or {}
            value, x = figure.get("tokens_per_second"), at + (i - (len(methods) - 1) / 2) * width
            if value is None:
                continue
            low, high = (figure.get(f"tokens_per_second_{end}") for end in ("low", "high"))
            axes.bar(x, value, width=width * 0.9, color=colour[method], linewidth=0)
            if low is not None and high is not None:
                axes.vlines(x, low, high, color=INK, linewidth=1.1)
            if roomy:
                axes.annotate(f"{value:.1f}", (x, max(value, high or 0)), (0, 2), textcoords="offset points",
                              ha="center", va="bottom", fontsize=TINY, color=INK, alpha=MUTED)  # fmt: skip
    _headings(axes, "Tokens per second" + (" by category" if names else ""), "bar: median; line: low to high")
    slot = PANEL_WIDTH_PT / len(groups) / (0.62 * SMALL)
    turned = max(map(len, groups)) > slot
    axes.set_xticks(range(len(groups)), [shortened(group, 20 if turned else 60) for group in groups])
    if turned:
        axes.tick_params(axis="x", labelrotation=30)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    if len(groups) > 1 and groups[0] == "all":
        axes.get_xticklabels()[0].set_fontweight("bold")
        axes.axvline(0.5, color=INK, alpha=2 * FAINT, linewidth=0.8)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_ylabel("tokens/s")
    axes.margins(y=0.1)
    axes.set_ylim(bottom=0)
    _grid(axes)


def cost(axes: Axes, ceilings: Mapping[str, Any]) -> None:
    """Milliseconds of a pass by its rows, each level held until the next measured width, over the bandwidth's limit.

    Both axes are logarithmic: level ground is rows for nothing, and the narrow passes keep their share of the paper.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    curve = ceilings["curve"]
    rows, ms = list(curve["rows"]), list(curve["ms"])
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.step(rows, ms, where="post", color=INK, linewidth=1.6)
    axes.plot(rows, ms, "o", color=INK, markersize=3.5)
    powers = [2**i for i in range(max(rows).bit_length()) if min(rows) <= 2**i <= max(rows)]
    for n, value in zip(rows, ms, strict=True):
        if n in powers and rows[0] == 1:
            axes.annotate(f"{value / ms[0]:.1f}×", (n, value), (0, 5), textcoords="offset points", ha="center",
                          va="bottom", fontsize=SMALL, color=INK)  # fmt: skip
    lowest, highest = min(ms) / 2, max(ms)
    if ceilings.get("bandwidth_bytes_per_s") and ceilings.get("bytes_per_token"):
        limit = 1000 * ceilings["bytes_per_token"] / ceilings["bandwidth_bytes_per_s"]
        lowest, highest = min(lowest, 0.7 * limit), max(highest, limit)
        axes.axhline(limit, color=INK, alpha=MUTED, linewidth=1.6, linestyle=":")
        axes.annotate(f"memory bandwidth allows {limit:.3g} ms", (1, limit), (-3, -3), va="top", ha="right",
                      xycoords=axes.get_yaxis_transform(), textcoords="offset points", fontsize=SMALL,
                      color=INK)  # fmt: skip
    _headings(axes, "Cost of a pass", f"target at depth {curve.get('depth')}, log scales; labels: times a single row")
    axes.set_xticks(powers, [str(n) for n in powers])
    axes.yaxis.set_major_locator(LogLocator(10, (1, 2, 5) if highest > 8 * lowest else (1, 1.5, 2, 3, 4, 5, 7)))
    axes.yaxis.set_major_formatter("{x:g}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.set_xlim(min(rows) / 1.25, max(rows) * 1.25)
    axes.set_ylim(lowest, 1.5 * highest)
    axes.set_xlabel("rows in the pass")
    axes.set_ylabel("ms")
    _grid(axes)


@dataclass(frozen=True)
class _Bar:
    """One row of the memory panel, in its unit; a thin one is the total of a method that is not taken apart."""

    label: str
    left: float
    end: float
    text: str
    colour: str
    alpha: float = 1.0
    thin: bool = False


def memory(axes: Axes, held: Figures, colour: Mapping[str, str]) -> None:
    """The stages of the method that holds most, one after the other up to its total; under it the others' totals.

    held has only methods whose memory was measured.
    """
    large = max(figures["memory"]["pss_bytes"] for figures in held.values()) >= 1e9
    y, at = 0.0, []
    bars = _memory_bars(held, colour, 1e9 if large else 1e6, ".2f" if large else ".0f")
    for i, bar in enumerate(bars):
        total = not bar.thin and bar.alpha == 1
        if i:
            y += 0.75 if bar.thin else 1
            y += 0.3 if bar.thin and not bars[i - 1].thin else 0
        axes.barh(y, bar.end - bar.left, 0.3 if bar.thin else 0.7, bar.left, color=bar.colour, alpha=bar.alpha)
        axes.annotate(bar.text, (max(bar.left, bar.end), y), (4, 0), textcoords="offset points", va="center",
                      fontsize=SMALL, color=INK, fontweight="bold" if total else "normal")  # fmt: skip
        if bar.alpha < 1:
            axes.vlines(bar.end, y, y + 1, color=INK, alpha=2 * FAINT, linewidth=0.8)
        at.append(y)
    _headings(axes, "Memory", "resident (PSS): the stages of the method with most, then the other totals")
    axes.set_yticks(at, [bar.label for bar in bars])
    axes.set_ylim(y + 0.6, -0.6)
    edge = max(max(bar.left, bar.end) for bar in bars)
    axes.set_xlim(min(0.0, *(bar.end for bar in bars)), edge * (1.5 if any("+ " in bar.text for bar in bars) else 1.16))
    axes.set_xlabel("GB (decimal)" if large else "MB (decimal)")


def _memory_bars(held: Figures, colour: Mapping[str, str], scale: float, form: str) -> list[_Bar]:
    """Stages and total of the method that holds most, then the other totals, in units of scale bytes."""
    devices = {name: figures["memory"].get("device_bytes") or 0 for name, figures in held.items()}
    most = max(held, key=lambda name: held[name]["memory"]["pss_bytes"] + devices[name])
    bars, reached = [], 0.0
    for stage in held[most]["memory"].get("stages") or ():
        end = reached + stage["bytes"] / scale
        text = f"{stage['bytes'] / scale:+{form}}".replace("-", "−")
        bars.append(_Bar(shortened(stage["what"], 24), reached, end, text, colour[most], alpha=0.55))
        reached = end
    for name in sorted(held, key=lambda name: name != most):
        total = held[name]["memory"]["pss_bytes"] / scale
        text = f"{total:{form}}" + (f" + {devices[name] / scale:{form}} on the device" if devices[name] else "")
        label = shortened(name, 20) + (" in all" if name == most else "")
        bars.append(_Bar(label, 0, total, text, colour[name], thin=name != most))
    return bars


def _shares(counts: Sequence[int]) -> list[float]:
    """Share of each length, without empty ones at the end, what is past N_LENGTHS counted in the last."""
    kept = [*counts[: N_LENGTHS - 1], sum(counts[N_LENGTHS - 1 :])]
    while len(kept) > 1 and not kept[-1]:
        kept.pop()
    return [n / sum(counts) for n in kept]


def _headings(axes: Axes, title: str, note: str) -> None:
    """What the panel shows, and in small how to read it."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=19)
    axes.annotate(note, (0, 1), (0, 7), xycoords="axes fraction", textcoords="offset points", fontsize=SMALL,
                  color=INK, alpha=MUTED)  # fmt: skip


def _grid(axes: Axes) -> None:
    """Light lines to read a height off, behind what is drawn."""
    axes.grid(axis="y", color=INK, alpha=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
