"""Landmarks of a face that is cut off by the frame."""

import cv2
import numpy as np
import pytest

from faceq import config
from faceq.faces import cut_face
from faceq.faces.cut_face import MEAN_FACE
from faceq.faces.finder import Found
from faceq.stages.chosen_models import choose
from faceq.stages.find_face import FindFace, quality_matrix
from jobs import demo

SIDES = ("left", "right", "above", "below")


@pytest.fixture(scope="module")
def stage() -> FindFace:
    return FindFace(config.Config(), choose(config.Config()))


@pytest.fixture(scope="module")
def photos(astronaut) -> list[np.ndarray]:
    faces = demo.source_faces()
    return [astronaut, *(faces[name] for name in ("group0", "group4", "group5"))]


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    turns = np.radians([pitch, yaw, roll])
    return np.linalg.multi_dot(
        [cv2.Rodrigues(axis * turn)[0] for axis, turn in zip(np.eye(3), turns, strict=True)]
    )


def scale(matrix: np.ndarray) -> float:
    return float(np.hypot(*matrix[0, :2]))


@pytest.mark.parametrize("angles", [(0, 0, 0), (30, 0, 0), (0, -20, 10), (-25, 10, 170)])
@pytest.mark.parametrize("axis", [0, 1])
def test_points_outside_the_frame_come_from_a_head_fitted_to_the_visible_points(angles, axis):
    head = 80 * MEAN_FACE @ rotation(*angles).T + (300, 200, 0)
    shown = head[:, axis] < np.median(head[:, axis])
    squeezed = np.where(shown[:, None], head, head * (0.9, 0.9, 1))
    whole = cut_face.completed(squeezed[:, :2], squeezed[:, 2], shown)
    assert np.abs(whole - head[:, :2]).max() < 1e-9
    assert np.array_equal(whole[shown], head[shown, :2])


def test_a_whole_face_and_a_barely_visible_face_are_not_changed():
    points = MEAN_FACE[:, :2]
    for shown in (np.ones(468, bool), np.arange(468) < cut_face.MIN_POINTS - 1):
        assert cut_face.completed(points, MEAN_FACE[:, 2], shown) is points


def test_each_point_and_its_counterpart_lie_on_both_sides_of_the_face():
    across = cut_face.COUNTERPARTS
    assert np.array_equal(across[across], np.arange(468))
    assert np.allclose(MEAN_FACE[across], MEAN_FACE * (-1, 1, 1), atol=1e-6)
    # MediaPipe's indices: corners of the eyes and of the mouth; tip of the nose and chin.
    assert across[[33, 133, 61, 4, 152]].tolist() == [263, 362, 291, 4, 152]


@pytest.mark.parametrize("side", SIDES)
def test_a_face_cut_off_by_the_frame_is_cropped_at_the_size_of_the_whole_face(stage, photos, side):
    """This holds for most faces. If both eyes are cut off, FaceMesh may see a whole face in the rest."""
    sizes = []
    for photo in photos:
        whole = stage._find(photo)
        found = stage._find(cut(photo, whole, 0.4, side))
        sizes.append(scale(quality_matrix(found)) / scale(quality_matrix(whole)))
    assert sorted(np.abs(np.array(sizes) - 1))[-2] < 0.09


def cut(photo: np.ndarray, found: Found, share: float, side: str) -> np.ndarray:
    """The photo, cropped so that a share of the face's box is cut off on one side."""
    x, y, width, height = found.face.box
    part = {
        "left": photo[:, round(x + share * width) :],
        "right": photo[:, : round(x + (1 - share) * width)],
        "above": photo[round(y + share * height) :],
        "below": photo[: round(y + (1 - share) * height)],
    }[side]
    return np.ascontiguousarray(part)
