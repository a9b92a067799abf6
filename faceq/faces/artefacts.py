"""Sharpness, noise and block artefacts of a face: the component measures that have no agreed formula.

`docs/explanation/measures.md` says what else was tried, and how these did on degraded faces. Grey images are
(H, W) float32, 0..255, luma of gamma-coded RGB; masks are (H, W) bool.
"""

import cv2
import numpy as np

EDGE_WINDOW = 9
"""Side, pixels, of the window in which an edge's steepness and contrast are compared."""

STRONGEST_EDGES = 0.8
"""Share of the windows that have less contrast than an edge."""

LEAST_CONTRAST = 4.0
"""Mean contrast of the edges, grey levels, below which sharpness would measure the rounding of pixels."""

ROUNDING = 2.0
"""Grey levels that are added to each contrast, for the same reason."""

LEAST_PATCHES = 16
"""Number of patches that `noise` needs: with fewer, the flattest are too few to be typical."""

PATCH = 8
"""Side, pixels, of the patches among which those with the least noise count, and of the blocks of JPEG."""

FLATTEST = 0.25
"""Share of the patches that count."""

FLATTEST_BIAS = 0.80
"""The share of white noise that the flattest patches have, simulated."""

LEAST_STEP = 0.5
"""Grey levels that are added to the steps between pixels, so that a smooth face has no large ratio."""

_SOBEL_GAIN = 8  # of Sobel's filter, for a slope of one grey level per pixel

_ACROSS_BOTH = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_GAIN = 6.0
"""The difference of two Laplacians, which planes do not pass, and its gain for white noise."""


def sharpness(grey: np.ndarray, mask: np.ndarray) -> float | None:
    """How steep edges are: the greatest slope in a window relative to the contrast of the window, in 1/pixel,
    where the contrast is high; 0..1. None if the mask has no pixels, or hardly any contrast.

    A step from one pixel to the next has 1/2, a wide edge much less. Contrast and brightness cancel out
    unless the contrast is only a few grey levels. Noise hardly counts, since edges are where the contrast is
    highest.

    It is the inverse of the width of edges, which is the measure of blur of Marziliano et al., "A
    no-reference perceptual blur metric", ICIP 2002.

    Args:
        grey, mask: of an upright crop, in which all faces have the same size.
    """
    if not mask.any():
        return None
    window, inner = (np.ones((side, side), np.uint8) for side in (EDGE_WINDOW, EDGE_WINDOW - 2))
    levels, inside = grey.astype(np.uint8), mask.view(np.uint8)  # bytes take a quarter of the time
    contrast = cv2.morphologyEx(levels, cv2.MORPH_GRADIENT, window)
    shares = cv2.calcHist([contrast], [0], inside, [256], [0, 256]).ravel().astype(np.int64)
    place = int(STRONGEST_EDGES * (shares.sum() - 1))
    least = max(int(np.searchsorted(shares.cumsum(), place, side="right")), 1)
    count, total = int(shares[least:].sum()), int(shares[least:] @ np.arange(least, 256))
    if total < LEAST_CONTRAST * max(count, 1):
        return None
    slopes = (slope.astype(np.float32) for slope in cv2.spatialGradient(levels))
    steepest = cv2.dilate(cv2.magnitude(*slopes), inner)  # a slope sees one pixel to each side
    edges = ((contrast >= least) & mask).view(np.uint8)
    return cv2.mean(steepest, edges)[0] / _SOBEL_GAIN * count / (total + ROUNDING * count)


def noise(grey: np.ndarray, mask: np.ndarray) -> float | None:
    """Estimated standard deviation of noise, grey levels, from the flattest patches inside the mask; None if
    fewer than LEAST_PATCHES are inside.

    The filter is that of J. Immerkaer, "Fast noise variance estimation", CVIU 1996. Over the whole face it
    takes the texture of skin and hair for noise; flat patches have none (Liu et al., "Noise level estimation
    using weak textured patches", ICIP 2012).

    Args:
        grey, mask: in pixels of the frame, since resampling changes noise.
    """
    if not mask.any():
        return None
    rows, columns = ((length - 2) // PATCH for length in grey.shape)  # the border has no neighbours
    if rows < 1 or columns < 1:
        return None
    inner = np.s_[1 : 1 + PATCH * rows, 1 : 1 + PATCH * columns]
    filtered = cv2.filter2D(grey, cv2.CV_32F, _ACROSS_BOTH)[inner]
    # Shrinking by area takes the mean of each patch.
    energy, inside = (
        cv2.resize(each, (columns, rows), interpolation=cv2.INTER_AREA)
        for each in (filtered * filtered, mask[inner].astype(np.float32))
    )
    levels = np.sqrt(energy[inside > 1 - 1e-6])
    if levels.size < LEAST_PATCHES:
        return None
    count = round(FLATTEST * levels.size)
    return float(np.partition(levels, count - 1)[:count].mean() / (_GAIN * FLATTEST_BIAS))


def compression(grey: np.ndarray, mask: np.ndarray) -> float | None:
    """How much larger the steps between pixels are at the borders of 8x8 blocks than elsewhere, relative to
    those: the smaller value of both directions. Below about 0.1 without artefacts. None if the mask has too
    few pixels.

    The blocks may begin anywhere, as in a part of a JPEG: of the eight possible phases, the one with the
    largest steps is compared with the second. Artefacts vanish when a frame is resized after it was
    compressed.

    Source: the blockiness of Z. Wang, H. R. Sheikh and A. C. Bovik, "No-reference perceptual quality
    assessment of JPEG compressed images", ICIP 2002, which assumes one phase.

    Args:
        grey, mask: in pixels of the frame.
    """
    if min(grey.shape) <= PATCH or not mask.any():
        return None
    found = []
    inside = mask.astype(np.float32)
    for axis in (0, 1):
        low, high = ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:]))[axis]
        both = cv2.multiply(inside[low], inside[high])
        steps = cv2.multiply(cv2.absdiff(grey[low], grey[high]), both)
        sums, pixels = (
            _by_phase(cv2.reduce(each, 1 - axis, cv2.REDUCE_SUM).ravel()) for each in (steps, both)
        )
        if not pixels.all():
            return None
        means = np.sort(sums / pixels)
        middle = (means[PATCH // 2 - 1] + means[PATCH // 2]) / 2
        found.append(float((means[-1] - means[-2]) / (middle + LEAST_STEP)))
    return min(found)  # a straight edge of the scene raises one of them


def _by_phase(values: np.ndarray) -> np.ndarray:
    """The sums (PATCH,) of every PATCH-th value, from the first, the second, … on."""
    return np.bincount(np.arange(len(values)) % PATCH, values, PATCH)
