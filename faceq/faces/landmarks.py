"""Dense landmarks of a face by either model, in one form: FaceMesh's 468 points, or insightface's 106."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from faceq.faces import cut_face, geometry, region
from faceq.faces.detect import Face
from faceq.faces.region import FaceMesh
from faceq.presets import Outline
from faceq.runtime.onnx_runtime import ModelFileError, read, session

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
    nose tip, chin, outer eye corners and mouth corners. five: the five landmarks of `faceq.faces.geometry`,
    (5, 2) float32, and logit: of "this is a face", where the model gives them.
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
    the points of the pass before, until PASSES of them show the face level.

    Once a pass puts points beyond the frame, the frame cuts the face: the next pass only shows where the face
    lies, PASSES more are averaged, and the points beyond the frame are those of an average head that fits the
    others.
    """

    def __init__(self, path: Path, threads: int = 1):
        self._mesh = FaceMesh(path, threads)

    def __call__(self, picture: np.ndarray, face: Face) -> Dense:
        side = MESH_ENLARGEMENT * face.side
        corners = geometry.frame_corners(picture.shape[1], picture.shape[0])
        picture, matrix_back = _reduced(picture, face.centre, side)
        low, _, high, _ = geometry.from_frame(corners, matrix_back)
        angle = geometry.eye_angle(face.landmarks)
        centre = geometry.from_frame(face.centre[None], matrix_back)[0]
        side *= matrix_back[0, 0]
        passes: list[Pass] = []
        first, cut = 1, False
        for number in range(MOST_PASSES):
            matrix = geometry.crop_matrix(centre, side, angle, region.MESH_SIZE)
            points, logit = self._mesh(_shown(picture, matrix, cut))
            tilt = abs(geometry.eye_angle(region.five(points)))
            placed = geometry.to_frame(points[:, :2], matrix)
            last = placed, points[:, 2] / np.hypot(*matrix[0, :2]), logit
            if number >= first and tilt < LEVEL:
                passes.append(last)
            if len(passes) == PASSES:
                break
            if not cut and not cut_face.inside(placed, low, high).all():
                first, cut = number + 2, True
                passes.clear()
            angle = geometry.eye_angle(region.five(placed))
            extent = _whole(last, low, high) if cut else placed
            centre, side = geometry.upright_extent(extent, angle)
            side *= MESH_ENLARGEMENT
        kept = passes or [last]
        mean = tuple(np.mean(each, axis=0) for each in zip(*kept, strict=True))
        whole = _whole(mean, low, high) if cut else mean[0]
        points = geometry.to_frame(whole, matrix_back).astype(np.float32)
        return Dense(points, region.FACE_OVAL, MESH_POSE, region.five(points), float(mean[2]))


Pass = tuple[np.ndarray, np.ndarray, float]
"""Of FaceMesh: the points (468, 2), their depths (468,) in the same unit, the logit."""


def _whole(seen: Pass, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The points (468, 2) of a face in a frame between two corners, those beyond it by an average head."""
    points, depths, _ = seen
    return cut_face.completed(points, depths, cut_face.inside(points, low, high))


def _shown(picture: np.ndarray, matrix: np.ndarray, cut: bool) -> np.ndarray:
    """What the mesh is shown, (192, 192, 3). By a plain warp: the picture is at most twice as large there.

    Beyond the frame it is black; of a face that the frame cuts, the pixels of the frame's edge go on, and
    fewer landmarks move (the root mean square over faces cut by 20% is 1.2 to 1.5% of the face's size
    instead of 1.8 to 2.3%).
    """
    border = cv2.BORDER_REPLICATE if cut else cv2.BORDER_CONSTANT
    return cv2.warpAffine(picture, matrix, (region.MESH_SIZE, region.MESH_SIZE), borderMode=border)


def _reduced(picture: np.ndarray, centre: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """The picture around a face, averaged down by a whole number where its crop is far larger than the mesh's
    input; and the map (2, 3) from the picture's pixels to its own. The crops that follow then cost the same
    for all sizes."""
    factor = int(side // region.MESH_SIZE)
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
