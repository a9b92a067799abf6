"""Distortions of faces that are common on the internet, each in five steps.

Along each of the LADDERS, the score of DB-CNN must fall. Steps are chosen for faces of 100 to 400 pixels: the
first is barely visible, the last ruins the face. In training, steps also lie between them. Every function
takes an RGB uint8 image (H, W, 3) and returns a new one of the same shape. Random distortions use a seed, so
that the same arguments always give the same pixels.
"""

import fractions
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import av
import cv2
import numpy as np

from faceq.evaluation.distortions import (
    Image,
    Ladder,
    as_image,
    gaussian_blur,
    jpeg,
    ladder,
    low_light,
    low_resolution,
    white_noise,
)

STEPS = 5

SHARPENING = (1.0, 2.0, 4.0, 6.0, 8.0)  # factor of what the unsharp mask adds
UNSHARP_BLUR = (0.8, 1.2, 1.8, 2.7, 4.0)  # sigma of the blur before an unsharp mask of 1.5 times the sigma
IMPULSES = (0.002, 0.005, 0.01, 0.03, 0.08)  # share of the pixels
COMB = (1, 2, 4, 8, 16)  # pixels by which the two fields of a frame differ
MOTION = (3, 5, 9, 15, 25)  # length of the path in pixels
SMOOTHING = (10, 20, 35, 55, 80)  # grey levels that a bilateral filter averages
RESIZING = (1.5, 2.2, 3.2, 5.0, 8.0)  # reduction of each side before it is enlarged again
CUTOFF = (0.6, 0.42, 0.3, 0.21, 0.15)  # highest frequency that is kept, as a share of the highest possible
LEVELS = (32, 16, 10, 6, 4)  # of each channel
CHROMA_SIGMA = (6.0, 12.0, 20.0, 32.0, 50.0)  # grey levels
H264_CRF = (28, 34, 40, 45, 51)  # constant rate factor: 51 is the worst
HEVC_CRF = (30, 36, 41, 46, 51)
BLUR_SIGMA = (0.6, 1.2, 2.2, 4.5, 9.0)  # pixels
NOISE_SIGMA = (5.0, 11.0, 22.0, 45.0, 90.0)  # grey levels
SAVED_QUALITY = (60, 30, 13, 6, 2)  # libjpeg's scale

VIDEO_FRAMES = 3
"""Frames that are encoded; the last one, which is predicted from the others, is returned."""


def sharpened(image: Image, amount: float, sigma: float = 1.5) -> Image:
    """Unsharp mask: add `amount` times the difference from a blurred copy. Large amounts leave haloes."""
    values = image.astype(np.float32)
    blurred = cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return as_image(values + amount * (values - blurred))


def salt_and_pepper(image: Image, share: float, seed: int) -> Image:
    """Make a share of the pixels black or white."""
    drawn = np.random.default_rng(seed).random(image.shape[:2])
    edited = image.copy()
    edited[drawn < share / 2] = 0
    edited[drawn > 1 - share / 2] = 255
    return edited


def interlaced(image: Image, shift: int) -> Image:
    """Move every second row sideways, as in a frame whose two fields show different moments."""
    edited = image.copy()
    edited[1::2] = np.roll(image, shift, axis=1)[1::2]
    return edited


def motion_blurred(image: Image, length: int, seed: int) -> Image:
    """Blur along a straight path of `length` pixels, in a random direction, as when the camera moves."""
    angle = np.random.default_rng(seed).uniform(0, 180)
    line = np.zeros((length, length), np.float32)
    line[length // 2] = 1
    turn = cv2.getRotationMatrix2D(((length - 1) / 2, (length - 1) / 2), angle, 1)
    kernel = cv2.warpAffine(line, turn, (length, length))
    blurred = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, np.uint8)


def smoothed(image: Image, contrast: float, reach: float = 4.0) -> Image:
    """Smooth the skin like a beauty filter: texture of up to `contrast` grey levels vanishes, edges stay.
    `reach`: sigma in pixels."""
    return np.asarray(cv2.bilateralFilter(image, 0, contrast, reach), np.uint8)


