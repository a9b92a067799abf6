"""Alignment, crops and pose."""

import numpy as np
import pytest

from faceq.faces import geometry
from faceq.faces.detect import face_of
from faceq.faces.finder import Found
from faceq.faces.landmarks import Dense
from faceq.stages.find_face import quality_matrix


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rotation of a head in camera coordinates: roll in the image, then pitch, then yaw, degrees."""
    y, p, r = np.radians([yaw, pitch, roll])
    # x is right, y down, z away: yaw turns -z towards +x, pitch turns -z towards -y, roll turns x towards y.
    about_y = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


@pytest.mark.parametrize("pose", [(0, 0, 0), (25, 0, 0), (-40, 0, 0), (0, 20, 0), (0, -15, 0), (0, 0, 30)])
def test_pose_of_a_turned_head_is_recovered(pose):
    points = (geometry.HEAD_MODEL @ rotation(*pose).T)[:, :2] * 60 + (200, 150)
    assert np.allclose(geometry.head_pose(points), pose, atol=0.01)


def test_pose_signs_follow_the_picture():
    points = geometry.HEAD_MODEL[:, :2] * 60
    nose_right = points + np.array([[0, 0], [0, 0], [8, 0], [0, 0], [0, 0]])
    nose_up = points - np.array([[0, 0], [0, 0], [0, 8], [0, 0], [0, 0]])
    right_eye_lower = points + np.array([[0, 0], [0, 15], [0, 0], [0, 0], [0, 15]])
    assert geometry.head_pose(nose_right)[0] > 5
    assert geometry.head_pose(nose_up)[1] > 5
    assert geometry.head_pose(right_eye_lower)[2] > 5


def test_similarity_undoes_a_known_move():
    moved = geometry.ALIGNED_LANDMARKS @ (2 * np.array([[0.8, 0.6], [-0.6, 0.8]])) + (30, -7)
    matrix = geometry.similarity(moved, geometry.ALIGNED_LANDMARKS)
    assert np.allclose(moved @ matrix[:, :2].T + matrix[:, 2], geometry.ALIGNED_LANDMARKS)


def test_crop_is_upright_and_has_the_margin():
    # The eyes are on a slope of 30 degrees. The box is 100 wide, so the 256 pixels of the crop show 150.
    landmarks = np.array(
        [[100, 100], [100 + 40 * np.cos(0.5236), 100 + 20], [120, 130], [110, 150], [140, 160]]
    )
    face = face_of(np.array([70, 60, 100, 80]), landmarks, 0.9, 400, 300)
    nothing_dense = Dense(np.zeros((0, 2), np.float32), None, ())
    matrix = quality_matrix(Found(face, nothing_dense, (), ()))
    eyes = landmarks[:2] @ matrix[:, :2].T + matrix[:, 2]
    assert abs(eyes[0, 1] - eyes[1, 1]) < 0.05
    assert np.linalg.norm(eyes[1] - eyes[0]) == pytest.approx(40 * 256 / 150, rel=0.01)
    assert np.allclose(geometry.to_frame(eyes, matrix), landmarks[:2])


def test_a_large_face_is_averaged_down_without_aliasing():
    # Stripes one pixel wide: a warp that skips pixels gives black and white, an average gives grey.
    stripes = np.zeros((2000, 2000, 3), np.uint8)
    stripes[:, ::2] = 255
    matrix = geometry.crop_matrix(np.array([1000, 1000]), 1800, 0.0)
    inner = geometry.crop(stripes, matrix)[64:192, 64:192]
    assert np.abs(inner.astype(int) - 127).max() < 40
    landmarks = (geometry.ALIGNED_LANDMARKS - 56) * 1200 / 112 + 1000
    assert np.abs(geometry.align(stripes, landmarks)[8:-8, 8:-8].astype(int) - 127).max() < 40


def test_coverage_counts_only_the_part_inside_the_frame():
    square = np.array([[-50, -50], [49, -50], [49, 49], [-50, 49]])
    assert geometry.coverage(square, 200, 100) == pytest.approx(0.125, abs=0.005)


def area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def test_clipping_keeps_the_part_of_a_polygon_inside_a_rotated_frame():
    frame = geometry.frame_corners(101, 61) @ rotation(0, 0, 30)[:2, :2].T
    # A notch from the right makes the polygon concave: clipping by a line separates its two arms.
    hollow = np.array([[20, 20], [140, 20], [140, 25], [40, 30], [140, 35], [140, 40], [20, 40]], np.float32)
    turned = (hollow @ rotation(0, 0, 30)[:2, :2].T).astype(np.float32)
    cut = geometry.clipped(turned, frame)
    notch = 10 * 100 / 2 * (60 / 100) ** 2
    assert area(cut) == pytest.approx(80 * 20 - notch, rel=1e-4)
    assert cut.dtype == np.float32 and cut[0].tobytes() == turned[0].tobytes()


def test_a_polygon_inside_is_unchanged_and_one_outside_is_empty():
    frame = geometry.frame_corners(200, 100)
    inner = (np.random.default_rng(0).random((36, 2)) * (199, 99)).astype(np.float32)
    assert geometry.clipped(inner, frame).tobytes() == inner.tobytes()
    outer = geometry.clipped(inner - (300, 0), frame)
    assert outer.shape == (0, 2) and geometry.polygon_mask(outer, 256).max() == 0


@pytest.mark.parametrize("angles", [(0, 0, 0), (25, 0, 0), (0, -20, 0), (0, 0, 15), (-20, 10, -10)])
def test_the_perspective_fit_finds_the_true_pose(angles):
    """Six points of a generic head are rotated, placed in front of a camera and projected."""
    placed = geometry.PNP_MODEL @ rotation(*angles).T + [20.0, -30.0, 2000.0]
    width, height = 640, 480
    points = placed[:, :2] / placed[:, 2:] * width + [width / 2, height / 2]
    found = geometry.head_pose_pnp(points.astype(np.float32), width, height)
    assert np.allclose(found, angles, atol=0.5)


def test_the_perspective_fit_keeps_a_small_noisy_face_in_front_of_the_camera():
    """The faces are 100 pixels high, with landmark errors of a pixel. The iterative solver gives a third of
    them upside down."""
    rng = np.random.default_rng(0)
    width, height = 640, 480
    for _ in range(100):
        angles = rng.uniform(-30, 30, 3)
        placed = geometry.PNP_MODEL @ rotation(*angles).T + [0.0, 0.0, 3200.0]
        points = placed[:, :2] / placed[:, 2:] * width + rng.uniform(-100, 100, 2) + (320, 240)
        found = geometry.head_pose_pnp(points + rng.normal(0, 1, (6, 2)), width, height)
        assert np.abs(np.subtract(found, angles)).max() < 20


@pytest.mark.parametrize(
    "points", [np.tile([320.0, 240.0], (6, 1)), np.full((6, 2), np.nan), np.linspace((0, 0), (5, 0), 6)]
)
def test_points_that_no_head_fits_have_no_perspective_pose(points):
    assert geometry.head_pose_pnp(points, 640, 480) is None
