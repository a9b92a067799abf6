"""Dense landmarks of a face in a common form: 468 points from FaceMesh or 106 from insightface's model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from faceq.faces import cut_face, geometry, region
from faceq.faces.detect import Face
from faceq.faces.points_106 import POINTS_106_SIZE, Points106Session
from faceq.faces.region import FaceMesh
from faceq.faces.search import Steps, ask, run
from faceq.presets import Outline

MESH_POSE = (4, 152, 33, 263, 61, 291)
POINTS_106_POSE = (86, 0, 35, 93, 52, 61)
"""Indices of nose tip, chin, outer eye corners and mouth corners, left in the image first. Sources:
MediaPipe's face mesh topology; insightface's 106-point markup."""


MESH_LIDS = (
    np.array([[160, 144], [159, 145], [158, 153]]),
    np.array([[385, 380], [386, 374], [387, 373]]),
)
MESH_LIPS = np.array([[82, 87], [13, 14], [312, 317]])
"""Pairs of points of both lids of each eye, left in the image first, and of the inner edges of both lips.
Source: MediaPipe's face mesh topology."""

MESH_ENLARGEMENT = 1.5
"""Side of FaceMesh's crop, relative to the side of the square around its points (as in its training), or, in
the first pass, relative to the side of the detector's box."""

PASSES = 2
"""Number of FaceMesh passes whose landmarks are averaged. The pass before them only locates the face.

Measured on 1,170 CelebA faces with SFace: the false non-match rate at FMR 1e-3 (in parentheses: times the
area under SER-FIQ's error-versus-discard curve up to 0.3) is 8.73% (5.09%) with one pass, 8.11% (5.03%) with
the second pass and 8.01% (5.01%) with the average of two passes. The method of version 0.1.0, with three
detection passes and half a FaceMesh pass, gave 10.0% (5.66%).

FaceMesh's errors in mirrored photos are not mirrored. If one of the two passes sees a mirrored crop, they
cancel out in part: in 130 mirrored CelebA photos, the absolute yaw changes by 0.9% of its range (median)
instead of 2.4%, the distance of the eyes by 0.35% instead of 0.69%. Measured with the present detection
passes, the false non-match rate stays at 7.73% (FMR 1e-3), and falls from 11.25% to 10.82% (FMR 1e-4)."""

MAX_PASSES = 6
MAX_TILT = np.radians(10)
"""Maximum tilt of the eyes in a crop, in radians, for a pass to count: FaceMesh was trained on upright
faces."""


@dataclass(frozen=True)
class Dense:
    """Dense landmarks of one face, in frame pixels.

    points: (N, 2) float32. oval: indices of the points on the face's outline, None if the model defines none.
    pose: indices of nose tip, chin, outer eye corners and mouth corners. five: the five landmarks of
    `faceq.faces.geometry`, (5, 2) float32, None if the model does not give them. logit: logit of "this is a
    face", None if the model does not give it. lids, lips: pairs of indices of points of both lids, for each
    eye, and of both lips, (M, 2) each; None if the model is not known to have them.
    """

    points: np.ndarray
    oval: np.ndarray | None
    pose: tuple[int, ...]
    five: np.ndarray | None = None
    logit: float | None = None
    lids: tuple[np.ndarray, np.ndarray] | None = None
    lips: np.ndarray | None = None

    @property
    def chin(self) -> np.ndarray:
        return self.points[self.pose[1]]

    def outline(self, kind: Outline) -> np.ndarray:
        """The face's outline (M, 2) float32: the oval, if it is requested and the model defines one;
        otherwise the convex hull of the landmarks."""
        if kind == "oval" and self.oval is not None:
            return self.points[self.oval]
        return cv2.convexHull(np.ascontiguousarray(self.points))[:, 0]


class Landmarker(Protocol):
    """A model of dense landmarks."""

    def __call__(self, picture: np.ndarray, face: Face) -> Dense:
        """The landmarks of a face that was detected in a frame, (H, W, 3) uint8 RGB."""

    def steps(self, picture: np.ndarray, face: Face) -> Steps[Dense]:
        """The same as a search."""


class Mesh:
    """FaceMesh, run several times on upright crops. The first crop comes from the detector's box and eyes,
    each further one from the points of the previous pass, until PASSES of them show the face level. Of these,
    every second one is mirrored.

    If a pass places points outside the frame, the face is cut off by the frame's edge. Then the next pass
    only locates the face, PASSES more are averaged, and the points outside the frame are replaced by those of
    an average head that fits the others.
    """

    def __init__(self, network: Callable[[np.ndarray], Any]):
        """network: FaceMesh, or MiniBatches of it."""
        self._mesh = network

    def __call__(self, picture: np.ndarray, face: Face) -> Dense:
        return run(self.steps(picture, face))

    def steps(self, picture: np.ndarray, face: Face) -> Steps[Dense]:
        side = MESH_ENLARGEMENT * face.side
        corners = geometry.frame_corners(picture.shape[1], picture.shape[0])
        picture, matrix_back = _reduced(picture, face.centre, side)
        low, _, high, _ = geometry.from_frame(corners, matrix_back)
        angle = geometry.eye_angle(face.landmarks)
        centre = geometry.from_frame(face.centre[None], matrix_back)[0]
        side *= matrix_back[0, 0]
        passes: list[Pass] = []
        first, cut = 1, False
        for number in range(MAX_PASSES):
            matrix = geometry.crop_matrix(centre, side, angle, region.MESH_SIZE)
            shown, is_mirrored = _shown(picture, matrix, cut), len(passes) % 2 == 1
            points, logit = yield from ask(self._mesh, _mirrored(shown) if is_mirrored else shown)
            points = _mirrored_back(points) if is_mirrored else points
            tilt = abs(geometry.eye_angle(region.five(points)))
            placed = geometry.to_frame(points[:, :2], matrix)
            last = placed, points[:, 2] / np.hypot(*matrix[0, :2]), logit
            if number >= first and tilt < MAX_TILT:
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
        five, logit = region.five(points), float(mean[2])
        return Dense(points, region.FACE_OVAL, MESH_POSE, five, logit, MESH_LIDS, MESH_LIPS)


