"""Distortions that degrade an image, each in five levels.

Every function takes an RGB uint8 image (H, W, 3) and returns a new one of the same shape and type. Random
distortions use a seed, so that the same arguments always give the same pixels. Sizes are in pixels of the
given image: a blur that ruins a face of 256 pixels is negligible at 4,000 pixels.

Along each of the `LADDERS`, a quality score must decrease.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Ladder = Callable[[Image, int, int], Image]

# Parameters for severities 1 to 5.
BLUR_SIGMA = (0.8, 1.4, 2.2, 3.4, 5.0)  # pixels
NOISE_SIGMA = (6.0, 12.0, 20.0, 32.0, 50.0)  # grey levels of 255
JPEG_QUALITY = (40, 22, 13, 8, 4)  # libjpeg's scale, 100 is best
LOW_LIGHT_STOPS = (1.0, 2.0, 3.0, 4.0, 5.0)  # each stop halves the light
LOW_RESOLUTION_FACTOR = (1.5, 2.2, 3.2, 4.6, 6.5)  # reduction of each side

SENSOR_ELECTRONS = 1000.0  # electrons for white in a small phone sensor, at full light
READ_NOISE_ELECTRONS = 2.0


def as_image(values: NDArray[np.floating[Any]]) -> Image:
    """Grey levels 0..255 as uint8, rounded and clipped."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def gaussian_blur(image: Image, sigma: float) -> Image:
    """Blur by a Gaussian of `sigma` > 0 pixels, as when out of focus; the border is mirrored."""
    blurred = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, np.uint8)


def white_noise(image: Image, sigma: float, seed: int) -> Image:
    """Add independent Gaussian noise of `sigma` grey levels to every channel."""
    noise = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
    return as_image(image + sigma * noise)


def jpeg(image: Image, quality: int) -> Image:
    """Encode as a JPEG of `quality` 1..100, with chroma at half resolution as in cameras, and decode it."""
    done, stored = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    bgr = cv2.imdecode(stored, cv2.IMREAD_COLOR) if done else None
    if bgr is None:
        raise ValueError(f"jpeg: an image of shape {image.shape} could not be encoded at quality {quality}")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def low_light(image: Image, stops: float, seed: int) -> Image:
    """Simulate the same exposure with 2**stops times less light, without brightening the result.

    The light is reduced in linear space (gamma 2.2), where photon noise and read-out noise are added.
    Therefore a dark image is also noisy.
    """
    linear = (np.arange(256, dtype=np.float32) / 255) ** 2.2
    electrons = linear[image] * np.float32(SENSOR_ELECTRONS / 2**stops)
    noise = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
    # The Gaussian approximates Poisson counts: same variance, a tenth of the time.
    caught = electrons + noise * np.sqrt(electrons + READ_NOISE_ELECTRONS**2)
    return as_image(255 * np.clip(caught / SENSOR_ELECTRONS, 0, 1) ** (1 / 2.2))


def low_resolution(image: Image, factor: float, kernel: int = cv2.INTER_CUBIC) -> Image:
    """Reduce by `factor` >= 1 by area, then enlarge to the original size by one of OpenCV's kernels
    (cv2.INTER_…)."""
    height, width = image.shape[:2]
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    shrunk = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(shrunk, (width, height), interpolation=kernel), np.uint8)


def ladder(at_severity: Ladder) -> Ladder:
    """A ladder that checks the severity, 0 (unchanged) to 5 (worst), and applies the distortion.

    `at_severity`: takes an image, the severity minus one as an index of the parameters, and a seed.
    """

    def degrade(image: Image, severity: int, seed: int) -> Image:
        if not 0 <= severity <= 5:
            raise ValueError(f"severity is {severity}: give 0 (unchanged) to 5 (worst)")
        return image.copy() if severity == 0 else at_severity(image, severity - 1, seed)

    return degrade


LADDERS: dict[str, Ladder] = {
    "blur": ladder(lambda image, rung, seed: gaussian_blur(image, BLUR_SIGMA[rung])),
    "noise": ladder(lambda image, rung, seed: white_noise(image, NOISE_SIGMA[rung], seed)),
    "jpeg": ladder(lambda image, rung, seed: jpeg(image, JPEG_QUALITY[rung])),
    "low_light": ladder(lambda image, rung, seed: low_light(image, LOW_LIGHT_STOPS[rung], seed)),
    "low_resolution": ladder(lambda image, rung, seed: low_resolution(image, LOW_RESOLUTION_FACTOR[rung])),
}
