"""The figure of `edgespec bench --plot FILE.svg|png`: what was accepted, how fast, what a pass costs, what memory.

matplotlib is an extra of the package and is imported only when something is drawn, through its objects (Figure and
canvases), never pyplot. An SVG has no background and takes its ink from the reader's light or dark page; a PNG is
opaque and light. The same result gives the same bytes.

Not covered: measuring, and the panels themselves (panels.py).
"""

from __future__ import annotations

import io
import logging
import os
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from edgespec.bench import panels
from edgespec.bench.panels import INK, MUTED
from edgespec.errors import BadSetting, EdgespecError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN, PANEL_IN = 12.0, 4.0
DARK_INK = "#e6edf3"  # of a dark page; panels.INK is that of a light one
SETTINGS: Any = {  # matplotlib types the names of its settings from 3.11 on
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so a layout is the same on every machine
    "font.size": 9.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "edgespec",
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


def check(path: Path) -> None:
    """Raises what draw would raise before it draws: BadSetting for a name, a folder or a library that will not do."""
    if path.suffix.lower() not in (".svg", ".png"):
        raise BadSetting(f"cannot draw to {path}: the name of a plot ends in .svg or .png")
    if not path.parent.is_dir():
        raise BadSetting(f"cannot draw to {path}: there is no folder {path.parent}; make it or name another")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise BadSetting(f"cannot draw to {path}: it cannot be written there; name another file")
    with _quiet():
        try:
            import matplotlib.figure  # noqa: F401
        except ImportError as error:
            raise BadSetting(
                f"a plot needs matplotlib, which cannot be loaded ({error}); pip install matplotlib"
            ) from error


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Writes the figure of a bench result whole or not at all; a panel without figures is left out.

    Raises what check raises, BadSetting when no panel has figures, EdgespecError when the file cannot be written.
    """
    check(path)
    kind = path.suffix.lower().removeprefix(".")
    with _quiet():
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()  # a matplotlibrc of the user's must not change what is drawn
            matplotlib.rcParams.update(SETTINGS)
            _write(path, _svg(_figure(result), result) if kind == "svg" else _png(_figure(result)))


def _figure(result: Mapping[str, Any]) -> Figure:
    """Title, legend and the panels there are figures for, two in a row."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    methods: panels.Figures = result["methods"]
    colour = panels.colours(list(methods))
    found = _panels(result, colour)
    if not found:
        raise BadSetting("there is nothing to plot: no method gave figures and no cost of a pass was measured")
    names = _legend_names(methods)
    width = WIDTH_IN if len(found) > 1 else 0.7 * WIDTH_IN
    n_columns = _n_columns([len(name) for name in names.values()], 72 * width)
    header = 0.72 + 0.23 * -(-len(names) // n_columns)
    n_rows = (len(found) + 1) // 2
    height = header + PANEL_IN * n_rows
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine(
        ConstrainedLayoutEngine(rect=(0.005, 0, 0.99, 1 - header / height), w_pad=0.12, h_pad=0.12)
    )
    _header(figure, result, names, colour, n_columns)
    grid = figure.add_gridspec(n_rows, min(2, len(found)))
    for i, panel in enumerate(found):
        alone = i == len(found) - 1 and i % 2 == 0
        axes = figure.add_subplot(grid[i // 2, :] if alone else grid[i // 2, i % 2])
        axes.tick_params(labelsize=panels.SMALL, length=0)
        panel(axes)
        for spine in axes.spines.values():
            spine.set_alpha(2 * panels.FAINT)
    return figure


def _panels(result: Mapping[str, Any], colour: Mapping[str, str]) -> list[Callable[[Axes], None]]:
    """The panels that have something to show, in reading order."""
    methods: panels.Figures = result["methods"]
    drafted = {name: f for name, f in methods.items() if name != "plain" and sum(f.get("accepted_lengths") or ())}
    held = {name: f for name, f in methods.items() if f.get("memory")}
    ceilings = result.get("ceilings") or {}
    found: list[Callable[[Axes], None]] = []
    if any(f.get("tokens_per_second") is not None for f in methods.values()):
        found.append(partial(panels.speed, methods=methods, colour=colour))
    if drafted:
        found.append(partial(panels.acceptance, drafted=drafted, colour=colour))
    if (ceilings.get("curve") or {}).get("rows"):
        found.append(partial(panels.cost, ceilings=ceilings))
    if held:
        found.append(partial(panels.memory, held=held, colour=colour))
    return found


def _legend_names(methods: panels.Figures) -> dict[str, str]:
    """Each method with its figure in one: tokens a second of plain, and how many times that the others reach."""
    names = {}
    for name, f in methods.items():
        speed, ratio = f.get("tokens_per_second"), f.get("ratio_to_plain")
        names[name] = panels.shortened(name, 20)
        if name != "plain" and ratio is not None:
            names[name] += f": {ratio:.2f}× plain"
        elif speed is not None:
            names[name] += f": {speed:,.0f} tokens/s" if speed >= 100 else f": {speed:.3g} tokens/s"
    return names


def _n_columns(lengths: Sequence[int], room_pt: float) -> int:
    """How many legend entries of so many letters fit side by side when they are read row by row."""
    for n in range(len(lengths), 1, -1):
        if sum(38 + 5.6 * max(lengths[column::n]) for column in range(n)) <= room_pt:
            return n
    return 1


def _header(
    figure: Figure, result: Mapping[str, Any], names: Mapping[str, str], colour: Mapping[str, str], n_columns: int
) -> None:
    """Title, settings and the one legend, from the top left corner down."""
    from matplotlib.patches import Patch

    height, left = figure.get_figheight(), 0.012
    draft = f", drafted by {panels.shortened(str(result['draft']), 40)}" if result.get("draft") else ""
    title = panels.shortened(str(result["model"]), 60) + draft
    figure.text(left, 1 - 0.14 / height, title, fontsize=15, fontweight="bold", va="top")
    figure.text(left, 1 - 0.47 / height, _note(result), fontsize=panels.SMALL + 0.5, alpha=MUTED, va="top")
    patches = [Patch(facecolor=colour[name], label=label) for name, label in names.items()]
    by_row = [patch for column in range(n_columns) for patch in patches[column::n_columns]]
    figure.legend(handles=by_row, loc="upper left", bbox_to_anchor=(left, 1 - 0.68 / height), ncols=n_columns,
                  frameon=False, fontsize=9.5, borderpad=0, borderaxespad=0, handlelength=1.0, handleheight=0.9,
                  columnspacing=1.8).set_in_layout(False)  # fmt: skip


def _note(result: Mapping[str, Any]) -> str:
    """How it was measured, in one line: answers, settings, failures."""
    counts = [f.get("n_answers") or 0 for f in result["methods"].values()]
    said = [f"{max(counts)} answers a method"] if any(counts) else []
    settings = result.get("settings") or {}
    said += [f"{key} {value}" for key, value in settings.items() if isinstance(value, (bool, int, float, str))]
    if result.get("failures"):
        said.insert(0, f"{len(result['failures'])} failed")
    return textwrap.shorten(" · ".join(said), 150, placeholder=" …")


def _png(figure: Figure) -> bytes:
    """Opaque and light."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def _svg(figure: Figure, result: Mapping[str, Any]) -> bytes:
    """Without background, its ink set by a style sheet, with a title and a description for those who cannot see it."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    source = out.getvalue().decode()
    for kind in ("fill", "stroke"):
        source = source.replace(f"{kind}: {INK}", f"{kind}: currentColor")
    start = source.index(">", source.index("<svg ")) + 1
    style = f"svg {{ color: {INK} }} @media (prefers-color-scheme: dark) {{ svg {{ color: {DARK_INK} }} }}"
    said = f"<title>{escape(_title(result))}</title>\n <desc>{escape(_description(result))}</desc>"
    head = f'{source[: start - 1]} role="img">\n {said}\n <style type="text/css">{style}</style>'
    return (head + source[start:]).encode()


def _title(result: Mapping[str, Any]) -> str:
    return f"edgespec bench of {result['model']}"


def _description(result: Mapping[str, Any]) -> str:
    """The figures of the bars in words, every name whole."""
    sentences = []
    for name, figures in result["methods"].items():
        parts = {"all": figures, **(figures.get("categories") or {})}
        known = {part: f.get("tokens_per_second") for part, f in parts.items()}
        said = ", ".join(f"{part} {speed:.1f}" for part, speed in known.items() if speed is not None)
        sentences.append(f"{name}, tokens per second: {said or 'none'}.")
    return " ".join(sentences)


def _write(path: Path, content: bytes) -> None:
    """The file whole, by a neighbour that takes its place."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            part.write_bytes(content)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise EdgespecError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without matplotlib's remarks about its font cache, a home it cannot write to, or a letter its font lacks."""
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            yield
    finally:
        logger.setLevel(before)