Pass = tuple[np.ndarray, np.ndarray, float]
"""Result of one FaceMesh pass: the points (468, 2), their depths (468,) in the same unit, and the logit."""


def _whole(seen: Pass, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The points (468, 2) of a face. Points outside the frame (`low` to `high`) are those of an average
    head."""
    points, depths, _ = seen
    return cut_face.completed(points, depths, cut_face.inside(points, low, high))


def _shown(picture: np.ndarray, matrix: np.ndarray, cut: bool) -> np.ndarray:
    """FaceMesh's input, (192, 192, 3). A plain warp is enough: the image is at most twice as large.

    The area outside the frame is black. If the frame's edge cuts off the face, that area repeats the pixels
    of the edge instead, and the landmarks move less (for faces cut off by 20%, the root mean square is 1.2 to
    1.5% of the face's size instead of 1.8 to 2.3%).
    """
    border = cv2.BORDER_REPLICATE if cut else cv2.BORDER_CONSTANT
    return cv2.warpAffine(picture, matrix, (region.MESH_SIZE, region.MESH_SIZE), borderMode=border)


def _mirrored(crop: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(crop[:, ::-1])


def _mirrored_back(points: np.ndarray) -> np.ndarray:
    """The points (468, 3) of a crop from those that FaceMesh found in the mirrored crop."""
    x, y, z = points[cut_face.COUNTERPARTS].T
    return np.column_stack([region.MESH_SIZE - 1 - x, y, z])


def _reduced(picture: np.ndarray, centre: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """The region around a face, averaged down by an integer factor if it is much larger than FaceMesh's
    input, and the map (2, 3) from the image's pixels to those of the region. The following crops then cost
    the same for faces of all sizes."""
    factor = int(side // region.MESH_SIZE)
    if factor < 2:
        return picture, np.eye(2, 3)
    height, width = picture.shape[:2]
    low = np.clip(np.floor(centre - side), 0, None).astype(int)
    high = np.minimum(np.ceil(centre + side).astype(int), (width, height))
    part = picture[low[1] : high[1], low[0] : high[0]]
    # Cut to an integer multiple of the factor, so that the scale is the same on both axes.
    part = part[: part.shape[0] // factor * factor, : part.shape[1] // factor * factor]
    if not part.size:
        return picture, np.eye(2, 3)
    small = cv2.resize(part, (part.shape[1] // factor, part.shape[0] // factor), interpolation=cv2.INTER_AREA)
    # Pixel centres have integer coordinates: the middle of the first `factor` pixels is the centre of the
    # first reduced pixel.
    shift = -(low + (factor - 1) / 2) / factor
    return small, np.column_stack([np.eye(2) / factor, shift])


class Points106:
    """insightface's 106 landmarks, in a crop of the frame that is not rotated.

    Source: insightface's `2d106det`, trained by its authors, used as in its class `Landmark`.
    """

    def __init__(self, network: Callable[[np.ndarray], Any]):
        """network: a Points106Session, or MiniBatches of it."""
        self._net = network

    def __call__(self, picture: np.ndarray, face: Face) -> Dense:
        return run(self.steps(picture, face))

    def steps(self, picture: np.ndarray, face: Face) -> Steps[Dense]:
        # In the precision of insightface: a crop that is moved by less than a pixel's 32nd is another image.
        low, size = face.box[:2], face.box[2:]
        scale = np.float32(POINTS_106_SIZE) / (size.max() * np.float32(1.5))
        shift = POINTS_106_SIZE / 2 - ((low + size + low) / 2 * scale).astype(np.float64)
        matrix = np.column_stack([np.eye(2) * float(scale), shift])
        crop = cv2.warpAffine(picture, matrix, (POINTS_106_SIZE, POINTS_106_SIZE))
        points = yield from ask(self._net, crop)
        placed = geometry.from_frame(points.astype(np.float64), cv2.invertAffineTransform(matrix))
        return Dense(placed.astype(np.float32), None, POINTS_106_POSE)


def load(path: Path, device: str = "cpu", threads: int = 1, mini_batch: int | None = None) -> Landmarker:
    """Load a landmark model from a TFLite or ONNX file.

    Args:
        path: FaceMesh (TFLite), or insightface's model with 106 landmarks (ONNX).
        device: `cpu` or `cuda`.
        threads: number of threads of ONNX Runtime on the CPU.
        mini_batch: number of crops in a mini-batch, for `faceq.faces.batched_search`; None: one by one.

    Raises:
        ModelFileError: the file is neither of them.
    """
    is_mesh = path.suffix == ".tflite"
    network: Any = FaceMesh(path, threads, device) if is_mesh else Points106Session(path, device, threads)
    if mini_batch is not None:
        from faceq.faces.fixed_size import MiniBatches  # noqa: PLC0415 - imports torch

        network = MiniBatches(network, mini_batch)
    return Mesh(network) if is_mesh else Points106(network)
