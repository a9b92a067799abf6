"""The component measures of frames: each follows its edit of a face, and bad input gives numbers or nulls."""

import cv2
import numpy as np
import pyarrow as pa
import pytest

from faceq.config import Config
from faceq.stages.chosen_models import choose
from faceq.stages.find_face import FindFace
from faceq.table.measure_columns import MEASURES
from faceq.table.schema import SCHEMA
from jobs import demo
from jobs.benchmarks.face_edits import EDITS
from jobs.benchmarks.measure_components import MEASURED, OWN, Measurer

NAMES = [measure.name for measure in MEASURES]
AT = {name: at for at, name in enumerate(MEASURED)}

ENDS = {
    **{"yaw": (20, 45), "pitch": (15, 40), "roll": (30, 50), "single_face": (-0.96, -0.4)},
    **{"eye_distance": (-70, -30), "head_size": (-0.5, -0.1), "face_inside": (-0.4, -0.2)},
    **{f"margin_{side}": (-3, -0.2) for side in ("left", "right", "above", "below")},
    **{"eyes_open": (-0.06, -0.005), "mouth_open": (0.05, 0.3), "sharpness": (-0.3, -0.1), "noise": (13, 25)},
    **{"compression": (0.5, 9), "luminance_mean": (-0.5, -0.05), "luminance_variance": (-0.1, -0.005)},
    **{"under_exposed": (0.1, 0.9), "over_exposed": (0.02, 0.9), "dynamic_range": (-4, -0.7)},
    **{"illumination_uniformity": (-0.8, -0.1), "natural_colour": (8, 40)},
}
"""The changes of the measures at the last step of the first edit that is meant to change them."""


ROOM = {"illumination_uniformity": 0.06, "noise": 0.05, "eyes_open": 0.015, "compression": 0.02}
"""Absolute differences in mirrored frames, where more than 0.01 and 6%."""


@pytest.fixture(scope="module")
def measure() -> Measurer:
    return Measurer()


@pytest.fixture(scope="module")
def faces(measure: Measurer) -> list:
    """Two of the demo's sharp faces."""
    found = measure.posed(list(demo.source_faces().values()))
    assert len(found) > 1
    return found[:2]


@pytest.mark.parametrize("name", ENDS)
def test_a_measure_follows_the_edit_that_is_meant_to_change_it(measure, faces, name):
    low, high = ENDS[name]
    values = measure([EDITS[OWN[name][0]](faces[0], step) for step in (0, 2, 5)])[:, AT[name]]
    assert low < values[-1] - values[0] < high
    order = np.sign(values[-1] - values[0])
    assert order * values[0] <= order * values[1] <= order * values[2]


def test_a_mirrored_frame_swaps_left_and_right_and_keeps_the_rest(measure, faces):
    images = [face.photo for face in faces]
    values, mirrored = (measure(each) for each in (images, [image[:, ::-1] for image in images]))
    for name in NAMES:
        at = AT[name]
        other = {"margin_left": "margin_right", "margin_right": "margin_left"}.get(name, name)
        assert mirrored[:, at] == pytest.approx(values[:, AT[other]], rel=0.06, abs=ROOM.get(name, 0.01)), (
            name
        )


def rows_of(images: list[np.ndarray], **settings) -> list[dict]:
    stored = [cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in images]
    config = Config(**settings)
    find = FindFace(config, choose(config))
    return find(pa.table({"image": stored, "status": pa.nulls(len(stored), pa.string())})).to_pylist()


def hard(photo: np.ndarray, points: np.ndarray) -> list[np.ndarray]:
    """Frames whose face is cut off, grey, dark or in a frame of its own size."""
    (left, top), (right, bottom) = points.min(axis=0).astype(int), points.max(axis=0).astype(int)
    middle = (left + right) // 2
    grey = np.repeat(photo.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    return [
        photo[:, : middle + (right - middle) // 3],
        photo[:, middle - (middle - left) // 3 :],
        photo[(2 * top + bottom) // 3 :],
        photo[: (top + 2 * bottom) // 3],
        photo[top:bottom, left:right],
        grey,
        photo // 12,
        255 - (255 - photo) // 12,
    ]


def test_every_measure_of_a_hard_frame_is_a_number_or_null(faces):
    frames = [np.ascontiguousarray(frame) for face in faces for frame in hard(face.photo, face.points)]
    rows = rows_of(
        [*frames, np.zeros((80, 80, 3), np.uint8), np.full((300, 200, 3), 255, np.uint8)], min_face=10
    )
    assert sum(row["status"] is None for row in rows) >= 8
    for row in rows:
        values = [row[name] for name in NAMES]
        assert all(value is None or np.isfinite(value) for value in values)
        assert (row["single_face"] is not None) == (row["status"] is None)


def test_measures_can_be_left_out_and_change_nothing_else(faces):
    image = faces[0].photo
    (whole,), (without,) = rows_of([image]), rows_of([image], measures="none")
    assert all(whole[name] is not None for name in NAMES)
    assert all(without[name] is None for name in NAMES)
    others = [name for name in SCHEMA.names if name in whole and name not in NAMES]
    assert [whole[name] for name in others] == [without[name] for name in others]
    assert whole["crop"] == without["crop"] and whole["aligned"] == without["aligned"]


def test_another_region_is_scored_and_the_measures_stay(faces):
    image = faces[0].photo
    (mask,), (frame,) = rows_of([image]), rows_of([image], quality_region="frame")
    assert [mask[name] for name in NAMES] == [frame[name] for name in NAMES]
    assert frame["crop"] != mask["crop"]
