"""The geometry of the charts in the report: the template `chart.svg` draws marks, ticks and thresholds from
it.

Lengths are in units of the SVG view box. Colours and fonts come from the page, which also has a dark mode.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEFT, RIGHT, TOP, _BOTTOM = 44.6, 10.1, 8.6, 37.4
"""Margins, with room for the labels of ticks and axes."""

WIDTH, _BARS_HEIGHT, _CELLS_HEIGHT = 331.2, 165.6, 259.2
_HEADROOM = 1.05
"""Top of the vertical axis of a histogram, as a multiple of the tallest bar."""

_MIN_OPACITY = 0.3
"""Opacity of a cell with one frame; the cell with the most frames has 1."""

_MIN_HEIGHT = 0.8
"""Minimum height of a bar, so that a single frame among a million stays visible."""

_STEPS = (1, 2, 2.5, 3, 5, 10)


@dataclass(frozen=True)
class ThresholdLine:
    """A threshold line in a chart: the name of its slider, and the axis (x or y) on which the threshold
    is."""

    slider: str
    along: str = "x"


@dataclass(frozen=True)
class Mark:
    """A bar or a cell. `title` is its tooltip."""

    x: float
    y: float
    width: float
    height: float
    title: str = ""
    opacity: float = 1.0


@dataclass(frozen=True)
class Tick:
    """A number on an axis, with its position `place`."""

    place: float
    text: str


@dataclass(frozen=True)
class Axis:
    """An axis that maps the values `low` to `high` to the positions `start` to `end`."""

    label: str
    low: float
    high: float
    start: float
    end: float
    ticks: tuple[Tick, ...]

    def place(self, value: float) -> float:
        """The position of a value."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)


@dataclass(frozen=True)
class Chart:
    """A chart for the template. name: a description for screen readers. columns: whether there are also grid
    lines at the ticks of the horizontal axis."""

    name: str
    width: float
    height: float
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    cuts: tuple[ThresholdLine, ...]
    columns: bool = False


def bars(
    edges: Sequence[float],
    counts: Sequence[int],
    label: str,
    name: str,
    cut: ThresholdLine | None = None,
    things: str = "frames",
) -> Chart:
    """A histogram.

    Args:
        edges: (N + 1,), ascending.
        counts: (N,).
        label: label of the horizontal axis.
        name: a description for screen readers.
        cut: a threshold line to draw.
        things: what is counted: the label of the vertical axis.
    """
    x = _x_axis(label, edges[0], edges[-1])
    y = _y_axis(things, 0, _HEADROOM * max(1, *counts), _BARS_HEIGHT, whole=True)
    marks = [
        _mark(x, y, (low, high), (0, count), f"{label} {low:g} to {high:g}: {count:,}")
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
        if count
    ]
    return Chart(name, WIDTH, _BARS_HEIGHT, x, y, tuple(marks), (cut,) if cut else ())


def cells(
    edges: tuple[Sequence[float], Sequence[float]],
    counts: np.ndarray,
    labels: tuple[str, str],
    name: str,
    cuts: Sequence[ThresholdLine],
) -> Chart:
    """A two-dimensional histogram. The opacity of a cell grows with the logarithm of its count.

    Args:
        edges: (N + 1,) and (M + 1,), ascending, of the horizontal and the vertical axis.
        counts: (N, M).
        labels: labels of the two axes.
        name: a description for screen readers.
        cuts: threshold lines to draw.
    """
    (xs, ys), most = edges, max(2, int(counts.max(initial=0)))
    x = _x_axis(labels[0], xs[0], xs[-1])
    y = _y_axis(labels[1], ys[0], ys[-1], _CELLS_HEIGHT)
    marks = [
        _mark(
            *(x, y, (xs[i], xs[i + 1]), (ys[j], ys[j + 1])),
            opacity=round(_MIN_OPACITY + (1 - _MIN_OPACITY) * math.log(counts[i, j]) / math.log(most), 3),
        )
        for i, j in np.argwhere(counts)
    ]
    return Chart(name, WIDTH, _CELLS_HEIGHT, x, y, tuple(marks), tuple(cuts), columns=True)


def _mark(
    x: Axis,
    y: Axis,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    title: str = "",
    opacity: float = 1.0,
) -> Mark:
    left, right = map(x.place, x_range)
    bottom, top = map(y.place, y_range)
    top = min(top, bottom - _MIN_HEIGHT)
    return Mark(left, round(top, 2), round(right - left, 2), round(bottom - top, 2), title, opacity)


def _x_axis(label: str, low: float, high: float) -> Axis:
    axis = Axis(label, low, high, LEFT, WIDTH - RIGHT, ())
    return _with_ticks(axis, 6, whole=False)


def _y_axis(label: str, low: float, high: float, height: float, whole: bool = False) -> Axis:
    axis = Axis(label, low, high, height - _BOTTOM, TOP, ())
    return _with_ticks(axis, 4, whole)


def _with_ticks(axis: Axis, count: int, whole: bool) -> Axis:
    """The axis with about `count` ticks at round numbers. whole: only integers."""
    step = round_step((axis.high - axis.low) / count, whole)
    first, last = math.ceil(axis.low / step), math.floor(axis.high / step)
    ticks = [Tick(axis.place(number * step), _short(number * step)) for number in range(first, last + 1)]
    return Axis(axis.label, axis.low, axis.high, axis.start, axis.end, tuple(ticks))


def round_step(minimum: float, whole: bool = False) -> float:
    """The smallest number of the form 1, 2, 2.5, 3 or 5 times a power of ten that is not below `minimum`.

    whole: only integers.
    """
    unit = 10.0 ** math.floor(math.log10(minimum))
    for factor in _STEPS:
        step = factor * unit
        if step >= minimum * (1 - 1e-9) and (not whole or step == int(step)):
            return step
    return 1.0  # the smallest integer step, if `minimum` is less than one


def _short(value: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}".replace("-", "−")
