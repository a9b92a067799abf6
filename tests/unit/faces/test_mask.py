"""The face outline on a real portrait."""

import cv2
import numpy as np
import pytest
from PIL import Image

from faceq.faces import geometry, region
from faceq.faces.detect import YuNet
from faceq.faces.landmarks import MESH_ENLARGEMENT
from faceq.faces.region import FaceMesh
from faceq.models.fetch import fetch


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    return FaceMesh(fetch("facemesh"))


@pytest.fixture(scope="module")
def cut(astronaut) -> tuple[np.ndarray, np.ndarray]:
    """The upright crop, and the five landmarks in pixels of the crop."""
    (face,) = YuNet(fetch("yunet"), 0.6)(astronaut)
    side, angle = MESH_ENLARGEMENT * face.side, geometry.eye_angle(face.landmarks)
    matrix = geometry.crop_matrix(face.centre, side, angle, region.MESH_SIZE)
    crop = geometry.warp(astronaut, matrix, region.MESH_SIZE)
    return crop, geometry.from_frame(face.landmarks, matrix)


def test_the_outline_contains_eyes_nose_and_mouth_and_not_the_corners(mesh, cut):
    crop, landmarks = cut
    outline = mesh(crop)[0][region.FACE_OVAL, :2]
    assert outline.shape == (36, 2)
    assert all(cv2.pointPolygonTest(outline, point, False) > 0 for point in landmarks.tolist())
    assert cv2.pointPolygonTest(outline, (5, 5), False) < 0
    assert 0.2 < geometry.polygon_mask(outline, region.MESH_SIZE).mean() < 0.6


def test_dense_landmarks_agree_with_the_detector(mesh, cut):
    crop, landmarks = cut
    between = np.linalg.norm(landmarks[1] - landmarks[0])
    assert np.linalg.norm(region.five(mesh(crop)[0]) - landmarks, axis=1).max() < 0.15 * between


def test_a_region_is_the_inside_the_inside_on_black_or_the_whole_crop(mesh, cut):
    crop, _ = cut
    inside = geometry.polygon_mask(mesh(crop)[0][region.FACE_OVAL, :2], region.MESH_SIZE)[None]
    pictures = crop[None]
    assert region.apply_region("mask", pictures, inside) == (pictures, inside)

    black, everywhere = region.apply_region("black_out", pictures, inside)
    assert black.dtype == np.uint8 and everywhere.min() == 1
    assert black[inside == 0].max() == 0
    assert np.array_equal(black[inside == 1], pictures[inside == 1])

    whole, everywhere = region.apply_region("crop", pictures, inside)
    assert np.array_equal(whole, pictures) and everywhere.min() == 1


@pytest.mark.parametrize("shape", [(384, 384), (301, 455)])
def test_a_frame_as_jpeg_equals_a_file_written_by_opencv(astronaut, tmp_path, shape):
    """cv2.imwrite writes the file with its default quality, and Pillow reads it. Red stays red."""
    picture = astronaut[: shape[0], : shape[1]]
    outline = np.array([[120, 30], [320, 30], [300, 290], [140, 290]])
    inside = np.zeros(shape, np.uint8)
    cv2.fillPoly(inside, [outline.astype(np.int32)], 1)
    cv2.imwrite(str(tmp_path / "black.jpg"), cv2.cvtColor(picture * inside[..., None], cv2.COLOR_RGB2BGR))
    file = np.asarray(Image.open(tmp_path / "black.jpg").convert("RGB"))
    wanted = cv2.resize(file, (384, 384), interpolation=cv2.INTER_AREA)
    found = region.blacked_out(picture, outline, as_jpeg=True)
    assert np.abs(found.astype(int) - wanted).max() <= 1  # OpenCV and Pillow have different builds of libjpeg
    plain = region.blacked_out(picture, outline)
    assert np.abs(found.astype(int) - plain).max() > 20
    assert np.array_equal(found, region.blacked_out(picture, outline, as_jpeg=True))


def test_a_frame_too_long_for_jpeg_is_unchanged():
    strip = np.full((20, 70_000, 3), 90, np.uint8)
    outline = np.array([[0, 0], [40_000, 0], [40_000, 19], [0, 19]])
    assert np.array_equal(
        region.blacked_out(strip, outline, as_jpeg=True), region.blacked_out(strip, outline)
    )
