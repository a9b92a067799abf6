"""The report's charts: matplotlib's SVG in the page's own colours and font, with lines that sliders move."""

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import matplotlib.colors
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

_MARK, _INK, _GRID = "#010203", "#010204", "#010205"
_COLOURS = {_MARK: "var(--mark)", _INK: "var(--ink)", _GRID: "var(--grid)"}
"""Colours that stand for those of the page, which are others in the dark."""

_FAINTEST = 0.3
"""Opacity of a cell that holds one face; the fullest has 1."""


@dataclass(frozen=True)
class Cut:
    """A line across a chart at a threshold: its slider's name, and whether it stands (x) or lies (y)."""

    slider: str
    along: str = "x"


def bars(edges: Sequence[float], counts: Sequence[int], label: str, name: str, cut: Cut | None = None) -> str:
    """A histogram as an SVG element.

    Args:
        edges: (N + 1,) rising.
        counts: (N,).
        label: below the horizontal axis.
        name: what the chart shows, for screen readers.
        cut: the threshold that is drawn in it.
    """
    figure, axes = _figure(4.6, 2.3)
    heights = np.asarray(counts)
    drawn = axes.bar(edges[:-1], heights, np.diff(edges), align="edge", color=_MARK, edgecolor="none")
    told = {}
    for number, (bar, low, high, count) in enumerate(zip(drawn, edges, edges[1:], counts, strict=False)):
        bar.set_gid(f"bar{number}")
        told[f"bar{number}"] = f"{label} {low:g} to {high:g}: {count:,}"
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel(label)
    axes.set_ylabel("frames")
    axes.grid(axis="y", color=_GRID, linewidth=0.6)
    return _svg(figure, axes, name, told, [cut] if cut else [])


def cells(
    edges: tuple[Sequence[float], Sequence[float]],
    counts: np.ndarray,
    labels: tuple[str, str],
    name: str,
    cuts: Sequence[Cut],
) -> str:
    """A two-dimensional histogram as an SVG element, darker by the logarithm of the count.

    Args:
        edges: (N + 1,) and (M + 1,) rising, along the horizontal and the vertical axis.
        counts: (N, M).
        labels: of the axes.
        name: what the chart shows, for screen readers.
        cuts: the thresholds that are drawn in it.
    """
    figure, axes = _figure(4.6, 3.6)
    (xs, ys), most = edges, max(2, int(counts.max(initial=0)))
    filled = np.argwhere(counts)
    boxes = [Rectangle((xs[i], ys[j]), xs[i + 1] - xs[i], ys[j + 1] - ys[j]) for i, j in filled]
    shades = [_FAINTEST + (1 - _FAINTEST) * np.log(counts[i, j]) / np.log(most) for i, j in filled]
    colour = mpl.colors.to_rgb(_MARK)
    patches = PatchCollection(boxes, facecolors=[(*colour, shade) for shade in shades], edgecolors="none")
    axes.add_collection(patches)
    axes.set_xlim(xs[0], xs[-1])
    axes.set_ylim(ys[0], ys[-1])
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(color=_GRID, linewidth=0.6)
    return _svg(figure, axes, name, {}, cuts)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0.62 / width, 0.52 / height, 1 - 0.76 / width, 1 - 0.64 / height))
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_INK)
    axes.tick_params(colors=_INK, labelsize=9, length=0, pad=5)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(_INK)
        text.set_fontsize(9.5)
    axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: _short(value)))
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(4, integer=True))
    return figure, axes


def _short(value: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _svg(figure: Figure, axes: Axes, name: str, told: dict[str, str], cuts: Sequence[Cut]) -> str:
    written = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    text = written.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    for mark, title in told.items():
        body = body.replace(f'<g id="{mark}">', f"<g><title>{html.escape(title)}</title>")
    # matplotlib's ids are the same in every chart; only those that something points at have a use.
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    for colour, variable in _COLOURS.items():
        body = body.replace(colour, variable)
    width, height = (side * 72 for side in figure.get_size_inches())
    lines = "".join(_line(cut, axes, width, height) for cut in cuts)
    return (
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{html.escape(name)}">{body}{lines}</svg>'
    )


def _line(cut: Cut, axes: Axes, width: float, height: float) -> str:
    """The threshold's line, at the low end; the page moves it by what is noted on it."""
    place = axes.get_position()
    left, right = place.x0 * width, place.x1 * width
    top, bottom = (1 - place.y1) * height, (1 - place.y0) * height
    upright = cut.along == "x"
    start, end = (left, right) if upright else (bottom, top)
    low, high = axes.get_xlim() if upright else axes.get_ylim()
    ends = (left, top, left, bottom) if upright else (left, bottom, right, bottom)
    x1, y1, x2, y2 = (f"{value:.2f}" for value in ends)
    return (
        f'<line class="cut" data-slider="{cut.slider}" data-along="{cut.along}" data-start="{start:.2f}" '
        f'data-end="{end:.2f}" data-low="{low:g}" data-high="{high:g}" '
        f'x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'
    )
