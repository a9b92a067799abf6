"""Sharpness, noise and block artefacts of a face: the component measures that have no agreed formula.

`docs/explanation/measures.md` says what else was tried, and how these did on degraded faces. Grey images are
(H, W) float32, 0..255, luma of gamma-coded RGB; masks are (H, W) bool.
"""

import cv2
import numpy as np

EDGE_WINDOW = 9
"""Side, pixels, of the window in which an edge's steepness and contrast are compared."""

STRONGEST_EDGES = 80.0
"""Percentile of the contrast from which on a window counts as an edge."""

LEAST_CONTRAST = 4.0
"""Median contrast of the edges, grey levels, below which sharpness would measure the rounding of pixels."""

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
    contrast = (cv2.dilate(grey, window) - cv2.erode(grey, window))[mask]
    slopes = (cv2.Sobel(grey, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    steepest = cv2.dilate(cv2.magnitude(*slopes), inner)[mask]  # a slope sees one pixel to each side
    edges = contrast >= max(np.percentile(contrast, STRONGEST_EDGES), 1.0)
    if not edges.any() or np.median(contrast[edges]) < LEAST_CONTRAST:
        return None
    return float(steepest[edges].sum() / (contrast[edges] + ROUNDING).sum())


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
    energy = cv2.filter2D(grey, cv2.CV_32F, _ACROSS_BOTH)[1:-1, 1:-1] ** 2  # the border has no neighbours
    energy, inside = _patches(energy), _patches(mask[1:-1, 1:-1])
    levels = np.sqrt(energy.mean(axis=(1, 3))[inside.all(axis=(1, 3))]) / _GAIN
    if levels.size < LEAST_PATCHES:
        return None
    count = round(FLATTEST * levels.size)
    return float(np.partition(levels, count - 1)[:count].mean() / FLATTEST_BIAS)


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
    if not mask.any():
        return None
    found = []
    for image, inside in ((grey, mask), (grey.T, mask.T)):
        steps, both = np.abs(np.diff(image, axis=0)), inside[1:] & inside[:-1]
        phases = [steps[phase::PATCH][both[phase::PATCH]] for phase in range(PATCH)]
        if not all(phase.size for phase in phases):
            return None
        means = sorted(float(phase.mean()) for phase in phases)
        found.append((means[-1] - means[-2]) / (float(np.median(means)) + LEAST_STEP))
    return min(found)  # a straight edge of the scene raises one of them


def _patches(image: np.ndarray) -> np.ndarray:
    """The whole patches of an image: (rows, PATCH, columns, PATCH)."""
    rows, columns = (length // PATCH for length in image.shape)
    return image[: rows * PATCH, : columns * PATCH].reshape(rows, PATCH, columns, PATCH)
