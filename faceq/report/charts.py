"""The report's charts as numbers: where the template `chart.svg` draws marks, ticks and thresholds.

Lengths are in units of the SVG's view box. Colours and fonts are the page's, which are others in the dark.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEFT, _RIGHT, _TOP, _BOTTOM = 44.6, 10.1, 8.6, 37.4
"""Margins, which hold the tick and axis labels."""

_WIDTH, _BARS_HEIGHT, _CELLS_HEIGHT = 331.2, 165.6, 259.2
_HEADROOM = 1.05
"""Top of a histogram's vertical axis: so many times the tallest bar."""

_FAINTEST = 0.3
"""Opacity of a cell that holds one frame; the fullest has 1."""

_LEAST_HEIGHT = 0.8
"""Of a bar: a single frame among a million stays visible."""

_STEPS = (1, 2, 2.5, 3, 5, 10)


@dataclass(frozen=True)
class Cut:
    """A line across a chart at a threshold: its slider's name, and whether it stands (x) or lies (y)."""

    slider: str
    along: str = "x"


@dataclass(frozen=True)
class Mark:
    """A bar or a cell; `title` is shown under the pointer."""

    x: float
    y: float
    width: float
    height: float
    title: str = ""
    opacity: float = 1.0


@dataclass(frozen=True)
class Tick:
    """A number at an axis, `place` along it."""

    place: float
    text: str


@dataclass(frozen=True)
class Axis:
    """Values `low` to `high` between the places `start` and `end`."""

    label: str
    low: float
    high: float
    start: float
    end: float
    ticks: tuple[Tick, ...]

    def place(self, value: float) -> float:
        """Where a value lies."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)


@dataclass(frozen=True)
class Chart:
    """What the template draws. name: what the chart shows, for screen readers. columns: grid lines stand at
    the ticks of the horizontal axis, too."""

    name: str
    width: float
    height: float
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    cuts: tuple[Cut, ...]
    columns: bool = False


def bars(
    edges: Sequence[float], counts: Sequence[int], label: str, name: str, cut: Cut | None = None
) -> Chart:
    """A histogram.

    Args:
        edges: (N + 1,) rising.
        counts: (N,).
        label: below the horizontal axis.
        name: what the chart shows, for screen readers.
        cut: the threshold that is drawn in it.
    """
    x = _across(label, edges[0], edges[-1])
    y = _upwards("frames", 0, _HEADROOM * max(1, *counts), _BARS_HEIGHT, whole=True)
    marks = [
        _mark(x, y, (low, high), (0, count), f"{label} {low:g} to {high:g}: {count:,}")
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
        if count
    ]
    return Chart(name, _WIDTH, _BARS_HEIGHT, x, y, tuple(marks), (cut,) if cut else ())


def cells(
    edges: tuple[Sequence[float], Sequence[float]],
    counts: np.ndarray,
    labels: tuple[str, str],
    name: str,
    cuts: Sequence[Cut],
) -> Chart:
    """A two-dimensional histogram, darker by the logarithm of the count.

    Args:
        edges: (N + 1,) and (M + 1,) rising, along the horizontal and the vertical axis.
        counts: (N, M).
        labels: of the axes.
        name: what the chart shows, for screen readers.
        cuts: the thresholds that are drawn in it.
    """
    (xs, ys), most = edges, max(2, int(counts.max(initial=0)))
    x = _across(labels[0], xs[0], xs[-1])
    y = _upwards(labels[1], ys[0], ys[-1], _CELLS_HEIGHT)
    marks = [
        _mark(
            *(x, y, (xs[i], xs[i + 1]), (ys[j], ys[j + 1])),
            opacity=round(_FAINTEST + (1 - _FAINTEST) * math.log(counts[i, j]) / math.log(most), 3),
        )
        for i, j in np.argwhere(counts)
    ]
    return Chart(name, _WIDTH, _CELLS_HEIGHT, x, y, tuple(marks), tuple(cuts), columns=True)


def _mark(
    x: Axis,
    y: Axis,
    across: tuple[float, float],
    upwards: tuple[float, float],
    title: str = "",
    opacity: float = 1.0,
) -> Mark:
    left, right = map(x.place, across)
    bottom, top = map(y.place, upwards)
    top = min(top, bottom - _LEAST_HEIGHT)
    return Mark(left, round(top, 2), round(right - left, 2), round(bottom - top, 2), title, opacity)


def _across(label: str, low: float, high: float) -> Axis:
    axis = Axis(label, low, high, _LEFT, _WIDTH - _RIGHT, ())
    return _with_ticks(axis, 6, whole=False)


def _upwards(label: str, low: float, high: float, height: float, whole: bool = False) -> Axis:
    axis = Axis(label, low, high, height - _BOTTOM, _TOP, ())
    return _with_ticks(axis, 4, whole)


def _with_ticks(axis: Axis, most: int, whole: bool) -> Axis:
    """The axis with ticks at round numbers; `most` of them, about, and only `whole` numbers if so."""
    step = _round_step((axis.high - axis.low) / most, whole)
    first, last = math.ceil(axis.low / step), math.floor(axis.high / step)
    ticks = [Tick(axis.place(number * step), _short(number * step)) for number in range(first, last + 1)]
    return Axis(axis.label, axis.low, axis.high, axis.start, axis.end, tuple(ticks))


def _round_step(least: float, whole: bool) -> float:
    """The smallest of 1, 2, 2.5, 3, 5 and their multiples by a power of ten that is not below `least`."""
    unit = 10.0 ** math.floor(math.log10(least))
    for factor in _STEPS:
        step = factor * unit
        if step >= least * (1 - 1e-9) and (not whole or step == int(step)):
            return step
    return 1.0  # of whole numbers where `least` is less than one


def _short(value: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}".replace("-", "−")