def enlarged_along_edges(image: Image, factor: float) -> Image:
    """Like `low_resolution`, and then make the edges steep and smooth along their direction, as learned
    super-resolution does: outlines are sharp, and there is no texture.

    Source: shock filter (Osher and Rudin, 1990) with the direction of the gradient from a smoothed image.
    """
    values = low_resolution(image, factor).astype(np.float32)
    for _ in range(round(2 * factor)):
        smooth = cv2.GaussianBlur(values, (0, 0), max(0.8, factor / 2)).mean(axis=2)
        across = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
        length = np.maximum(np.hypot(*across), 1e-3)
        x, y = (each / length for each in across)
        twice = [cv2.Sobel(smooth, cv2.CV_32F, *order) for order in ((2, 0), (1, 1), (0, 2))]
        second = x * x * twice[0] + 2 * x * y * twice[1] + y * y * twice[2]
        nearby = np.ones((3, 3), np.uint8)
        darker, brighter = cv2.erode(values, nearby), cv2.dilate(values, nearby)
        towards = np.where((second > 0)[..., None], darker, brighter)
        values += 0.25 * (towards - values)
    return as_image(values)


def ringing(image: Image, cutoff: float) -> Image:
    """Remove all frequencies above a share of the highest one, which leaves waves beside edges."""
    height, width = image.shape[:2]
    framed = np.pad(image, ((0, height), (0, width), (0, 0)), "symmetric").astype(np.float32)
    frequency = np.hypot(np.fft.fftfreq(2 * height)[:, None], np.fft.rfftfreq(2 * width)[None])
    kept = np.fft.rfft2(framed, axes=(0, 1)) * (frequency <= cutoff / 2)[..., None]
    return as_image(np.fft.irfft2(kept, framed.shape[:2], axes=(0, 1))[:height, :width])


def banded(image: Image, levels: int) -> Image:
    """Reduce each channel to a few evenly spaced levels, without dithering."""
    step = 255 / (levels - 1)
    return as_image(np.rint(image / step) * step)


def colour_noise(image: Image, sigma: float, seed: int) -> Image:
    """Add blotches of colour, which small sensors leave after noise reduction: noise in both colour
    differences, three pixels wide."""
    noise = np.random.default_rng(seed).standard_normal((*image.shape[:2], 2), np.float32)
    wide = cv2.GaussianBlur(noise, (0, 0), 1.5)
    values = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb).astype(np.float32)
    values[..., 1:] += sigma * wide / wide.std()
    return np.asarray(cv2.cvtColor(as_image(values), cv2.COLOR_YCrCb2RGB), np.uint8)


