"""Component measures: why a face is good or bad. Pure functions on landmarks and pixels.

They follow OFIQ, the reference implementation of ISO/IEC 29794-5 (https://github.com/BSI-OFIQ/OFIQ-Project),
where it defines a quantity, but use faceq's landmarks, crops and masks, so they are not conformant to it. All
values are native ones (pixels, ratios, shares), not OFIQ's scores from 0 to 100.

Points are (N, 2) arrays in pixels, x to the right and y down. Images are RGB uint8. `T` is OFIQ's measure of
the size of a head: the distance from the midpoint of the eyes to the chin, in pixels of the frame.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from faceq.faces import geometry

LEAST_COSINE = 0.1
"""Cosine of the yaw below which one eye is hidden, and `eye_distance` is None."""

DARK, BRIGHT = 25, 247
"""Luminance, 0..255, up to which a pixel counts as under-exposed, and from which on as over-exposed."""

ZONE = 0.3
"""Side of the square on each cheek, relative to the distance of the eyes."""

INSIDE = 0.9
"""Share of each of these squares that must be inside the mask."""

ALIKE = 4.0
"""Sigma, in levels of 255, by which the histograms of both cheeks are blurred before they are compared: a
cheek has too few pixels for 256 levels."""

_ALIKE_WINDOW = 8 * int(ALIKE) + 1

NATURAL_A, NATURAL_B = (5.0, 25.0), (5.0, 35.0)
"""The ranges of CIELAB's a and b that are natural for skin."""

_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)
"""Linear light, 0..1, of an sRGB byte."""

_LUMINANCE = np.array([[0.2126, 0.7152, 0.0722]])
_TO_XYZ = np.array(
    [[0.43605, 0.38508, 0.14309], [0.22249, 0.71689, 0.06062], [0.01393, 0.09710, 0.71419]]
) / np.array([[0.964221], [1.0], [0.825211]])
"""From linear sRGB to XYZ under D50, relative to white."""


def head_length(landmarks: np.ndarray, chin: np.ndarray) -> float:
    """T, in pixels, from the five landmarks (5, 2) and the chin (2,)."""
    return float(np.linalg.norm(landmarks[:2].mean(axis=0) - chin))


def single_face(areas: Sequence[float]) -> float:
    """1 - the area of the second largest face of a frame / the area of the largest, 0..1; 1 for a single one.

    Follows OFIQ's SingleFacePresent, which takes the root of this ratio.
    """
    largest, *others = sorted(areas, reverse=True)
    return 1 - others[0] / largest if others and largest > 0 else 1.0


def eye_distance(landmarks: np.ndarray, yaw: float) -> float | None:
    """The distance of the eye centres, in pixels, divided by the cosine of the yaw (degrees); None if the
    face is turned so far that one eye is hidden. Follows OFIQ's InterEyeDistance."""
    cosine = np.cos(np.radians(yaw))
    if cosine < LEAST_COSINE:
        return None
    return float(np.linalg.norm(landmarks[1] - landmarks[0]) / cosine)


def face_inside(outline: np.ndarray, width: int, height: int) -> float:
    """Share, 0..1, of the area of the face's outline (N, 2) that lies inside a frame of this size."""
    low, high = outline.min(axis=0), outline.max(axis=0)
    if (low >= 0).all() and high[0] <= width - 1 and high[1] <= height - 1:
        return 1.0
    corners = geometry.frame_corners(width, height)
    whole = cv2.contourArea(outline.astype(np.float32))
    inside = geometry.clipped(outline.astype(np.float64), corners)
    if whole <= 0 or len(inside) < 3:
        return 0.0
    return float(min(cv2.contourArea(inside.astype(np.float32)) / whole, 1))


def margins(outline: np.ndarray, width: int, height: int, length: float) -> tuple[float, float, float, float]:
    """From the outline (N, 2) of the face to the left, right, upper and lower edge of the frame, in T
    (`length`, pixels). Negative where the frame cuts the face off.

    Like the crop measures of OFIQ, which start from the eyes.
    """
    left, above = outline.min(axis=0)
    right, below = np.array([width - 1, height - 1]) - outline.max(axis=0)
    return tuple(float(each / length) for each in (left, right, above, below))  # type: ignore[return-value]


