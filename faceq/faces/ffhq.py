"""FFHQ's alignment: the square crop of a face on which generators such as StyleGAN are trained.

Source: T. Karras, S. Laine and T. Aila, "A Style-Based Generator Architecture for Generative Adversarial
Networks", CVPR 2019, appendix A, and the steps of the data set's published script. The eyes and the mouth
give an oriented square. Its sides are parallel and at a right angle to a mean of the line through the eyes
and the one from the eyes to the mouth. Where the square leaves the frame, the frame is mirrored, blurred and
faded into the median colour.

FFHQ's points are dlib's: the centre of an eye is the mean of six points on its contour, and the centre of the
mouth is between its outer corners. The five landmarks of `faceq.faces.geometry` have the midpoint of both
corners of each eye instead. With six contour points of FaceMesh, the corners of the crops of 140 photos
(CelebA and portraits) move by 3.5 pixels of 256 (median; 95th percentile: 5.2). In crops of 512 pixels of 105
frontal ones, the means of the landmarks are at most 2.7 pixels from the five points at which FFHQ's crops
are usually assumed to have them (facexlib's template: eyes at 193, 240 and 319, 240).
"""

import cv2
import numpy as np
from PIL import Image

from faceq.faces import geometry

SIZES = (256, 512, 1024)
"""Sides of the crops, in pixels."""

_EYES_TIMES, _MOUTH_TIMES = 2.0, 1.8
"""Half of the side of the square is the larger of these: so many times the distance between the eyes, and so
many times that from the eyes to the mouth."""

_DOWN = 0.1
"""Position of the square's centre on the way from the eyes to the mouth."""

_FADE, _BORDER = 0.3, 0.1
"""Minimum width of the area outside the frame in which the crop fades into one colour; and what is added to
the part of the square outside the frame. Both in sides of the square."""

_BLUR = 0.02
"""Standard deviation of the blur outside the frame, in sides of the square."""

_REACH = 4
"""Radius of the blur, in standard deviations."""

_REDUCED_SIGMA = 2.5
"""Standard deviation of the blur in pixels of a reduced image, which takes less time."""


def crop_map(landmarks: np.ndarray, size: int) -> np.ndarray:
    """The map from a frame to its aligned crop.

    Args:
        landmarks: (5, 2), frame pixels.
        size: side of the crop, pixels.

    Returns:
        (2, 3) float64, frame pixels to crop pixels. The centres of pixels have whole coordinates, in both.

    Raises:
        ValueError: the eyes and the mouth are at the same place, or a number is not finite.
    """
    left, right, _, *mouth = landmarks.astype(np.float64)
    eyes, across = (left + right) / 2, right - left
    down = np.mean(mouth, axis=0) - eyes
    # `down`, rotated by a right angle, points against `across` if the face is upright and frontal.
    axis = across - _rotated(down)
    length = np.hypot(*axis)
    half = max(_EYES_TIMES * np.hypot(*across), _MOUTH_TIMES * np.hypot(*down))
    if not (length > 1e-6 * half and np.isfinite(half)):
        raise ValueError("its landmarks are not those of a face: no square can be placed around them")
    x = axis / length * half
    scale = size / (2 * half)
    linear = scale / half * np.stack([x, _rotated(x)])
    return np.column_stack([linear, (size - 1) / 2 - linear @ (eyes + _DOWN * down)])


def _rotated(vector: np.ndarray) -> np.ndarray:
    """A vector (2,), rotated by 90 degrees clockwise as seen."""
    return np.array([-vector[1], vector[0]])


