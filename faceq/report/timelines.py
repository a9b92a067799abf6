"""The geometry of the timelines in the report: the template `timeline.svg` draws curves, shots and kept
stretches from it.

Lengths are in units of the SVG view box, as in `charts`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from faceq.report.charts import LEFT, RIGHT, TOP, WIDTH, Axis, Tick

BINS = 120
"""Maximum number of bins of a timeline."""

_PANEL, _GAP, _SHOTS, _STRIP = 48.0, 14.0, 8.0, 8.0
"""Height of a curve's panel, gap below it, and heights of the rows with the shots and the kept stretches."""

_FEW_SHOTS = 24
"""Number of lines up to which shots are divided over the whole height; more would hide the curves."""

_MIN_BAR, _SPACE = 1.2, 0.5
"""Minimum width of a bar in the strip, and the space that separates two that touch."""

_TIME_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 18000, 43200)
_TIME_TICKS = 6


@dataclass(frozen=True)
class Bins:
    """The scores of a video over time.

    start: the time at the centre of bin 0, seconds. width: of a bin, seconds. step: the usual time between
    two frames, at most `width`. found: the bins with frames, in order: bin (its number), and mean, low and
    high of each score, such as serfiq_mean; None if no frame of the bin has the score.
    """

    start: float
    width: float
    step: float
    found: Sequence[dict[str, Any]]

    def time(self, number: int) -> float:
        """The time at the centre of a bin, seconds."""
        return self.start + number * self.width


@dataclass(frozen=True)
class Panel:
    """A score over time. limit: position of the recommended minimum. mean: path of the means. spread: path
    of the areas from the lowest to the highest value."""

    label: str
    y: Axis
    limit: float
    mean: str
    spread: str


@dataclass(frozen=True)
class Timeline:
    """A timeline for the template.

    title, text: a short and a long description for screen readers. shots: path of the lines at which shots
    begin, which end at `row`. kept: path of the bars of kept stretches, which are between `strip` and
    `strip` + `bar`.
    """

    title: str
    text: str
    width: float
    height: float
    x: Axis
    panels: tuple[Panel, ...]
    shots: str
    row: float
    kept: str
    strip: float
    bar: float


def timeline(
    bins: Bins,
    end: float,
    scales: dict[str, tuple[float, float]],
    cuts: Sequence[float],
    kept: Sequence[tuple[float, float]],
    title: str,
    text: str,
) -> Timeline:
    """A timeline of a video.

    Args:
        bins: its scores.
        end: time of its last frame, seconds.
        scales: maximum and recommended minimum of each drawn score, in the order of the panels.
        cuts: times at which a shot begins, seconds, ascending, without the first one.
        kept: start and end of each kept stretch, seconds, ascending.
        title: a short description for screen readers.
        text: a long description for screen readers.
    """
    x = _time_axis(bins.start, max(end, bins.start + bins.width))
    panels = tuple(
        _panel(bins, x, score, TOP + number * (_PANEL + _GAP), *scale)
        for number, (score, scale) in enumerate(scales.items())
    )
    row = TOP + len(panels) * (_PANEL + _GAP) - _GAP / 2
    strip = row + _SHOTS + 3
    lines = dict.fromkeys(round(x.place(cut)) for cut in cuts)  # those at the same place only once
    top = TOP if len(lines) <= _FEW_SHOTS else row
    shots = "".join(f"M{place} {top:g}V{row + _SHOTS:g}" for place in lines)
    return Timeline(
        *(title, text, WIDTH, strip + _STRIP + 22, x, panels, shots),
        *(row + _SHOTS, _bars(x, kept, strip), strip, _STRIP),
    )


def _panel(bins: Bins, x: Axis, score: str, top: float, most: float, least: float) -> Panel:
    axis = Axis(score, 0, most, top + _PANEL, top, ())
    ticks = tuple(Tick(axis.place(value), f"{value:g}") for value in (0, most / 2, most))
    y = Axis(score, 0, most, axis.start, axis.end, ticks)
    mean = spread = ""
    for run in _runs(bins, score):
        places = [x.place(min(bins.time(each["bin"]), x.high)) for each in run]
        mean += _line(places, [y.place(each[f"{score}_mean"]) for each in run])
        lows = [y.place(each[f"{score}_low"]) for each in run]
        highs = [y.place(each[f"{score}_high"]) for each in run]
        if lows != highs:
            spread += _line(places + places[::-1], highs + lows[::-1]) + "Z"
    return Panel(score, y, y.place(least), mean, spread)


def _runs(bins: Bins, score: str) -> list[list[dict[str, Any]]]:
    """The bins with a score, divided where frames have no score or are missing.

    If a bin is as narrow as the distance of frames, a bin may be empty because the distance varies a little.
    """
    reach = max(1, int(2 * bins.step / bins.width + 1e-6))
    runs: list[list[dict[str, Any]]] = []
    last = -math.inf  # number of the last bin of the current run
    for each in bins.found:
        if each[f"{score}_mean"] is None:
            last = -math.inf
            continue
        if each["bin"] - last > reach:
            runs.append([])
        runs[-1].append(each)
        last = each["bin"]
    return runs


def _line(xs: Sequence[float], ys: Sequence[float]) -> str:
    points = [f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True)]
    return f"M{points[0]}h0" if len(points) == 1 else f"M{points[0]}L{' '.join(points[1:])}"


def _bars(x: Axis, kept: Sequence[tuple[float, float]], top: float) -> str:
    """A path with a bar for each stretch. Those that are too close to be told apart share a bar, so the
    length of the path is limited."""
    bars: list[list[float]] = []
    for start, end in kept:
        left = x.place(start)
        right = max(x.place(end), left + _MIN_BAR)
        if not bars:
            bars.append([left, right])
        elif right < bars[-1][1] + _SPACE + _MIN_BAR:  # no room for a bar of its own
            bars[-1][1] = max(bars[-1][1], right)
        else:
            bars.append([max(left, bars[-1][1] + _SPACE), right])
    return "".join(f"M{left:.1f} {top:g}H{right:.1f}v{_STRIP:g}H{left:.1f}Z" for left, right in bars)


def _time_axis(low: float, high: float) -> Axis:
    axis = Axis("time", low, high, LEFT, WIDTH - RIGHT, ())
    least = (high - low) / _TIME_TICKS
    step = next((step for step in _TIME_STEPS if step >= least), 86400 * math.ceil(least / 86400))
    if high - low < _TIME_STEPS[0]:
        step = high - low
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    tenths = step < 1
    ticks = [Tick(axis.place(n * step), clock(n * step, tenths)) for n in range(first, last + 1)]
    return Axis(axis.label, low, high, axis.start, axis.end, tuple(ticks))


def clock(seconds: float, tenths: bool = False) -> str:
    """A time as m:ss, or h:mm:ss from an hour. tenths: with a tenth of a second."""
    units = round(seconds * 10) if tenths else round(seconds) * 10
    minutes, rest = divmod(units, 600)
    hours, minutes = divmod(minutes, 60)
    shown = f"{rest / 10:04.1f}" if tenths else f"{rest // 10:02d}"
    return f"{hours}:{minutes:02d}:{shown}" if hours else f"{minutes}:{shown}"
