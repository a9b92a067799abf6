"""FFHQ's alignment by its published steps with Pillow and SciPy, to compare faceq's with."""

import numpy as np
from PIL import Image
from scipy import ndimage

SUPERSAMPLED = 4096


def square(eyes: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """The corners of the square, (4, 2): upper left, lower left, lower right, upper right. `eyes`, `mouth`:
    (2, 2), the points that are left in the image of an upright face first."""
    between_eyes = eyes.mean(axis=0)
    eye_line = eyes[1] - eyes[0]
    eyes_to_mouth = mouth.mean(axis=0) - between_eyes
    sideways = eye_line + np.array([eyes_to_mouth[1], -eyes_to_mouth[0]])
    sideways /= np.linalg.norm(sideways)
    sideways *= max(2.0 * np.linalg.norm(eye_line), 1.8 * np.linalg.norm(eyes_to_mouth))
    downwards = np.array([-sideways[1], sideways[0]])
    centre = between_eyes + 0.1 * eyes_to_mouth
    return np.stack(
        [
            centre - sideways - downwards,
            centre - sideways + downwards,
            centre + sideways + downwards,
            centre + sideways - downwards,
        ]
    )


def aligned(picture: Image.Image, corners: np.ndarray, size: int) -> Image.Image:
    """The crop of the square in a picture."""
    side = np.linalg.norm(corners[3] - corners[0])
    # Shrink.
    factor = int(side / size / 2)
    if factor > 1:
        picture = picture.resize(
            [round(length / factor) for length in picture.size], Image.Resampling.LANCZOS
        )
        corners, side = corners / factor, side / factor
    # Crop.
    border = max(round(side * 0.1), 3)
    box = [*np.floor(corners.min(axis=0)).astype(int) - border]
    box += [*np.ceil(corners.max(axis=0)).astype(int) + border]
    beyond = [max(0, -box[0]), max(0, -box[1])]
    beyond += [max(0, box[2] - picture.width), max(0, box[3] - picture.height)]
    inner = (max(0, box[0]), max(0, box[1]), min(picture.width, box[2]), min(picture.height, box[3]))
    picture, corners = picture.crop(inner), corners - inner[:2]
    # Pad.
    if max(beyond) > border - 4:
        picture, corners = _padded(picture, corners, np.maximum(beyond, round(side * 0.3)), side)
    # Transform: Pillow counts from the edge of the first pixel.
    large = picture.transform(
        (SUPERSAMPLED, SUPERSAMPLED),
        Image.Transform.QUAD,
        (corners + 0.5).ravel(),
        Image.Resampling.BILINEAR,
    )
    return large.resize((size, size), Image.Resampling.LANCZOS)


def _padded(
    picture: Image.Image, corners: np.ndarray, pad: np.ndarray, side: float
) -> tuple[Image.Image, np.ndarray]:
    left, top, right, bottom = pad
    pixels = np.pad(np.float32(picture), ((top, bottom), (left, right), (0, 0)), "reflect")
    height, width, _ = pixels.shape
    y, x = np.ogrid[:height, :width]
    across = np.maximum(1 - x / left, 1 - (width - 1 - x) / right)
    away = np.maximum(across, np.maximum(1 - y / top, 1 - (height - 1 - y) / bottom))[..., None]
    sigma = side * 0.02
    pixels += (ndimage.gaussian_filter(pixels, [sigma, sigma, 0]) - pixels) * np.clip(3 * away + 1, 0, 1)
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(away, 0, 1)
    return Image.fromarray(np.uint8(np.clip(np.rint(pixels), 0, 255))), corners + np.array([left, top])
