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


MESH_ENLARGEMENT = 1.5
"""Side of FaceMesh's crop over that of the square around its points, as it was trained; over that of the
detector's box for the first pass."""

PASSES = 2
"""Passes of FaceMesh whose landmarks are averaged, after the first one, which only shows where the face lies.

Measured on 1,170 CelebA faces with SFace: false non-matches at FMR 1e-3 (times the area under SER-FIQ's
error-versus-discard curve to 0.3) are 8.73% (5.09%) with the first pass alone, 8.11% (5.03%) with the second
and 8.01% (5.01%) with both of these averaged; with three looks of the detector and half a pass, as version
0.1.0 did it, 10.0% (5.66%)."""

MOST_PASSES = 6
LEVEL = np.radians(10)
"""Tilt of the eyes in a crop up to which its pass counts: FaceMesh was trained on upright faces."""


@dataclass(frozen=True)
class Dense:
    """Dense landmarks of one face, in frame pixels.

    points: (N, 2) float32. oval: which points are the face's outline, None where the model names none. pose:
    nose tip, chin, outer eye corners and mouth corners. five: the five landmarks of `faceq.geometry`, (5, 2)
    float32, and logit: of "this is a face", where the model gives them.
    """

    points: np.ndarray
    oval: np.ndarray | None
    pose: tuple[int, ...]
    five: np.ndarray | None = None
    logit: float | None = None

    def outline(self, kind: Outline) -> np.ndarray:
        """The face's outline (M, 2) float32: its oval, if that is what is asked for and the model has one;
        the landmarks' convex hull."""
        if kind == "oval" and self.oval is not None:
            return self.points[self.oval]
        return cv2.convexHull(np.ascontiguousarray(self.points))[:, 0]


class Landmarker(Protocol):
    """A model of dense landmarks."""

    def __call__(self, picture: np.ndarray, face: Face) -> Dense:
        """Landmarks of a face that was detected in a frame, (H, W, 3) uint8 RGB."""


class Mesh:
    """FaceMesh, which looks at upright crops: the first one by the detector's box and eyes, each other one by
    the points of the pass before, until PASSES of them show the face level."""

    def __init__(self, path: Path, threads: int = 1):
        self._mesh = FaceMesh(path, threads)

    def __call__(self, picture: np.ndarray, face: Face) -> Dense:
        side = MESH_ENLARGEMENT * face.side
        picture, matrix_back = _reduced(picture, face.centre, side)
        angle = geometry.eye_angle(face.landmarks)
        centre = geometry.from_frame(face.centre[None], matrix_back)[0]
        side *= matrix_back[0, 0]
        passes: list[tuple[np.ndarray, float]] = []
        for number in range(MOST_PASSES):
            matrix = geometry.crop_matrix(centre, side, angle, mask.MESH_SIZE)
            points, logit = self._mesh(_cut(picture, matrix))
            tilt = abs(geometry.eye_angle(mask.five(points)))
            placed = geometry.to_frame(points[:, :2], matrix)
            last = placed, logit
            if number and tilt < LEVEL:
                passes.append(last)
            if len(passes) == PASSES:
                break
            angle = geometry.eye_angle(mask.five(placed))
            centre, side = geometry.upright_extent(placed, angle)
            side *= MESH_ENLARGEMENT
        kept = passes or [last]
        mean = np.mean([placed for placed, _ in kept], axis=0)
        points = geometry.to_frame(mean, matrix_back).astype(np.float32)
        logit = float(np.mean([logit for _, logit in kept]))
        return Dense(points, mask.FACE_OVAL, MESH_POSE, mask.five(points), logit)


def _cut(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """What the mesh is shown, (192, 192, 3). By a plain warp: the picture is at most twice as large there."""
    return cv2.warpAffine(picture, matrix, (mask.MESH_SIZE, mask.MESH_SIZE))


def _reduced(picture: np.ndarray, centre: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """The picture around a face, averaged down by a whole number where its crop is far larger than the mesh's
    input; and the map (2, 3) from the picture's pixels to its own. The crops that follow then cost the same
    for all sizes."""
    factor = int(side // mask.MESH_SIZE)
    if factor < 2:
        return picture, np.eye(2, 3)
    height, width = picture.shape[:2]
    low = np.clip(np.floor(centre - side), 0, None).astype(int)
    high = np.minimum(np.ceil(centre + side).astype(int), (width, height))
    part = picture[low[1] : high[1], low[0] : high[0]]
    # A whole multiple of the factor, lest the scale differ between the axes.
    part = part[: part.shape[0] // factor * factor, : part.shape[1] // factor * factor]
    if not part.size:
        return picture, np.eye(2, 3)
    small = cv2.resize(part, (part.shape[1] // factor, part.shape[0] // factor), interpolation=cv2.INTER_AREA)
    # Pixel centres lie at whole numbers: the middle of the first `factor` pixels is that of the small one.
    shift = -(low + (factor - 1) / 2) / factor
    return small, np.column_stack([np.eye(2) / factor, shift])


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

    def __call__(self, picture: np.ndarray, face: Face) -> Dense:
        found = _Detected(bbox=np.concatenate([face.box[:2], face.box[:2] + face.box[2:]]))
        points = self._model.get(np.ascontiguousarray(picture[..., ::-1]), found)
        return Dense(points.astype(np.float32), None, POINTS_106_POSE)


class _Detected(dict[str, Any]):
    """A face as insightface's classes take it: they read `bbox` (x1, y1, x2, y2) and leave their results
    there."""

    def __init__(self, bbox: np.ndarray):
        super().__init__()
        self.bbox = bbox


def load(path: Path, device: str = "cpu", threads: int = 1) -> Landmarker:
    """The landmark model in a file, TFLite or ONNX; ModelFileError where it is none that is known.

    `device`, `cpu` or `cuda`, and `threads` are ONNX Runtime's. FaceMesh, which takes a millisecond, stays on
    the CPU.
    """
    return Mesh(path, threads) if path.suffix == ".tflite" else Points106(path, device, threads)
