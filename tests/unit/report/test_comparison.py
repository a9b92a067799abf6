"""A face's measures among those of other faces."""

import numpy as np
import pytest
from here import score_here
from PIL import Image

from faceq.errors import UsageError
from faceq.report import comparison
from faceq.storage.settings import S3Settings
from faceq.table.measure_columns import MEASURES
from faceq.table.schema import COLUMNS

EVEN = comparison.Reference(
    "test", 101, {name: np.linspace(0, 1, 101).tolist() for name in comparison.WORSE if name != "pitch"}
)
MIDDLE = {"det_score": 0.9, **{name: 0.5 for name in comparison.WORSE}}


def worse_than(**values: float) -> dict[str, float]:
    found = comparison.standings({**MIDDLE, **values}, EVEN)
    return {standing.name: standing.worse_than for standing in found}


def test_how_an_aligned_face_is_cropped_is_not_compared():
    rows = MIDDLE, {**MIDDLE, "det_score": None}
    detected, aligned = (
        {each.name for each in comparison.standings(row, comparison.shipped())} for row in rows
    )
    assert detected - aligned == {"eye_distance", "face_inside"}


def test_worse_values_are_worse_than_more_faces():
    low = worse_than(sharpness=0.1, noise=0.1, luminance_mean=0.1)
    high = worse_than(sharpness=0.9, noise=0.9, luminance_mean=0.9)
    assert [low["sharpness"], high["noise"]] == pytest.approx([0.9] * 2, abs=0.02)
    assert [high["sharpness"], low["noise"]] == pytest.approx([0.1] * 2, abs=0.02)
    assert [low["luminance_mean"], high["luminance_mean"]] == pytest.approx([0.8] * 2, abs=0.02)


def test_the_worst_comes_first_and_a_missing_value_is_left_out():
    found = comparison.standings({**MIDDLE, "noise": 2.0, "sharpness": -1.0, "eyes_open": None}, EVEN)
    names = [standing.name for standing in found]
    assert set(names[:2]) == {"noise", "sharpness"} and found[0].percent == ">99%"
    assert not {"eyes_open", "pitch"} & set(names)
    shares = [standing.worse_than for standing in found]
    assert shares == sorted(shares, reverse=True)


def test_most_faces_have_the_best_value_of_some_measures():
    """None of them is worse than another."""
    same = comparison.Reference(
        "test", 10, {"single_face": [0.5] * 5 + [1.0] * 96, "over_exposed": [0.0] * 101}
    )
    row = {**MIDDLE, "single_face": 1.0, "over_exposed": 0.009}
    assert [standing.worse_than for standing in comparison.standings(row, same)] == [0, 0]
    row = {**MIDDLE, "single_face": 0.4, "over_exposed": 0.2}
    assert [standing.worse_than for standing in comparison.standings(row, same)] == [1, 1]


def test_only_unusual_measures_are_named():
    found = comparison.standings({**MIDDLE, "noise": 2.0, "sharpness": 0.05}, EVEN)
    lines = comparison.unusual_lines(found, EVEN)
    assert lines == [
        ("unusual", "noise 2, worse than >99% of 101 faces of test"),
        ("", "sharpness 0.05, worse than 94%"),
    ]


def test_the_shipped_faces_have_every_compared_measure():
    shipped = comparison.shipped()
    assert shipped.faces > 1000 and set(shipped.quantiles) == set(comparison.WORSE)
    for name, values in shipped.quantiles.items():
        assert len(values) == 101 and values == sorted(values), name
    assert set(comparison.WORSE) <= {column.name for column in (*COLUMNS, *MEASURES)}


def test_the_faces_of_a_table(looked_at):
    reference = comparison.of_table(looked_at, S3Settings())
    assert str(reference) == f"{reference.faces} faces of {looked_at}"
    assert set(reference.quantiles) == set(comparison.WORSE)


def test_a_table_without_faces_is_refused(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    table = score_here(str(tmp_path / "black.png"), str(tmp_path / "table"))
    with pytest.raises(UsageError, match="no face of this table has measures"):
        comparison.of_table(table, S3Settings())


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (4.5e-5, "0.000"), (0.12345, "0.123"), (242.4, "242")]
)
def test_values_have_three_digits(value, text):
    assert comparison.short(value) == text
