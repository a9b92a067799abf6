"""The effect of each distortion on a real image."""

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from faceq.evaluation.distortions import LADDERS, Image, jpeg, low_light, white_noise


@pytest.fixture(scope="module")
def picture() -> Image:
    return np.ascontiguousarray(astronaut()[:250, 100:350])


def psnr(image: Image, reference: Image) -> float:
    error = np.mean((image.astype(np.float64) - reference) ** 2)
    return float(10 * np.log10(255**2 / error))


@pytest.mark.parametrize("kind", LADDERS)
def test_every_level_is_further_from_the_original(kind: str, picture: Image) -> None:
    far = [psnr(LADDERS[kind](picture, severity, 7), picture) for severity in range(1, 6)]
    assert far == sorted(far, reverse=True)
    assert far[0] - far[4] > 5


@pytest.mark.parametrize("kind", LADDERS)
def test_same_seed_same_pixels_and_the_input_stays(kind: str, picture: Image) -> None:
    before = picture.copy()
    first, second = (LADDERS[kind](picture, 3, 11) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.shape == picture.shape and first.dtype == np.uint8
    assert np.array_equal(picture, before)


@pytest.mark.parametrize("kind", LADDERS)
def test_severity_zero_is_the_untouched_picture(kind: str, picture: Image) -> None:
    untouched = LADDERS[kind](picture, 0, 5)
    assert np.array_equal(untouched, picture)
    assert not np.shares_memory(untouched, picture)


@pytest.mark.parametrize("severity", [-1, 6])
def test_severity_outside_the_ladder_is_refused(severity: int, picture: Image) -> None:
    with pytest.raises(ValueError, match=f"severity is {severity}"):
        LADDERS["blur"](picture, severity, 0)


def test_other_seed_other_noise_of_the_strength_asked_for() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    one, other = white_noise(grey, 20.0, 1), white_noise(grey, 20.0, 2)
    assert not np.array_equal(one, other)
    assert one.std() == pytest.approx(20, rel=0.02)


@pytest.mark.parametrize("kind", ["blur", "low_resolution"])
def test_blur_removes_fine_detail_and_keeps_the_brightness(kind: str, picture: Image) -> None:
    soft = LADDERS[kind](picture, 4, 0)
    assert cv2.Laplacian(soft, cv2.CV_32F).var() < 0.1 * cv2.Laplacian(picture, cv2.CV_32F).var()
    assert soft.mean() == pytest.approx(picture.mean(), abs=2)


def test_jpeg_keeps_red_red() -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 220
    assert np.abs(jpeg(red, 40).astype(int) - red).max() < 12


def test_low_light_halves_the_light_per_stop() -> None:
    grey = np.full((300, 300, 3), 200, np.uint8)
    linear = (low_light(grey, 2.0, 0) / 255.0) ** 2.2
    assert linear.mean() == pytest.approx((200 / 255) ** 2.2 / 4, rel=0.03)


def test_low_light_makes_the_picture_noisier_for_its_brightness() -> None:
    grey = np.full((300, 300, 3), 200, np.uint8)
    dim, dark = low_light(grey, 1.0, 0), low_light(grey, 5.0, 0)
    assert dark.std() / dark.mean() > 2 * dim.std() / dim.mean()