def as_video(image: Image, codec: str, crf: int) -> Image:
    """Encode a short video in which the image moves by a pixel from frame to frame, and return its last
    frame.

    Args:
        image: any size; an odd last row or column repeats.
        codec: an encoder of FFmpeg, `libx264` or `libx265`.
        crf: its constant rate factor.
    """
    height, width = image.shape[:2]
    even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream(codec, rate=fractions.Fraction(25), options=_OPTIONS[codec](crf))
        stream.width, stream.height, stream.pix_fmt = even.shape[1], even.shape[0], "yuv420p"
        for step in range(1 - VIDEO_FRAMES, 1):
            moved = np.ascontiguousarray(np.roll(even, step, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, "rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file, "r") as written:
        *_, last = written.decode(video=0)
    return np.asarray(last.to_ndarray(format="rgb24")[:height, :width])


_OPTIONS: dict[str, Callable[[int], dict[str, str]]] = {
    "libx264": lambda crf: {"crf": str(crf), "threads": "1"},
    "libx265": lambda crf: {"x265-params": f"crf={crf}:log-level=none:pools=none:frame-threads=1"},
}


def at(parameters: Sequence[float], step: float) -> float:
    """The parameter at a step, 1 to STEPS, between two of the five on a logarithmic scale."""
    return float(np.exp(np.interp(step, range(1, STEPS + 1), np.log(parameters))))


def whole(parameters: Sequence[float], step: float) -> int:
    """The same as a whole number."""
    return round(at(parameters, step))


def _saved(image: Image, step: float, seed: int) -> Image:
    """Compress as JPEG once (odd seeds), or twice with a shifted block grid, as happens to shared images."""
    quality = whole(SAVED_QUALITY, step)
    once = jpeg(image, quality)
    if seed % 2:
        return once
    shift = 1 + seed // 2 % 7
    return np.roll(jpeg(np.roll(once, (shift, shift), (0, 1)), quality), (-shift, -shift), (0, 1))


@dataclass(frozen=True)
class Kind:
    """A kind of distortion.

    Attributes:
        degrade: takes an image (H, W, 3) uint8 RGB, a step from 1 to STEPS (any number), and a seed.
        falls: what the score must lose at least at each step, as a share of what a ruined face loses. A step
            that people hardly see, or like, must not raise the score.
        share: how often it is trained, relative to the others. Those that DB-CNN mistakes for quality need
            more examples.
    """

    degrade: Callable[[Image, float, int], Image]
    falls: tuple[float, ...] = (0.12, 0.28, 0.48, 0.72, 1.0)
    share: float = 1.0


def _sharpened(sigma: float) -> Callable[[Image, float, int], Image]:
    return lambda image, step, seed: sharpened(image, at(SHARPENING, step), sigma)


def _enlarged(kernel: int) -> Callable[[Image, float, int], Image]:
    return lambda image, step, seed: low_resolution(image, at(RESIZING, step), kernel)


def _as_video(codec: str, crf: Sequence[float]) -> Callable[[Image, float, int], Image]:
    return lambda image, step, seed: as_video(image, codec, whole(crf, step))


KINDS: dict[str, Kind] = {
    "sharpened, sigma 1": Kind(_sharpened(1.0), (0.04, 0.16, 0.28, 0.38, 0.46), 3.0),
    "sharpened, sigma 1.5": Kind(_sharpened(1.5), (0.04, 0.14, 0.26, 0.37, 0.47), 2.5),
    "sharpened, sigma 3": Kind(_sharpened(3.0), (0.03, 0.12, 0.26, 0.4, 0.5), 2.0),
    "blurred, then sharpened": Kind(
        lambda image, step, seed: sharpened(
            gaussian_blur(image, at(UNSHARP_BLUR, step)), 4.0, 1.5 * at(UNSHARP_BLUR, step)
        ),
        (0.1, 0.25, 0.45, 0.7, 1.0),
        1.5,
    ),
    "salt and pepper": Kind(
        lambda image, step, seed: salt_and_pepper(image, at(IMPULSES, step), seed),
        (0.06, 0.12, 0.2, 0.5, 0.9),
        2.0,
    ),
    "interlaced": Kind(
        lambda image, step, seed: interlaced(image, whole(COMB, step)), (0.2, 0.35, 0.5, 0.62, 0.74), 1.5
    ),
    "motion blur": Kind(lambda image, step, seed: motion_blurred(image, whole(MOTION, step) | 1, seed)),
    "skin smoothed": Kind(
        lambda image, step, seed: smoothed(image, at(SMOOTHING, step)), (0.03, 0.08, 0.16, 0.3, 0.5)
    ),
    "enlarged, nearest": Kind(_enlarged(cv2.INTER_NEAREST), share=1.5),
    "enlarged, cubic": Kind(_enlarged(cv2.INTER_CUBIC), share=0.7),
    "enlarged, linear": Kind(_enlarged(cv2.INTER_LINEAR), share=0.7),
    "enlarged, Lanczos": Kind(_enlarged(cv2.INTER_LANCZOS4), share=0.7),
    "enlarged along edges": Kind(
        lambda image, step, seed: enlarged_along_edges(image, at(RESIZING, step)),
        (0.05, 0.12, 0.28, 0.5, 0.8),
        1.2,
    ),
    "ringing": Kind(lambda image, step, seed: ringing(image, at(CUTOFF, step))),
    "banding": Kind(
        lambda image, step, seed: banded(image, whole(LEVELS, step)), (0.03, 0.09, 0.18, 0.4, 0.7), 1.2
    ),
    "colour noise": Kind(
        lambda image, step, seed: colour_noise(image, at(CHROMA_SIGMA, step), seed),
        (0.06, 0.14, 0.28, 0.5, 0.8),
    ),
    "H.264": Kind(_as_video("libx264", H264_CRF)),
    "HEVC": Kind(_as_video("libx265", HEVC_CRF), share=0.7),
    "blur": Kind(lambda image, step, seed: gaussian_blur(image, at(BLUR_SIGMA, step))),
    "noise": Kind(lambda image, step, seed: white_noise(image, at(NOISE_SIGMA, step), seed)),
    "JPEG, once or twice": Kind(_saved),
    "low light": Kind(low_light),
}

LADDERS: dict[str, Ladder] = {
    name: ladder(lambda image, rung, seed, kind=kind: kind.degrade(image, rung + 1, seed))  # type: ignore[misc]
    for name, kind in KINDS.items()
}
