"""Dense landmarks of a face by either model, in one form: FaceMesh's 468 points, or insightface's 106."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from faceq import geometry, mask
from faceq.config import Outline
from faceq.detect import Face
from faceq.mask import FaceMesh
from faceq.onnx_runtime import ModelFileError, read, session

MESH_POSE = (4, 152, 33, 263, 61, 291)
POINTS_106_POSE = (86, 0, 35, 93, 52, 61)
"""Which points are nose tip, chin, outer eye corners and mouth corners, image left first. Sources:
MediaPipe's face mesh topology; insightface's 106-point markup."""


@dataclass(frozen=True)
class Dense:
    """Dense landmarks of one face.

    points: (N, 2) float32 in pixels of the crop that `matrix` (2, 3) cuts out of the frame, or, where that is
    None, of the frame. oval: which points are the face's outline, None where the model names none. pose: nose
    tip, chin, outer eye corners and mouth corners. five: the five landmarks of `faceq.geometry`, (5, 2) in
    the same pixels, where the model has them.
    """

    points: np.ndarray
    matrix: np.ndarray | None
    oval: np.ndarray | None
    pose: tuple[int, ...]
    five: np.ndarray | None

    def outline(self, kind: Outline) -> np.ndarray:
        """The face's outline (M, 2) float32 in the points' own pixels: its oval, if that is what is asked for
        and the model has one; the landmarks' convex hull."""
        if kind == "oval" and self.oval is not None:
            return self.points[self.oval]
        return cv2.convexHull(np.ascontiguousarray(self.points))[:, 0]

    def in_frame(self, points: np.ndarray) -> np.ndarray:
        """Some of the points, (M, 2), in frame pixels."""
        return points if self.matrix is None else geometry.to_frame(points, self.matrix)

    def in_crop(self, points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """Some of the points, (M, 2), in pixels of the crop that `matrix` cuts out of the frame."""
        if self.matrix is matrix:
            return points
        return geometry.from_frame(self.in_frame(points), matrix)


class Landmarker(Protocol):
    """A model of dense landmarks."""

    def __call__(self, picture: np.ndarray, face: Face, crop: np.ndarray, matrix: np.ndarray) -> Dense:
        """Landmarks of a face.

        Args:
            picture: the frame, (H, W, 3) uint8 RGB.
            face: as it was detected there.
            crop, matrix: the upright crop around it and its map, as in `faceq.geometry`.
        """


class Mesh:
    """FaceMesh, which looks at the upright crop."""

    def __init__(self, path: Path):
        try:
            self._mesh = FaceMesh(path)
            self._mesh(np.full((geometry.CROP_SIZE, geometry.CROP_SIZE, 3), 128, np.uint8))
        except (cv2.error, ValueError) as error:
            raise ModelFileError(
                f"{path}: is not FaceMesh with 468 landmarks for pictures of (192, 192, 3): {_short(error)}"
            ) from None

    def __call__(self, picture: np.ndarray, face: Face, crop: np.ndarray, matrix: np.ndarray) -> Dense:
        points = self._mesh(crop)
        return Dense(points[:, :2], matrix, mask.FACE_OVAL, MESH_POSE, mask.five(points))


class Points106:
    """insightface's 106 landmarks, by its own class, which cuts the face out of the frame as it is.

    Source: insightface's `2d106det`, trained by its authors.
    """

    def __init__(self, path: Path, device: str = "cpu", threads: int = 1):
        from insightface.model_zoo.landmark import Landmark  # noqa: PLC0415 - a second, for this alone

        model = read(path)
        made = session(path, model, device, threads)
        taken, given = made.get_inputs(), made.get_outputs()
        if len(taken) != 1 or list(taken[0].shape[1:]) != [3, 192, 192]:
            raise ModelFileError(
                f"{path}: takes {', '.join(str(each.shape) for each in taken)}: landmark models take "
                "(N, 3, 192, 192)"
            )
        if len(given) != 1 or list(given[0].shape[1:]) != [212]:
            raise ModelFileError(
                f"{path}: gives {', '.join(str(each.shape) for each in given)}: 106 landmarks in the plane "
                "are (N, 212) numbers"
            )
        self._model = Landmark(str(path), made)

    def __call__(self, picture: np.ndarray, face: Face, crop: np.ndarray, matrix: np.ndarray) -> Dense:
        found = _Detected(bbox=np.concatenate([face.box[:2], face.box[:2] + face.box[2:]]))
        points = self._model.get(np.ascontiguousarray(picture[..., ::-1]), found)
        return Dense(points.astype(np.float32), None, None, POINTS_106_POSE, None)


class _Detected(dict[str, Any]):
    """A face as insightface's classes take it: they read `bbox` (x1, y1, x2, y2) and leave their results
    there."""

    def __init__(self, bbox: np.ndarray):
        super().__init__()
        self.bbox = bbox


def load(path: Path, device: str = "cpu", threads: int = 1) -> Landmarker:
    """The landmark model in a file, TFLite or ONNX; ModelFileError where it is none that is known.

    `device`, `cpu` or `cuda`, and `threads` are ONNX Runtime's: OpenCV, which runs FaceMesh, comes from the
    package index without CUDA.
    """
    return Mesh(path) if path.suffix == ".tflite" else Points106(path, device, threads)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
