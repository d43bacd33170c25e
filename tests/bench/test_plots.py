"""The figure of `edgespec bench --plot`: what is on it, and that it is there whole or not at all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from edgespec.bench import panels, plots
from edgespec.errors import BadSetting, EdgespecError

SVG = "{http://www.w3.org/2000/svg}"
TITLES = {"Tokens per second by category", "Accepted tokens in a pass", "Cost of a pass", "Memory"}


def figures(speed: float, lengths: list[int], *categories: str) -> dict[str, Any]:
    """What a bench says of one method; 0.1 + 2.0 - 0.1 GB of memory."""
    answers = {
        "n_answers": 8, "n_tokens": 500, "tokens_per_second": speed, "tokens_per_second_low": speed - 1,
        "tokens_per_second_high": speed + 1, "tokens_per_pass": 1.5, "acceptance_rate": 0.6 if lengths else None,
        "accepted_lengths": lengths, "ratio_to_plain": speed / 8,
    }  # fmt: skip
    stages = [{"what": "program", "bytes": 10**8}, {"what": "weights", "bytes": 2 * 10**9},
              {"what": "answering", "bytes": -(10**8)}]  # fmt: skip
    memory = {"pss_bytes": 2 * 10**9, "device_bytes": None, "stages": stages}
    return answers | {"memory": memory, "categories": {name: dict(answers) for name in categories}}


def bench(categories: tuple[str, ...] = ("code", "chat")) -> dict[str, Any]:
    """A whole result with three methods."""
    return {
        "model": "demo", "draft": "demo-draft", "settings": {"max_tokens": 64, "temperature": 0.0},
        "ceilings": {
            "bandwidth_bytes_per_s": 4e10, "bytes_per_token": 2e9, "limit_tokens_per_s": 20.0,
            "curve": {"depth": 256, "rows": [1, 2, 3, 4], "ms": [100.0, 110.0, 110.0, 250.0]},
        },
        "methods": {
            "plain": figures(8.0, [], *categories),
            "chain": figures(10.0, [50, 30, 20], *categories),
            "tree": figures(12.0, [40, 30, 20, 10], *categories),
        },
        "failures": [],
    }  # fmt: skip


def drawn(result: dict[str, Any], folder: Path) -> tuple[str, set[str]]:
    """The source of the SVG, and every text on it."""
    path = folder / "plot.svg"
    plots.draw(result, path)
    source = path.read_text()
    return source, {"".join(text.itertext()).strip() for text in ElementTree.fromstring(source).iter(f"{SVG}text")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, set[str]]:
    """Source and texts of the figure of the whole result."""
    return drawn(bench(), tmp_path_factory.mktemp("whole"))


def without(result: dict[str, Any], panel: str) -> dict[str, Any]:
    """The result without what one panel shows."""
    for method in result["methods"].values():
        if panel == "Memory":
            method["memory"] = None
        elif panel == "Accepted tokens in a pass":
            method["accepted_lengths"] = []
        elif panel == "Tokens per second by category":
            method["tokens_per_second"] = None
    if panel == "Cost of a pass":
        result["ceilings"] = None
    return result


def test_every_panel_method_and_category_is_named_in_text(whole: tuple[str, set[str]]) -> None:
    """Text drawn as outlines could be neither searched nor read aloud."""
    texts = {"all", "code", "chat", "plain: 8 tokens/s", "chain: 1.25× plain", "tree: 1.50× plain", "chain", "tree"}
    assert whole[1] >= TITLES | texts


def test_a_name_is_drawn_as_it_is_written_and_stands_whole_somewhere(tmp_path: Path) -> None:
    """matplotlib takes $...$ for mathematics, XML takes & and < for its own, and labels cut a long name short."""
    odd, long = "a<b & $x_1$ 中", "retrieval-augmented question answering"
    source, texts = drawn(bench((odd, long)), tmp_path)
    assert texts >= {odd, "retrieval-…answering"}
    assert long in source


def test_the_panels_say_the_figures_worked_by_hand(whole: tuple[str, set[str]]) -> None:
    """50 of 100 passes, 250 ms over 100 ms, 2e9 bytes at 4e10 a second, -1e8 bytes: a wrong divisor would show here."""
    _, texts = whole
    assert {"50", "2.5×", "memory bandwidth allows 50 ms", "+0.10", "+2.00", "−0.10", "2.00"} <= texts


@pytest.mark.parametrize("panel", sorted(TITLES))
def test_a_panel_without_figures_is_left_out(panel: str, tmp_path: Path) -> None:
    """Not every machine can measure memory, and not every bench measures the ceilings."""
    _, texts = drawn(without(bench(("code",)), panel), tmp_path)
    assert texts & TITLES == TITLES - {panel}


def test_a_bench_without_any_figures_is_refused(tmp_path: Path) -> None:
    """An empty picture would pass for a result."""
    with pytest.raises(BadSetting, match="nothing to plot"):
        plots.draw(bench() | {"methods": {}, "ceilings": None}, tmp_path / "plot.svg")
    assert not list(tmp_path.iterdir())


def test_an_svg_takes_its_ink_from_a_light_or_dark_page(whole: tuple[str, set[str]]) -> None:
    """Black text on a dark page cannot be read, and a white ground on one blinds."""
    source, _ = whole
    assert f"@media (prefers-color-scheme: dark) {{ svg {{ color: {plots.DARK_INK} }} }}" in source
    assert source.count(panels.INK) == 1  # in the style sheet; all else says currentColor
    assert "#ffffff" not in source


def test_an_svg_says_what_it_is_to_those_who_cannot_see_it(whole: tuple[str, set[str]]) -> None:
    """A screen reader gets the title and description of a picture, or nothing."""
    root = ElementTree.fromstring(whole[0])
    assert root.findtext(f"{SVG}title") == "edgespec bench of demo"
    assert "tree, tokens per second: all 12.0, code 12.0, chat 12.0." in (root.findtext(f"{SVG}desc") or "")


@pytest.mark.parametrize("ground", ["#ffffff", "#0d1117"])
def test_every_colour_stands_out_on_both_grounds(ground: str) -> None:
    """WCAG 2.1 asks a contrast of 3 of graphical objects; one palette serves both grounds."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return sum(x * weight for x, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    for colour in (panels.GREY, *panels.PALETTE):
        dark, light = sorted((luminance(colour), luminance(ground)))
        assert (light + 0.05) / (dark + 0.05) >= 3, colour


