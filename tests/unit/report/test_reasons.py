"""The reasons for a low score, from the columns of a row; `inspect` and tables name the same status."""

import pytest

from faceq.config import Config
from faceq.report.picture import Inspector, lines_of
from faceq.report.reasons import advice, why_low
from faceq.sources.frame import Frame
from jobs import demo

GOOD = {
    **{"width": 640, "height": 480, "face_x": 200.0, "face_y": 100.0, "face_w": 150.0, "face_h": 180.0},
    **{"det_score": 0.93, "yaw": 3.0, "pitch": -5.0, "roll": 1.0, "serfiq": 0.95, "dbcnn": 70.0},
    **{"status": "scored", "n_faces": 1},
}
SMALL = {"face_w": 42.0, "face_h": 55.0}
UNUSABLE, UGLY = {"serfiq": 0.3}, {"dbcnn": 42.04}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"face_x": 0.0}, "cut by the frame (left)"),
        ({"face_x": 490.0, "face_y": 300.0}, "cut by the frame (right, bottom)"),
        ({"yaw": -62.4}, "turned sideways (yaw -62)"),
        ({"pitch": 41.0}, "turned up (pitch 41)"),
        ({"roll": -178.0}, "upside down (roll -178)"),
        ({"roll": 91.0}, "on its side (roll 91)"),
        ({"det_score": 0.61}, "low detector confidence (0.61)"),
        ({"yaw": 50.0, "det_score": 0.65}, "turned sideways (yaw 50), low detector confidence (0.65)"),
        ({}, "look for something that covers the face"),
        (SMALL, "look for something that covers the face"),
    ],
)
def test_a_low_serfiq_is_explained_by_position_and_pose(changed, said):
    assert why_low({**GOOD, **UNUSABLE, **changed}) == f"serfiq 0.300 is below 0.6: {said}"


ALIGNED = {
    **{"width": 112, "height": 112, "face_x": 0.0, "face_y": 0.0, "face_w": 112.0, "face_h": 112.0},
    **{"det_score": None, "face_confidence": 0.99, "align_error": 4.0},
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "look for something that covers the face"),
        ({"face_confidence": 0.2}, "little like a face (face_confidence 0.20)"),
        ({"align_error": 12.3}, "badly aligned (align_error 12)"),
        ({"align_error": None, "face_confidence": None, "yaw": 50.0}, "turned sideways (yaw 50)"),
    ],
)
def test_an_aligned_face_is_not_cut_off_by_its_frame(changed, said):
    assert why_low({**GOOD, **ALIGNED, **UNUSABLE, **changed}) == f"serfiq 0.300 is below 0.6: {said}"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (SMALL, "small face (42 pixels)"),
        ({}, "look for blur, noise, compression or bad light"),
        ({"yaw": 50.0, "face_x": 0.0}, "look for blur, noise, compression or bad light"),
    ],
)
def test_a_low_dbcnn_alone_is_explained_by_size_or_by_what_the_image_shows(changed, said):
    assert why_low({**GOOD, **UGLY, **changed}) == f"dbcnn 42.0 is below 55: {said}"
    assert why_low({**GOOD, "dbcnn": None, **changed}) == f"no dbcnn: {said}"


def test_both_low_scores_are_named_and_a_score_just_below_the_minimum_is_not_rounded_up():
    both = {**GOOD, **UNUSABLE, **UGLY}
    start = "serfiq 0.300 is below 0.6, dbcnn 42.0 is below 55: "
    rest = "look for blur, noise, compression, bad light or something that covers the face"
    small = "small face (42 pixels)"
    assert why_low(both) == start + rest
    assert why_low({**both, **SMALL}) == f"{start}{small}; also {rest}"
    assert why_low({**both, **SMALL, "yaw": 50.0}) == f"{start}{small}, turned sideways (yaw 50)"
    assert why_low({**GOOD, "serfiq": 0.59999}).startswith("serfiq 0.599 is below 0.6: ")


MEASURED = {
    **{"sharpness": 0.3, "noise": 0.5, "compression": 0.2, "luminance_mean": 0.25, "over_exposed": 0.0},
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sharpness": 0.147}, "blurred (sharpness 0.15)"),
        ({"noise": 12.3}, "noisy (noise 12)"),
        ({"compression": 1.26}, "block artefacts (compression 1.3)"),
        ({"luminance_mean": 0.03}, "dark (luminance_mean 0.03)"),
        ({"over_exposed": 0.25}, "overexposed (25%)"),
        ({"sharpness": 0.1, **SMALL}, "blurred (sharpness 0.10), small face (42 pixels)"),
        (
            {"noise": None, "sharpness": None},
            "look for something that covers the face, or another fault that",
        ),
        ({}, "look for something that covers the face, or another fault that has no column"),
    ],
)
def test_a_low_score_is_explained_by_the_measures(changed, said):
    for low in (UGLY, {**UGLY, **UNUSABLE}):
        assert why_low({**GOOD, **MEASURED, **low, **changed}).partition(": ")[2].startswith(said)


def test_the_measures_do_not_explain_a_low_serfiq_alone():
    turned = {**GOOD, **MEASURED, **UNUSABLE, "compression": 2.0, "yaw": 60.0}
    assert why_low(turned).endswith("below 0.6: turned sideways (yaw 60)")
    assert why_low({**turned, "yaw": 0.0}).endswith("below 0.6: look for something that covers the face")


def test_good_scores_and_frames_without_a_face_need_no_reason():
    assert why_low({**GOOD, "yaw": 62.0}) is None and advice(GOOD, 40) is None
    nothing = {**dict.fromkeys(GOOD), "n_faces": 0, "status": "no_face"}
    assert why_low(nothing) is None
    assert advice({**nothing, "status": "unreadable"}, 40) is None
    for words in ("min_face (40 pixels)", "cut", "too dark"):
        assert words in advice(nothing, 40)
    assert advice({**nothing, "n_faces": 1}, 40).startswith("something was found, but")
    small = {**GOOD, "serfiq": None, "dbcnn": None, "status": "face_too_small", "face_w": 30.0}
    assert why_low(small) is None and "30 pixels wide or high, less than min_face (40)" in advice(small, 40)


def test_inspect_names_the_status_that_a_table_has_and_the_reason(astronaut):
    """An image with a face and a `serfiq` of 0.14."""
    blurred = demo.degraded(demo._frame_around(astronaut, [200, 60, 80, 110]), "blur", 4, 0)
    (look,) = Inspector(Config())([Frame("a.jpg", None, 0, demo._jpeg(blurred))])
    said = dict(lines_of(look, Config()))
    assert said["status"] == "below_fiq" and said["serfiq"].endswith("(below fiq_threshold 0.5)")
    assert said["dbcnn"].endswith("(null in a table)")
    assert said["why low"].startswith("serfiq 0.1") and "passes" not in said
    row = look.table_row
    assert (row["status"], row["dbcnn"], row["mask_coverage"]) == ("below_fiq", None, None)
