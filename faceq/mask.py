"""Dense landmarks of an upright face crop, and the face region that they outline."""

from pathlib import Path

import cv2
import numpy as np

from faceq.config import Region
from faceq.opencv import tame

# fmt: off
FACE_OVAL = np.array([
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
])
# fmt: on
"""The 36 landmarks on the outline of the face, clockwise from the top of the forehead. Source:
MediaPipe's face mesh topology."""

_FIVE = ((33, 133), (362, 263), (4, 4), (61, 61), (291, 291))
"""The dense landmarks between which eye centres, nose tip and mouth corners lie."""

FRAME_SIDE = 384
"""Side, pixels, to which a whole frame is brought for the quality network: that of the frames CAFI was made
for."""

_JPEG_SIDE = 65_500
"""Pixels; libjpeg writes no longer side."""

_INPUT_SIZE = 192


class FaceMesh:
    """MediaPipe's FaceMesh (Kartynnik et al., 2019): 468 points on a face."""

    def __init__(self, path: Path):
        tame()
        self._net = cv2.dnn.readNetFromTFLite(str(path))

    def __call__(self, crop: np.ndarray) -> np.ndarray:
        """Dense landmarks.

        Args:
            crop: (S, S, 3) uint8 RGB, a face upright and centred with the margin of `geometry.crop`.

        Returns:
            (468, 3) float32: x, y in crop pixels, z in the same unit, away from the camera.
        """
        blob = cv2.dnn.blobFromImage(crop, 1 / 255, (_INPUT_SIZE, _INPUT_SIZE))
        self._net.setInput(blob)
        points = self._net.forward().reshape(-1, 3)
        return points * (crop.shape[0] / _INPUT_SIZE)


def oval(points: np.ndarray) -> np.ndarray:
    """Outline of the face, (36, 2), out of the dense landmarks (468, 3); x, y in their unit."""
    return points[FACE_OVAL, :2]


def five(points: np.ndarray) -> np.ndarray:
    """The five landmarks of `faceq.geometry`, (5, 2), out of the dense ones (468, 3)."""
    return np.stack([points[list(pair), :2].mean(axis=0) for pair in _FIVE])


def shown(region: Region, crops: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the quality network gets to see, and where it counts.

    Args:
        region: what is judged; the crops of FRAME_REGIONS are whole frames out of `blacked_out`.
        crops: (N, S, S, 3) uint8 RGB.
        masks: (N, S, S) float32, 0..1: the face.

    Returns:
        Crops and masks of the same shapes and types.
    """
    if region == "mask":
        return crops, masks
    if region == "black_out":
        crops = np.rint(crops * masks[..., None]).astype(np.uint8)
    return crops, np.ones_like(masks)


def blacked_out(picture: np.ndarray, outline: np.ndarray, as_jpeg: bool = False) -> np.ndarray:
    """The whole frame with all but the face black, as CAFI shows it to the quality network.

    Args:
        picture: (H, W, 3) uint8 RGB.
        outline: (N, 2), the face's, in its pixels.
        as_jpeg: the blacked-out frame is written as a JPEG by OpenCV, as `cv2.imwrite` does it unless told
            otherwise, and read back: CAFI keeps it in such a file. Frames too long for JPEG stay as they are.

    Returns:
        (FRAME_SIDE, FRAME_SIDE, 3) uint8 RGB; frames of another shape are stretched.
    """
    inside = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.round(outline).astype(np.int32)], 1)
    black = picture * inside[..., None]
    if as_jpeg and max(black.shape) <= _JPEG_SIDE:
        black = _through_jpeg(black)
    return cv2.resize(black, (FRAME_SIDE, FRAME_SIDE), interpolation=cv2.INTER_AREA)


def _through_jpeg(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB, written by OpenCV with its defaults (quality 95, 4:2:0), and read again."""
    # It takes and gives BGR.
    _, file = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]))
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