def crop(image: np.ndarray, landmarks: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut out the aligned face, from the pixels of the frame in one step.

    Args:
        image: (H, W, 3) uint8.
        landmarks: (5, 2), frame pixels.
        size: side of the crop, pixels.

    Returns:
        The crop, (size, size, 3) uint8 with the same colour order, and `crop_map`.

    Raises:
        ValueError: see `crop_map`; or the crop and the frame have no pixel in common.
    """
    matrix = crop_map(landmarks, size)
    height, width = image.shape[:2]
    corners = geometry.crop_corners(matrix, size)
    low, high = corners.min(axis=0), corners.max(axis=0)
    if (high <= 0).any() or (low >= (width - 1, height - 1)).any():
        raise ValueError("its landmarks are outside the frame")
    if (low >= -0.5).all() and (high <= (width - 0.5, height - 0.5)).all():
        return _sampled(image, matrix, size), matrix
    # The blur needs the pixels around the crop.
    apron = int(np.ceil(_REACH * _BLUR * size))
    wide = np.column_stack([matrix[:, :2], matrix[:, 2] + apron])
    sampled = _sampled(image, wide, size + 2 * apron)
    outside = _outside(matrix, size, width, height)
    return _faded(sampled, outside, apron, _BLUR * size), matrix


def _sampled(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """The square of `size` pixels of an image at a map (2, 3), without aliasing. Beyond the edge of the image
    it is mirrored.

    The image is first averaged down to two to four pixels for each pixel of the crop. It is then sampled at
    least at every pixel by cubic interpolation, and reduced by Lanczos' filter. On portraits that a crop
    enlarges by up to 1.5, cubic interpolation is 2 dB closer to the original than linear, as in FFHQ.
    """
    # The part that is mirrored is the one that the crop shows, as in FFHQ.
    image, matrix = geometry.part(image, matrix, size)
    shrink = 1 / np.hypot(matrix[0, 0], matrix[0, 1])
    factor = min(int(shrink / 2), *image.shape[:2])
    if factor > 1:
        image, matrix, shrink = *geometry.averaged(image, matrix, factor), shrink / factor
    finer = max(1, int(np.ceil(shrink)))
    scaled = finer * matrix
    scaled[:, 2] += (finer - 1) / 2
    large = cv2.warpAffine(
        image,
        scaled,
        (finer * size, finer * size),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    if finer == 1:
        return large
    return np.asarray(Image.fromarray(large).resize((size, size), Image.Resampling.LANCZOS))


def _outside(matrix: np.ndarray, size: int, width: int, height: int) -> np.ndarray:
    """How far each pixel of a crop is outside the frame, (size, size) float32: 0 at the edge of the frame, 1
    where the crop has faded into one colour, negative inside."""
    corners = geometry.crop_corners(matrix, size)
    side = np.hypot(*(corners[1] - corners[0]))
    last = np.array([width - 1, height - 1])
    before = np.maximum(_BORDER * side - corners.min(axis=0), _FADE * side)
    after = np.maximum(_BORDER * side + corners.max(axis=0) - last, _FADE * side)
    (a, b), (c, d) = np.linalg.inv(matrix[:, :2])
    origin = geometry.to_frame(np.zeros((1, 2)), matrix)[0]
    steps = np.arange(size)
    x = origin[0] + a * steps[None] + b * steps[:, None]
    y = origin[1] + c * steps[None] + d * steps[:, None]
    sides = (-x / before[0], (x - last[0]) / after[0], -y / before[1], (y - last[1]) / after[1])
    return np.maximum.reduce(sides).astype(np.float32)


def _faded(sampled: np.ndarray, outside: np.ndarray, apron: int, sigma: float) -> np.ndarray:
    """A crop that is blurred at the edge of the frame and fades into its median colour beyond. `sampled` is
    wider than the crop by `apron` pixels on each side."""
    inner = slice(apron, -apron)
    blurred = _blurred(sampled, sigma)[inner, inner].astype(np.float32)
    sharp = sampled[inner, inner].astype(np.float32)
    # The blur grows over the last third of the distance before the edge.
    mixed = sharp + (blurred - sharp) * np.clip(3 * outside + 1, 0, 1)[..., None]
    colour = np.median(mixed[::4, ::4], axis=(0, 1))
    mixed += (colour - mixed) * np.clip(outside, 0, 1)[..., None]
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur of an image (S, S, 3), computed on a reduced one."""
    size = image.shape[0]
    small = max(1, round(size * min(1, _REDUCED_SIGMA / sigma)))
    reduced = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(reduced, (0, 0), sigma * small / size, borderType=cv2.BORDER_REFLECT)
    return cv2.resize(blurred, (size, size), interpolation=cv2.INTER_LINEAR)