def test_plain_is_grey_and_a_method_keeps_its_colour() -> None:
    """Two panels with two colours for one method would be read as two methods."""
    names = ["plain", *(f"method{i}" for i in range(9))]
    colour = panels.colours(names)
    assert colour["plain"] == panels.GREY
    assert len({colour[name] for name in names}) == 10


def test_the_same_result_gives_the_same_bytes(whole: tuple[str, set[str]], tmp_path: Path) -> None:
    """A date or random ids would make a commit of every redrawing."""
    assert drawn(bench(), tmp_path)[0] == whole[0]


def test_a_png_is_opaque_and_dateless_and_a_suffix_counts_in_either_case(tmp_path: Path) -> None:
    """PNG cannot follow the page, so it brings its own ground."""
    from matplotlib.image import imread

    plots.draw(bench(), tmp_path / "plot.PNG")
    content = (tmp_path / "plot.PNG").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert b"tEXt" not in content
    assert b"tIME" not in content
    assert imread(tmp_path / "plot.PNG", format="png")[0, 0].tolist() == [1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("n_methods", "n_categories"), [(2, 1), (10, 8)])
def test_no_two_words_of_the_figure_touch(n_methods: int, n_categories: int) -> None:
    """Long names and many bars are where a figure that looked well once falls apart."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    result = bench(tuple(f"a category with a long name, {i}" for i in range(n_categories)))
    speculative = {f"speculator-with-a-long-name-{i}": figures(9.0 + i, [90 - i] * 12) for i in range(n_methods - 1)}
    result["methods"] = {"plain": result["methods"]["plain"]} | speculative
    with matplotlib.rc_context(plots.SETTINGS):
        figure = plots._figure(result)
        FigureCanvasAgg(figure).draw()
        texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text() and text.get_visible()]
        boxes = [(t.get_text(), t.get_window_extent().shrunk(0.95, 0.8)) for t in texts if t.get_rotation() in (0, 90)]
    for i, (words, box) in enumerate(boxes):
        assert box.x0 >= 0, words
        assert box.x1 <= figure.bbox.x1, words
        for others, other in boxes[:i]:
            assert not box.overlaps(other), (words, others)


@pytest.mark.parametrize("name", ["plot.pdf", "plot", ".svg"])
def test_another_suffix_is_refused_before_anything_is_measured(name: str, tmp_path: Path) -> None:
    """A bench takes half an hour; its plot must not fail at the end of it."""
    with pytest.raises(BadSetting, match=r"ends in \.svg or \.png"):
        plots.check(tmp_path / name)


def test_a_missing_folder_and_a_folder_in_the_way_are_refused(tmp_path: Path) -> None:
    """The same, for what cannot be written to."""
    with pytest.raises(BadSetting, match=f"there is no folder {re.escape(str(tmp_path / 'none'))}"):
        plots.check(tmp_path / "none" / "plot.svg")
    (tmp_path / "plot.svg").mkdir()
    with pytest.raises(BadSetting, match="cannot be written"):
        plots.check(tmp_path / "plot.svg")


def test_without_matplotlib_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra; a traceback would not say which."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BadSetting, match="pip install matplotlib"):
        plots.check(tmp_path / "plot.svg")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk must not cost the figure of yesterday."""
    path = tmp_path / "plot.svg"
    path.write_text("yesterday")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(EdgespecError, match=r"cannot write .*plot\.svg: No space left"):
        plots.draw(bench(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["plot.svg"]
    assert path.read_text() == "yesterday"


def test_the_module_costs_nothing_and_a_home_that_cannot_be_written_says_nothing(tmp_path: Path) -> None:
    """matplotlib takes a second to import, and remarks on stderr when it cannot keep its font cache."""
    code = (
        "import sys; from pathlib import Path; from edgespec.bench import plots;"
        "assert 'matplotlib' not in sys.modules;"
        f"plots.check(Path({str(tmp_path / 'plot.svg')!r})); assert 'matplotlib.pyplot' not in sys.modules"
    )
    env = os.environ | {"MPLCONFIGDIR": os.devnull + "/none", "HOME": os.devnull + "/none"}
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], env=env, capture_output=True, text=True,
                         cwd=Path(__file__).parents[2], check=False)  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
