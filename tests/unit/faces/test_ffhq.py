"""FFHQ's alignment: the same square and nearly the same pixels as the published steps, wherever the face
is."""

import cv2
import ffhq_steps
import numpy as np
import pytest
from PIL import Image

from faceq.faces import ffhq, geometry

ASTRONAUT = np.array([[200.6, 111.4], [246.2, 108.5], [227.1, 133.5], [208.4, 155.5], [242.4, 153.0]])
"""Landmarks of the astronaut: eyes, nose, mouth corners."""


def rotated(landmarks: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return (landmarks - landmarks.mean(axis=0)) @ turn + landmarks.mean(axis=0)


def published(image: np.ndarray, landmarks: np.ndarray, size: int) -> np.ndarray:
    corners = ffhq_steps.square(landmarks[:2], landmarks[3:])
    return np.asarray(ffhq_steps.aligned(Image.fromarray(image), corners, size))


def shift_between(one: np.ndarray, other: np.ndarray) -> float:
    """Distance by which one image is shifted against another, pixels."""
    grey = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in (one, other))
    return float(
        np.hypot(*cv2.phaseCorrelate(*grey, cv2.createHanningWindow(one.shape[1::-1], cv2.CV_32F))[0])
    )


@pytest.mark.parametrize("size", ffhq.SIZES)
@pytest.mark.parametrize("degrees", [0, 17, -60, 90, 155, 180])
def test_the_square_is_that_of_the_published_steps(size, degrees):
    landmarks = rotated(ASTRONAUT + np.random.default_rng(size).normal(0, 4, (5, 2)), degrees)
    found = geometry.crop_corners(ffhq.crop_map(landmarks, size), size)
    wanted = ffhq_steps.square(landmarks[:2], landmarks[3:])[[0, 3, 2, 1]]  # clockwise
    assert np.abs(found - wanted).max() < 1e-6


@pytest.mark.parametrize("size", [256, 512])
def test_the_pixels_are_nearly_those_of_the_published_steps(astronaut, size):
    """The photo is enlarged: at 256 pixels by a fifth, at 512 by more than half."""
    found, _ = ffhq.crop(astronaut, ASTRONAUT, size)
    wanted = published(astronaut, ASTRONAUT, size)
    assert np.abs(found.astype(float) - wanted).mean() < 1.5
    assert shift_between(found, wanted) < 0.1


def test_a_large_photo_is_reduced_without_aliasing(astronaut):
    large = cv2.resize(astronaut, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)
    landmarks = (ASTRONAUT + 0.5) * 6 - 0.5
    found, _ = ffhq.crop(large, landmarks, 256)
    wanted = published(large, landmarks, 256)
    assert np.abs(found.astype(float) - wanted).mean() < 1.5 and shift_between(found, wanted) < 0.1


@pytest.mark.parametrize("times", [8, 13, 16, 31])
def test_stripes_that_are_narrower_than_a_pixel_of_the_crop_become_grey(times):
    """The crop reduces the frame 1.5 to 6 times."""
    stripes = np.zeros((512 * times // 4, 512 * times // 4, 3), np.uint8)
    stripes[:, ::2] = 254
    grey, _ = ffhq.crop(stripes, ASTRONAUT * times / 4, 256)
    assert grey[8:-8, 8:-8].std() < 5 and abs(grey.mean() - 127) < 1


def test_an_enlarged_photo_keeps_more_than_with_linear_interpolation(astronaut):
    half = cv2.resize(astronaut, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    wanted, matrix = ffhq.crop(astronaut, ASTRONAUT, 256)
    found, matrix = ffhq.crop(half, (ASTRONAUT + 0.5) / 2 - 0.5, 256)
    linear = geometry.warp(half, matrix, 256, cv2.BORDER_REFLECT_101)
    assert cv2.PSNR(found, wanted) > cv2.PSNR(linear, wanted) + 0.5


@pytest.mark.parametrize(
    "part",
    [(slice(0, 512), slice(195, 512)), (slice(90, 512), slice(0, 512)), (slice(85, 190), slice(180, 260))],
    ids=["left", "above", "all sides"],
)
def test_beyond_the_frame_it_is_mirrored_and_fades_like_the_published_steps(astronaut, part):
    image = np.ascontiguousarray(astronaut[part])
    landmarks = ASTRONAUT - (part[1].start, part[0].start)
    found, matrix = ffhq.crop(image, landmarks, 256)
    wanted = published(image, landmarks, 256)
    assert np.abs(found.astype(float) - wanted).mean() < 4 and shift_between(found, wanted) < 0.5
    height, width = image.shape[:2]
    assert geometry.inside_share(geometry.crop_corners(matrix, 256), width, height) < 0.9


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_rotated_photo_gives_the_same_upright_crop(astronaut, turns):
    wanted, _ = ffhq.crop(astronaut, ASTRONAUT, 256)
    landmarks = ASTRONAUT
    for _ in range(turns):  # counter-clockwise
        landmarks = np.column_stack([landmarks[:, 1], 511 - landmarks[:, 0]])
    found, _ = ffhq.crop(np.ascontiguousarray(np.rot90(astronaut, turns)), landmarks, 256)
    assert np.abs(found.astype(float) - wanted).mean() < 0.5


def test_landmarks_that_are_no_face_are_refused(astronaut):
    with pytest.raises(ValueError, match="not those of a face"):
        ffhq.crop_map(np.full((5, 2), 7.0), 256)
    with pytest.raises(ValueError, match="not those of a face"):
        ffhq.crop_map(np.full((5, 2), np.nan), 256)
    with pytest.raises(ValueError, match="outside the frame"):
        ffhq.crop(astronaut, ASTRONAUT + 2000, 256)


def test_the_share_inside_the_frame_is_that_of_the_area():
    square = np.array([[-5, 4], [5, 4], [5, 14], [-5, 14]], float)
    assert geometry.inside_share(square, 100, 100) == pytest.approx(0.55)  # the frame begins at -0.5
    assert geometry.inside_share(square + 20, 100, 100) == 1
    assert geometry.inside_share(square + 200, 100, 100) == 0