def gap(points: np.ndarray, pairs: np.ndarray, length: float) -> float:
    """The median distance of the pairs (M, 2) of points, relative to T (`length`, pixels): how far lids or
    lips are open. Follows OFIQ's EyesOpen and MouthClosed, which take the largest distance; with eyes that
    close, the median falls more steadily."""
    one, other = points[pairs[:, 0]], points[pairs[:, 1]]
    return float(np.sort(np.linalg.norm(one - other, axis=1))[len(pairs) // 2] / length)


def luminance(crop: np.ndarray) -> np.ndarray:
    """Linear-light luminance of sRGB pixels (H, W, 3): (H, W) uint8, 0..255. Source: IEC 61966-2-1; OFIQ's
    luminance image."""
    linear = cv2.LUT(crop, (255 * _LINEAR).astype(np.float32))
    return np.rint(cv2.transform(linear, _LUMINANCE)).astype(np.uint8)


def histogram(light: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """The share of each luminance 0..255 among pixels (H, W) uint8 inside a mask (H, W) uint8: (256,)
    float64; zeros without pixels."""
    counts = cv2.calcHist([light], [0], mask, [256], [0, 256]).ravel().astype(np.float64)
    return counts / max(counts.sum(), 1)


def luminance_moments(shares: np.ndarray) -> tuple[float, float]:
    """Mean and variance of luminance, on a scale of 0..1, from a `histogram`. Follows OFIQ's LuminanceMean
    and LuminanceVariance."""
    mean = float(shares @ _LEVELS)
    return mean, float(shares @ (_LEVELS - mean) ** 2)


def exposure(shares: np.ndarray) -> tuple[float, float]:
    """The shares, 0..1, of pixels that are under- and over-exposed, from a `histogram`. Follows OFIQ's
    UnderExposurePrevention and OverExposurePrevention."""
    return float(shares[: DARK + 1].sum()), float(shares[BRIGHT:].sum())


def dynamic_range(shares: np.ndarray) -> float:
    """Entropy of a `histogram` of luminance, bits, 0..8. Follows OFIQ's DynamicRange."""
    there = shares[shares > 0]
    return float(-(there * np.log2(there)).sum())


def illumination_uniformity(light: np.ndarray, mask: np.ndarray, landmarks: np.ndarray) -> float | None:
    """How alike the light on both cheeks is: the overlap of the two histograms of luminance, 0..1.

    The zones are squares below the eyes, half-way to the mouth. Follows OFIQ's IlluminationUniformity, which
    does not blur the histograms.

    Args:
        light: (H, W) uint8, the `luminance` of an upright face.
        mask: (H, W) uint8, 1 inside the face and the frame.
        landmarks: the five landmarks (5, 2) in its pixels.

    Returns:
        None if more than a tenth of a zone lies outside the mask.
    """
    eyes = landmarks[:2]
    side = int(ZONE * np.linalg.norm(eyes[1] - eyes[0]))
    top = eyes[:, 1] + np.linalg.norm(eyes.mean(axis=0) - landmarks[3:].mean(axis=0)) / 2
    lefts = (eyes[0, 0], eyes[1, 0] - side + 1)
    corners = [(round(x), round(y)) for x, y in zip(lefts, top, strict=True)]
    if side < 1 or min(map(min, corners)) < 0:
        return None
    places = [np.s_[y : y + side, x : x + side] for x, y in corners]
    if any(cv2.countNonZero(mask[place]) < INSIDE * side**2 for place in places):
        return None
    both = np.stack([histogram(light[place]) for place in places])
    one, other = cv2.GaussianBlur(both, (_ALIKE_WINDOW, 1), ALIKE, borderType=cv2.BORDER_REFLECT)
    return float(min(np.minimum(one, other).sum(), 1))


def natural_colour(mean: np.ndarray) -> float:
    """How far the mean sRGB colour (3,), 0..255, of a face is from that of skin: the distance of CIELAB's a
    and b from the box NATURAL_A, NATURAL_B; 0 inside.

    Follows OFIQ's NaturalColour, which takes the mean over both cheeks.
    """
    linear = np.interp(mean, np.arange(256), _LINEAR)
    xyz = _TO_XYZ @ linear
    bent = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    a, b = 500 * (bent[0] - bent[1]), 200 * (bent[1] - bent[2])
    return float(np.hypot(_outside(a, NATURAL_A), _outside(b, NATURAL_B)))


def _outside(value: float, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return max(low - value, value - high, 0.0)
