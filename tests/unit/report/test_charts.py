"""The report's charts: positions of bars, ticks and thresholds."""

import numpy as np
import pytest

from faceq.report.charts import ThresholdLine, bars, cells


def ticks(axis) -> list[str]:
    return [tick.text for tick in axis.ticks]


def test_each_count_has_a_bar_with_a_label():
    chart = bars([0.0, 0.5, 1.0, 1.5], [1, 0, 2000], "serfiq", "", ThresholdLine("serfiq"))
    low, high = chart.marks
    assert low.title == "serfiq 0 to 0.5: 1" and high.title == "serfiq 1 to 1.5: 2,000"
    assert low.x == chart.x.start and low.width == pytest.approx(chart.x.place(0.5) - chart.x.start)
    assert high.y == chart.y.place(2000) and high.y + high.height == pytest.approx(chart.y.start)
    assert 0 < low.height < 1  # at a 2,000th of the tallest bar, it would be too thin to see


@pytest.mark.parametrize(
    ("low", "high", "most", "across", "upwards"),
    [
        (0, 1, 6234, ["0", "0.2", "0.4", "0.6", "0.8", "1"], ["0", "2k", "4k", "6k"]),
        (0, 100, 3, ["0", "20", "40", "60", "80", "100"], ["0", "1", "2", "3"]),
        (-90, 90, 10_400_000, ["−90", "−60", "−30", "0", "30", "60", "90"], ["0", "3M", "6M", "9M"]),
    ],
)
def test_ticks_are_round_numbers(low, high, most, across, upwards):
    chart = bars([low, (low + high) / 2, high], [1, most], "", "")
    assert (ticks(chart.x), ticks(chart.y)) == (across, upwards)


def test_no_frames_make_an_empty_chart():
    chart = bars([0, 1], [0], "", "")
    assert chart.marks == () and ticks(chart.y) == ["0", "1"]
    assert cells(([0, 1], [0, 1]), np.zeros((1, 1), int), ("", ""), "", []).marks == ()


def test_the_fullest_cell_is_the_darkest():
    counts = np.array([[0, 1], [10, 100]])
    chart = cells(
        ([0, 1, 2], [0, 50, 100]),
        counts,
        ("serfiq", "dbcnn"),
        "",
        [ThresholdLine("serfiq"), ThresholdLine("dbcnn", "y")],
    )
    one, ten, hundred = chart.marks
    assert one.opacity < ten.opacity < hundred.opacity == 1
    assert (hundred.x, hundred.y) == (chart.x.place(1), chart.y.end)
    assert (one.x, one.y, ten.x) == (chart.x.start, chart.y.end, hundred.x)
    assert ten.y == pytest.approx(one.y + one.height)
