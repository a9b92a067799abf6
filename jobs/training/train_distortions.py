"""The 39 synthetic distortions that DB-CNN-Lite's distortion network learns to tell apart.

Source of the 39 distortions: Zhang et al., "Blind Image Quality Assessment Using a Deep Bilinear
Convolutional Neural Network", IEEE TCSVT 30(1), 2020, section III-A, and the levels of the authors'
generator.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image as PillowImage

from faceq.evaluation.distortions import Image, as_image, gaussian_blur, jpeg, white_noise

BLUR_KERNEL = (7, 15, 39, 91, 199)  # pixels; sigma is a sixth of the kernel
NOISE_VARIANCE = (2**-10, 2**-7.5, 2**-5.5, 2**-3.5, 2**0)  # of values 0..1
JPEG_QUALITY = (43, 12, 7, 4, 0)
JPEG2000_BITS = (0.46, 0.16, 0.07, 0.04, 0.02)  # per pixel
CONTRAST_RANGE = ((0.2, 0.8), (0.3, 0.7), (0.4, 0.6), (0.45, 0.55), (0.49, 0.51))  # of values 0..1
PINK_NOISE = (0.3, 0.7, 1.2, 2.0, 4.0)  # times 255, at the strongest pixel
COLOURS = (64, 32, 16, 8, 4)
EXPOSURE_SHIFT = (0.3, 0.6)  # of values 0..1, in both directions

CONTRAST_TAILS = (1, 99)  # percentiles that are mapped to the ends of the range


def pink_noise(image: Image, strength: float, seed: int) -> Image:
    """Add noise with an amplitude of 1/frequency to each channel; its strongest pixel is `strength` * 255."""
    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf  # no offset
    white = rng.standard_normal((3, height, width))
    pink = np.fft.irfft2(np.fft.rfft2(white) / frequency, (height, width))
    pink /= np.abs(pink).max(axis=(1, 2), keepdims=True)
    return as_image(image + 255 * strength * pink.transpose(1, 2, 0))


def jpeg2000(image: Image, bits: float) -> Image:
    """Compress and decompress as JPEG 2000 with `bits` per pixel (24 is uncompressed)."""
    stored = io.BytesIO()
    PillowImage.fromarray(image).save(
        stored, "JPEG2000", quality_mode="rates", quality_layers=[24 / bits], irreversible=True
    )
    return np.array(PillowImage.open(stored))


def contrast(image: Image, low: float, high: float) -> Image:
    """Map each channel's range, without its outermost percent on both sides, to low..high of 0..1."""
    dark, bright = np.percentile(image, CONTRAST_TAILS, axis=(0, 1))
    share = np.clip((image - dark) / np.maximum(bright - dark, 1), 0, 1)
    return as_image(255 * (low + (high - low) * share))


def dithered(image: Image, colours: int) -> Image:
    """Reduce the image to `colours` of its own colours, with Floyd-Steinberg dithering."""
    picture = PillowImage.fromarray(image)
    palette = picture.quantize(colours, PillowImage.Quantize.MEDIANCUT)
    return np.array(
        picture.quantize(palette=palette, dither=PillowImage.Dither.FLOYDSTEINBERG).convert("RGB")
    )


def exposure(image: Image, shift: float) -> Image:
    """Add `shift` times the range to every value, and clip."""
    return as_image(image + 255 * np.float32(shift))


def _blur(image: Image, kernel: int) -> Image:
    return gaussian_blur(image, kernel / 6)


Named = Callable[[Image, int], Image]
"""Takes an image (H, W, 3) uint8 RGB and a seed."""

NAMED: tuple[Named, ...] = (
    *(lambda image, seed, k=k: _blur(image, k) for k in BLUR_KERNEL),
    *(lambda image, seed, v=v: white_noise(image, 255 * v**0.5, seed) for v in NOISE_VARIANCE),
    *(lambda image, seed, q=q: jpeg(image, q) for q in JPEG_QUALITY),
    *(lambda image, seed, b=b: jpeg2000(image, b) for b in JPEG2000_BITS),
    *(lambda image, seed, r=r: contrast(image, *r) for r in CONTRAST_RANGE),
    *(lambda image, seed, s=s: pink_noise(image, s, seed) for s in PINK_NOISE),
    *(lambda image, seed, c=c: dithered(image, c) for c in COLOURS),
    *(lambda image, seed, s=s: exposure(image, s) for s in EXPOSURE_SHIFT),
    *(lambda image, seed, s=s: exposure(image, -s) for s in EXPOSURE_SHIFT),
)
