"""The reasons for a low score, from the columns of a row; `inspect` and tables name the same status."""

import pytest

from faceq.config import Config
from faceq.report.picture import Inspector, lines_of
from faceq.report.reasons import why_low
from faceq.sources.frame import Frame
from jobs import demo

GOOD = {
    **{"width": 640, "height": 480, "face_x": 200.0, "face_y": 100.0, "face_w": 150.0, "face_h": 180.0},
    **{"det_score": 0.93, "yaw": 3.0, "pitch": -5.0, "roll": 1.0, "serfiq": 0.95, "dbcnn": 70.0},
}
LOW = {**GOOD, "serfiq": 0.3}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"face_w": 42.0, "face_h": 55.0}, "small face (42 pixels)"),
        ({"face_x": 0.0}, "cut by the frame (left)"),
        ({"face_x": 490.0, "face_y": 300.0}, "cut by the frame (right, bottom)"),
        ({"yaw": -62.4}, "turned sideways (yaw -62)"),
        ({"pitch": 41.0}, "turned up (pitch 41)"),
        ({"roll": -178.0}, "upside down (roll -178)"),
        ({"roll": 91.0}, "on its side (roll 91)"),
        ({"det_score": 0.61}, "low detector confidence (0.61)"),
        ({"yaw": 50.0, "det_score": 0.65}, "turned sideways (yaw 50), low detector confidence (0.65)"),
        ({}, "not size, position or pose: look for blur"),
    ],
)
def test_a_low_score_has_the_reasons_in_its_columns(changed, said):
    assert why_low({**LOW, **changed}).startswith(said)
    assert why_low({**GOOD, "dbcnn": None, **changed}).startswith(said)


def test_good_scores_and_frames_without_a_face_need_no_reason():
    assert why_low({**GOOD, "yaw": 62.0}) is None
    nothing = {**dict.fromkeys(GOOD), "n_faces": 0}
    assert why_low(nothing) is None
    assert why_low({**nothing, "n_faces": 1}).startswith("something was found, but")


def test_inspect_names_the_status_that_a_table_has_and_the_reason(astronaut):
    """An image with a face and a `serfiq` of 0.14."""
    blurred = demo.degraded(demo._frame_around(astronaut, [200, 60, 80, 110]), "blur", 4, 0)
    (look,) = Inspector(Config())([Frame("a.jpg", None, 0, demo._jpeg(blurred))])
    said = dict(lines_of(look, 0.5))
    assert said["status"] == "below_fiq" and said["serfiq"].endswith("(below fiq_threshold 0.5)")
    assert said["dbcnn"].endswith("(null in a table)")
    assert said["why low"].startswith("not size, position or pose")
    row = look.table_row
    assert (row["status"], row["dbcnn"], row["mask_coverage"]) == ("below_fiq", None, None)
