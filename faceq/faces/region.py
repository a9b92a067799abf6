"""Run FaceMesh on an upright face crop, and mask the face region that the quality network scores."""

from pathlib import Path

import cv2
import numpy as np

from faceq.config import Region
from faceq.runtime.onnx_runtime import ModelFileError, session, spell_out_prelu
from faceq.runtime.uint8_input import NAME, take_uint8

# fmt: off
FACE_OVAL = np.array([
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
])
# fmt: on
"""The 36 landmarks on the outline of the face, clockwise from the top of the forehead. Source:
MediaPipe's face mesh topology."""

_FIVE = np.array([[33, 362, 4, 61, 291], [133, 263, 4, 61, 291]])
"""Pairs of dense landmarks whose midpoints are the eye centres, nose tip and mouth corners."""

FRAME_SIDE = 384
"""Side, in pixels, to which a whole frame is resized for the quality network: the size of CAFI's frames."""

MESH_SIZE = 192
"""Side of FaceMesh's input, in pixels."""

_JPEG_SIDE = 65_500
"""Maximum side of an image in libjpeg, in pixels."""


class FaceMesh:
    """MediaPipe's FaceMesh (Kartynnik et al., 2019): 468 points on a face.

    Args:
        path: its TFLite file.
        threads: number of threads of ONNX Runtime on the CPU.
        device: `cpu` or `cuda`.

    Raises:
        ModelFileError: the file is not FaceMesh.
    """

    shape = (MESH_SIZE, MESH_SIZE)

    def __init__(self, path: Path, threads: int = 1, device: str = "cpu"):
        from faceq.runtime import tflite_onnx  # noqa: PLC0415 - takes a sixth of a second to import

        try:
            model = tflite_onnx.read(path)
        except ValueError as error:
            raise ModelFileError(f"{path}: {error}: FaceMesh is a TFLite file with 468 landmarks") from None
        spell_out_prelu(model)
        take_uint8(model, scale=1 / 255)
        self._session = session(path, model, device, threads)
        sizes = [output.shape[1:] for output in self._session.get_outputs()]
        if self._session.get_inputs()[0].shape[1:] != [MESH_SIZE, MESH_SIZE, 3] or sizes != [[1404], [1]]:
            raise ModelFileError(
                f"{path}: is not FaceMesh, which has the input (192, 192, 3) and gives 468 landmarks and a "
                "confidence"
            )

    def __call__(self, crop: np.ndarray) -> tuple[np.ndarray, float]:
        """The dense landmarks of a face, and the confidence that it is one.

        Args:
            crop: (192, 192, 3) uint8 RGB, an upright and centred face: the square around its landmarks,
                enlarged by half.

        Returns:
            (468, 3) float32: x, y in crop pixels, z in the same unit, away from the camera; and the logit of
            "this is a face". For upright CelebA faces its 1st percentile is 5.8, and half of the values are
            between 24 and 31.
        """
        points, logit = self.batch(crop[None])
        return self.answer(points[0], logit[0])

    def batch(self, crops: np.ndarray) -> tuple[np.ndarray, ...]:
        """The network's outputs, (N, 1404) and (N, 1), for crops (N, 192, 192, 3)."""
        return tuple(self._session.run(None, {NAME: crops}))

    def answer(self, points: np.ndarray, logit: np.ndarray) -> tuple[np.ndarray, float]:
        """The result for one crop from its outputs, (1404,) and (1,)."""
        return points.reshape(-1, 3), float(logit[0])


def five(points: np.ndarray) -> np.ndarray:
    """The five landmarks of `faceq.faces.geometry`, (5, 2), from the dense ones (468, 3)."""
    one, other = points[_FIVE, :2]
    return np.asarray((one + other) / 2)


def apply_region(region: Region, crops: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prepare the input of the quality network, and the mask of the area that it scores.

    Args:
        region: the region that is scored. For FRAME_REGIONS, the crops are whole frames from `blacked_out`.
        crops: (N, S, S, 3) uint8 RGB.
        masks: (N, S, S) float32, 0..1, 1 on the face.

    Returns:
        Crops and masks of the same shapes and types.
    """
    if region == "mask":
        return crops, masks
    if region == "black_out":
        crops = np.rint(crops * masks[..., None]).astype(np.uint8)
    return crops, np.ones_like(masks)


def blacked_out(picture: np.ndarray, outline: np.ndarray, as_jpeg: bool = False) -> np.ndarray:
    """The whole frame with everything black except the face. This is the quality network's input in CAFI.

    Args:
        picture: (H, W, 3) uint8 RGB.
        outline: (N, 2), the outline of the face in pixels of the frame.
        as_jpeg: encode the blacked-out frame as a JPEG with OpenCV's defaults and decode it again, because
            CAFI stores it in a JPEG file. Frames that are too large for JPEG are left unchanged.

    Returns:
        (FRAME_SIDE, FRAME_SIDE, 3) uint8 RGB; frames that are not square are stretched.
    """
    inside = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.round(outline).astype(np.int32)], 1)
    black = picture * inside[..., None]
    if as_jpeg and max(black.shape) <= _JPEG_SIDE:
        black = _through_jpeg(black)
    return cv2.resize(black, (FRAME_SIDE, FRAME_SIDE), interpolation=cv2.INTER_AREA)


def _through_jpeg(picture: np.ndarray) -> np.ndarray:
    """Encode (H, W, 3) uint8 RGB as a JPEG with OpenCV's defaults (quality 95, 4:2:0), and decode it."""
    # OpenCV uses BGR.
    _, file = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]))
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
