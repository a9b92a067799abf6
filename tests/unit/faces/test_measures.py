"""The component measures of landmarks and light: their formulas."""

import cv2
import numpy as np
import pytest

from faceq.faces import measures

FIVE = np.array([[30, 40], [70, 40], [50, 60], [38, 80], [62, 80]], np.float32)
SQUARE = np.array([[10, 20], [60, 20], [60, 90], [10, 90]], np.float32)


def test_the_length_of_a_head_is_from_the_eyes_to_the_chin():
    assert measures.head_length(FIVE, np.array([50, 110])) == 70


@pytest.mark.parametrize(
    ("areas", "expected"), [((9.0,), 1), ((100.0, 25.0), 0.75), ((30.0, 10.0, 40.0), 0.25), ((0.0, 0.0), 1)]
)
def test_a_second_face_counts_by_its_area(areas, expected):
    assert measures.single_face(areas) == expected


@pytest.mark.parametrize(("yaw", "expected"), [(0, 40), (60, 80), (-60, 80), (86, None), (179, None)])
def test_the_distance_of_the_eyes_is_that_of_the_face_seen_from_the_front(yaw, expected):
    assert measures.eye_distance(FIVE, yaw) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("moved", "expected"), [((0, 0), 1), ((-35, 0), 0.5), ((0, -55), 0.5), ((-35, -55), 0.25), ((-70, 0), 0)]
)
def test_the_share_of_a_face_inside_the_frame(moved, expected):
    assert measures.face_inside(SQUARE + np.float32(moved), 200, 150) == pytest.approx(expected)


def test_margins_are_in_lengths_of_the_head_and_negative_outside():
    found = measures.margins(SQUARE - np.float32([20, 0]), 101, 141, length=10)
    assert found == pytest.approx((-1, 6, 2, 5))


def test_a_gap_is_the_median_of_its_pairs():
    points = np.array([[0, 0], [0, 2], [5, 0], [5, 6], [9, 0], [9, 60]], np.float32)
    assert measures.gap(points, np.array([[0, 1], [4, 5], [2, 3]]), length=60) == pytest.approx(0.1)


def test_luminance_is_linear_light():
    """188 is the sRGB byte with half the light of white (0.4995)."""
    pixels = np.array([[[255, 255, 255], [188, 188, 188], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert measures.luminance(pixels).tolist() == [[255, 128, 54, 182, 18]]


def test_a_histogram_has_the_pixels_of_the_mask_only():
    light = np.array([[0, 25, 26, 247]], np.uint8)
    shares = measures.histogram(light, np.array([[1, 1, 1, 0]], np.uint8))
    assert shares[[0, 25, 26]].tolist() == [1 / 3] * 3 and shares.sum() == pytest.approx(1)
    assert measures.exposure(shares) == pytest.approx((2 / 3, 0))
    assert measures.exposure(measures.histogram(light)) == (0.5, 0.25)
    assert not measures.histogram(light, np.zeros((1, 4), np.uint8)).any()


def test_moments_and_range_of_luminance():
    shares = measures.histogram(np.array([[0, 255, 0, 255]], np.uint8))
    assert measures.luminance_moments(shares) == (0.5, 0.25)
    assert measures.dynamic_range(shares) == 1
    assert measures.dynamic_range(measures.histogram(np.arange(256, dtype=np.uint8)[None])) == 8
    assert measures.dynamic_range(measures.histogram(np.full((3, 3), 7, np.uint8))) == 0


EVERYWHERE = np.ones((120, 120), np.uint8)


def test_cheeks_are_compared_by_their_light():
    rng = np.random.default_rng(0)
    even = rng.integers(90, 100, (120, 120), dtype=np.uint8)
    assert measures.illumination_uniformity(even, EVERYWHERE, FIVE) > 0.9
    half = even.copy()
    half[:, 50:] += 50
    mirrored = (FIVE * [-1, 1] + [119, 0])[[1, 0, 2, 4, 3]]
    assert measures.illumination_uniformity(half, EVERYWHERE, FIVE) < 0.01
    assert measures.illumination_uniformity(half[:, ::-1], EVERYWHERE, mirrored) < 0.01
    brighter = even.copy()
    brighter[:, 50:] += 6
    assert 0.3 < measures.illumination_uniformity(brighter, EVERYWHERE, FIVE) < 0.9


def test_the_light_on_a_mirrored_face_is_as_uniform():
    light = np.random.default_rng(0).integers(0, 256, (110, 100), np.uint8)
    light[:, 50:] //= 2
    mask, mirrored = np.ones_like(light), np.ascontiguousarray(light[:, ::-1])
    other = (99 - FIVE[[1, 0, 2, 4, 3], 0], FIVE[[1, 0, 2, 4, 3], 1])
    found = measures.illumination_uniformity(light, mask, FIVE)
    assert 0.1 < found < 0.9
    assert measures.illumination_uniformity(mirrored, mask, np.column_stack(other)) == found


@pytest.mark.parametrize("shift", [(-40, 0), (60, 0), (0, 60), (0, -70)])
def test_a_cheek_outside_the_crop_has_no_value(shift):
    light = np.full((120, 120), 90, np.uint8)
    assert measures.illumination_uniformity(light, EVERYWHERE, FIVE + np.float32(shift)) is None


def test_a_cheek_outside_the_mask_has_no_value():
    light, mask = np.full((120, 120), 90, np.uint8), EVERYWHERE.copy()
    mask[:, 70:] = 0  # a column of the right zone
    assert measures.illumination_uniformity(light, mask, FIVE) == pytest.approx(1)
    mask[:, 66:] = 0
    assert measures.illumination_uniformity(light, mask, FIVE) is None


@pytest.mark.parametrize("colour", [(224, 172, 140), (120, 80, 60), (180, 120, 90)])
def test_skin_has_natural_colours(colour):
    assert measures.natural_colour(np.array(colour)) == 0


@pytest.mark.parametrize("colour", [(128, 128, 128), (80, 120, 200), (200, 30, 30), (0, 0, 0)])
def test_the_distance_from_natural_colours_is_that_of_cielab(colour):
    """OpenCV computes CIELAB for D65 without adapting it to D50, which differs by a unit or so."""
    _, a, b = cv2.cvtColor(np.float32([[colour]]) / 255, cv2.COLOR_RGB2LAB)[0, 0]
    expected = np.hypot(max(5 - a, a - 25, 0), max(5 - b, b - 35, 0))
    assert measures.natural_colour(np.array(colour)) == pytest.approx(expected, abs=4, rel=0.1)


def test_a_grey_face_is_as_far_as_the_corner_of_the_natural_colours():
    assert measures.natural_colour(np.array([128, 128, 128])) == pytest.approx(50**0.5, abs=0.02)
