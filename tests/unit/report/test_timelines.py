"""The geometry of timelines: curves, gaps, shots, kept stretches and times."""

import re

import numpy as np
import pytest

from faceq.report.charts import TOP
from faceq.report.timelines import BINS, Bins, Timeline, clock, timeline

SCALES = {"dbcnn": (100.0, 55.0), "serfiq": (1.0, 0.6)}


def bins(values: dict[int, float | None], width: float = 1.0, step: float = 1.0, start: float = 0.0) -> Bins:
    """Bins whose `dbcnn` has a mean, from 5 below it to 5 above it, and a constant `serfiq`."""

    def scores(value: float | None) -> dict:
        if value is None:
            return {f"{score}_{kind}": None for score in SCALES for kind in ("mean", "low", "high")}
        of_dbcnn = {"dbcnn_mean": value, "dbcnn_low": value - 5, "dbcnn_high": value + 5}
        return of_dbcnn | {f"serfiq_{kind}": 0.9 for kind in ("mean", "low", "high")}

    return Bins(start, width, step, [{"bin": number, **scores(value)} for number, value in values.items()])


def drawn(found: Bins, end: float, cuts=(), kept=()) -> Timeline:
    return timeline(found, end, SCALES, cuts, kept, "", "")


def points(path: str) -> list[list[tuple[float, float]]]:
    """The points of each part of a path of lines."""
    numbers = [re.findall(r"-?\d+\.?\d*", part.replace("h0", "")) for part in path.split("M")[1:]]
    return [list(zip(map(float, each[::2]), map(float, each[1::2]), strict=True)) for each in numbers]


def bars(path: str) -> list[tuple[float, float]]:
    return [(float(left), float(right)) for left, right in re.findall(r"M([\d.]+) [\d.]+H([\d.]+)v", path)]


def test_a_curve_has_each_value_at_its_time():
    chart = drawn(bins({0: 20.0, 1: 60.0, 2: 40.0}, start=7), 9)
    (curve,) = points(chart.panels[0].mean)
    y = chart.panels[0].y
    assert [point[0] for point in curve] == pytest.approx([chart.x.place(t) for t in (7, 8, 9)], abs=0.05)
    assert [point[1] for point in curve] == pytest.approx([y.place(v) for v in (20, 60, 40)], abs=0.05)
    assert y.place(100) == TOP < y.place(0) and chart.panels[0].limit == y.place(55)
    (area,) = points(chart.panels[0].spread)
    limits = [y.place(v) for v in (25, 65, 45, 35, 55, 15)]
    assert [point[1] for point in area] == pytest.approx(limits, abs=0.05)
    assert chart.panels[1].spread == ""  # the values of a bin do not differ


@pytest.mark.parametrize(
    ("values", "step", "parts"),
    [
        ({0: 50, 1: 50, 2: None, 3: 50, 4: 50}, 1.0, [2, 2]),  # frames without a score
        ({0: 50, 1: 50, 4: 50}, 1.0, [2, 1]),  # frames are missing
        ({0: 50, 1: 50, 3: 50, 4: 50}, 1.0, [4]),  # the distance of frames varies a little
        ({0: 50, 1: 50, 3: 50, 4: 50}, 0.1, [2, 2]),  # ten frames are missing
        ({0: None, 1: None}, 1.0, []),
    ],
)
def test_a_curve_has_gaps_where_nothing_was_scored(values, step, parts):
    chart = drawn(bins(values, step=step), 5)
    assert [len(part) for part in points(chart.panels[0].mean)] == parts
    assert chart.panels[0].mean.count("h0") == parts.count(1)  # a dot instead of a line


def test_a_line_marks_each_shot():
    chart = drawn(bins({0: 50, 60: 50}), 60, cuts=[15, 30])
    places = re.findall(r"M(\d+) ([\d.]+)V([\d.]+)", chart.shots)
    assert [int(place) for place, _, _ in places] == [round(chart.x.place(t)) for t in (15, 30)]
    assert all(float(top) == TOP and float(end) == chart.row for _, top, end in places)


def test_many_shots_do_not_hide_the_curves_nor_fill_the_page():
    chart = drawn(bins({0: 50, 60: 50}), 60, cuts=np.linspace(0.001, 60, 50_000))
    tops = {float(top) for top in re.findall(r"M\d+ ([\d.]+)V", chart.shots)}
    assert min(tops) > chart.panels[-1].y.start
    assert len(chart.shots) < 6_000


def test_a_bar_shows_each_kept_stretch():
    chart = drawn(bins({0: 50, 100: 50}), 100, kept=[(10, 20), (20.04, 30), (70, 70)])
    first, second, short = bars(chart.kept)
    x = chart.x
    assert first == pytest.approx((x.place(10), x.place(20)), abs=0.06)
    assert second == pytest.approx((x.place(20) + 0.5, x.place(30)), abs=0.06)  # told apart from the first
    assert short[0] == pytest.approx(x.place(70), abs=0.06) and short[1] > short[0] + 1


def test_many_kept_stretches_share_bars():
    starts = np.arange(0, 100_000, 4.0)
    chart = drawn(bins({0: 50, 100_000: 50}), 100_000, kept=[(start, start + 3) for start in starts])
    found = bars(chart.kept)
    assert all(left < right for left, right in found) and len(chart.kept) < 6_000
    assert found[0][0] == chart.x.start and found[-1][1] == pytest.approx(chart.x.end, abs=1.3)


def test_no_point_is_outside_the_chart():
    chart = drawn(bins({0: 50, 1: 50, 2: 50}, width=1, step=1), 1.6)
    assert points(chart.panels[0].mean)[0][-1][0] == pytest.approx(chart.x.end, abs=0.05)


@pytest.mark.parametrize(
    ("seconds", "tenths", "text"),
    [
        (0, False, "0:00"),
        (59.6, False, "1:00"),
        (605, False, "10:05"),
        (3600, False, "1:00:00"),
        (59.96, True, "1:00.0"),
        (3.26, True, "0:03.3"),
        (7384.5, True, "2:03:04.5"),
    ],
)
def test_times_are_minutes_and_seconds(seconds, tenths, text):
    assert clock(seconds, tenths) == text


@pytest.mark.parametrize(
    ("end", "texts"),
    [
        (0.0, ["0:00.0", "0:00.2", "0:00.4", "0:00.6", "0:00.8", "0:01.0"]),  # one frame: a bin of a second
        (1.1, ["0:00.0", "0:00.2", "0:00.4", "0:00.6", "0:00.8", "0:01.0"]),
        (9.3, ["0:00", "0:02", "0:04", "0:06", "0:08"]),
        (95.0, ["0:00", "0:30", "1:00", "1:30"]),
        (4000.0, ["0:00", "15:00", "30:00", "45:00", "1:00:00"]),
        (400_000.0, ["0:00", "24:00:00", "48:00:00", "72:00:00", "96:00:00"]),
    ],
)
def test_the_axis_has_round_times(end, texts):
    width = max(end / (BINS - 1), 0.0) or 1.0
    assert [tick.text for tick in drawn(bins({0: 50}, width=width), end).x.ticks] == texts
