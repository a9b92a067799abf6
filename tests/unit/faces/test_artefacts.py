"""Sharpness, noise and block artefacts: known images have known values."""

import cv2
import numpy as np
import pytest

from faceq.evaluation.distortions import jpeg
from faceq.faces import artefacts

EVERYWHERE = np.ones((128, 128), bool)


def edge(width: int) -> np.ndarray:
    """A vertical edge from 50 to 200 that is `width` pixels wide."""
    ramp = np.clip((np.arange(128) - 63.5) / width + 0.5, 0, 1)
    return np.tile((50 + 150 * ramp).astype(np.float32), (128, 1))


def test_an_edge_of_one_pixel_has_half_and_wider_ones_less():
    found = [artefacts.sharpness(edge(width), EVERYWHERE) for width in (1, 2, 4, 7)]
    assert found[0] == pytest.approx(0.5, rel=0.02)
    assert found[1] == pytest.approx(0.5, abs=0.13)
    assert found == sorted(found, reverse=True) and found[3] < 0.25


def test_sharpness_does_not_depend_on_contrast_brightness_or_direction():
    blurred = cv2.GaussianBlur(edge(1), (0, 0), 1.5)
    expected = artefacts.sharpness(blurred, EVERYWHERE)
    for same in (np.rint(0.3 * blurred), 255 - blurred, blurred[:, ::-1], np.ascontiguousarray(blurred.T)):
        assert artefacts.sharpness(np.ascontiguousarray(same), EVERYWHERE) == pytest.approx(
            expected, rel=0.07
        )


def test_a_blurred_face_in_the_dark_is_not_sharp():
    blurred = cv2.GaussianBlur(edge(1), (0, 0), 4)
    bright = artefacts.sharpness(blurred, EVERYWHERE)
    dark = artefacts.sharpness(np.rint(blurred / 20).astype(np.float32), EVERYWHERE)
    assert dark is None or dark < bright + 0.02
    assert artefacts.sharpness(np.rint(blurred / 60).astype(np.float32), EVERYWHERE) is None


@pytest.mark.parametrize("sigma", [1.0, 5.0, 20.0])
@pytest.mark.parametrize("side", [40, 64, 128, 256])
def test_noise_is_its_standard_deviation_also_beside_edges(sigma, side):
    image = np.tile(edge(1), (2, 2))[:side, :side]
    noisy = image + sigma * np.random.default_rng(0).standard_normal((side, side)).astype(np.float32)
    assert artefacts.noise(noisy, np.ones((side, side), bool)) == pytest.approx(sigma, rel=0.12)


def test_a_straight_edge_is_no_block_artefact():
    noisy = edge(1) + np.random.default_rng(0).normal(0, 2, (128, 128)).astype(np.float32)
    assert artefacts.compression(noisy, EVERYWHERE) < 0.1


def test_a_smooth_image_has_no_noise():
    assert artefacts.noise(edge(128), EVERYWHERE) < 0.01


def test_blocks_are_seen_wherever_they_begin():
    rng = np.random.default_rng(0)
    texture = np.clip(130 + cv2.GaussianBlur(rng.normal(0, 90, (128, 128, 3)), (0, 0), 2), 0, 255)
    saved = [
        cv2.cvtColor(jpeg(texture.astype(np.uint8), quality), cv2.COLOR_RGB2GRAY).astype(np.float32)
        for quality in (95, 30, 10)
    ]
    found = [artefacts.compression(image, EVERYWHERE) for image in saved]
    assert found[0] < 0.1 < found[1] < found[2]
    moved = np.ascontiguousarray(saved[2][3:, 5:])
    assert artefacts.compression(moved, EVERYWHERE[3:, 5:]) == pytest.approx(found[2], rel=0.1)
    halved = cv2.resize(saved[2], (100, 100), interpolation=cv2.INTER_AREA)
    assert artefacts.compression(halved, EVERYWHERE[:100, :100]) < found[2] / 4


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (5, 40), (40, 5), (8, 8)])
def test_parts_that_are_too_small_say_nothing_or_a_number(shape):
    image, mask = np.random.default_rng(0).random(shape).astype(np.float32), np.ones(shape, bool)
    for measure in (artefacts.sharpness, artefacts.noise, artefacts.compression):
        for inside in (mask, ~mask):
            value = measure(image, inside)
            assert value is None or np.isfinite(value)


def test_an_image_of_one_colour_has_no_sharpness():
    grey = np.full((128, 128), 90, np.float32)
    assert artefacts.sharpness(grey, EVERYWHERE) is None
    assert artefacts.noise(grey, EVERYWHERE) == artefacts.compression(grey, EVERYWHERE) == 0
