"""Detection passes over a frame: at one scale, over the whole frame or a part of it, rotated or not."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from faceq.faces import geometry
from faceq.faces.detect import Detector, Face, face_of, overlap, search_of
from faceq.faces.search import Steps, run

SAME_FACE = 0.4
"""Minimum intersection over union at which boxes from two detection passes count as the same face."""

REGION_SIDE = 4.0
"""Side of the region around a face that is searched again, relative to the side of the face."""


@dataclass(frozen=True)
class View:
    """A frame, or a part of it, at the scale of a detection pass, before rotation.

    picture: the frame, (H, W, 3) uint8 RGB. shown: the scaled part. scale: scale of `shown`, at most 1.
    stretch, origin: (2,) each; a point of `shown` times `stretch` plus `origin` is the point in frame pixels.
    """

    picture: np.ndarray
    shown: np.ndarray
    scale: float
    stretch: np.ndarray
    origin: np.ndarray

    @classmethod
    def of(cls, picture: np.ndarray, scale: float) -> "View":
        """A view of the whole frame."""
        return cls._of_part(picture, picture, scale, np.zeros(2))

    @classmethod
    def around(cls, picture: np.ndarray, face: Face, side: int) -> "View":
        """A view of the region around a face, REGION_SIDE times its size, at most `side` pixels wide or
        high."""
        half = REGION_SIDE * face.side / 2
        low = np.clip(face.centre - half, 0, None).astype(int)
        high = np.ceil(face.centre + half).astype(int)
        part = picture[low[1] : high[1], low[0] : high[0]]
        if not part.size:
            return cls.of(picture, min(1.0, side / max(picture.shape[:2])))
        return cls._of_part(picture, part, min(1.0, side / max(part.shape[:2])), low.astype(np.float64))

    @classmethod
    def _of_part(cls, picture: np.ndarray, part: np.ndarray, scale: float, origin: np.ndarray) -> "View":
        small, stretch = geometry.shrunk(part, scale)
        return cls(picture, small, scale, stretch, origin)

    def to_frame(self, points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """Convert points (N, 2) of the view rotated by `matrix` (2, 3) to frame pixels."""
        return geometry.to_frame(points, matrix) * self.stretch + self.origin


def detect_in_view(detector: Detector, view: View, turn: int) -> list[Face]:
    """Detect faces in a view rotated clockwise by `turn` degrees. The faces are in frame pixels."""
    return run(detected(detector, view, turn))


def detected(detector: Detector, view: View, turn: int) -> Steps[list[Face]]:
    """The same as a search."""
    shown, matrix = turned(view.shown, turn)
    faces = yield from _in_tiles(detector, shown)
    placed = (_placed(face, view, matrix, turn) for face in faces)
    return [face for face in placed if face is not None]


def add_new(faces: list[Face], others: list[Face]) -> None:
    """Add the faces of another detection pass that are not in the list yet."""
    for face in others:
        if not is_among(face, faces):
            faces.append(face)


def is_among(face: Face, faces: Iterable[Face]) -> bool:
    """Whether one of these faces, from other detection passes, is the same face."""
    return any(overlap(face, known) >= SAME_FACE for known in faces)


def turned(picture: np.ndarray, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotate an image (H, W, 3) clockwise by `turn` degrees, without cropping it, on black.

    Returns:
        The rotated image, and the map (2, 3) from the pixels of the original to those of the rotated image.
    """
    height, width = picture.shape[:2]
    if turn == 0:
        return picture, np.eye(2, 3)
    if turn % 90 == 0:
        quarter = turn // 90
        whole = np.ascontiguousarray(np.rot90(picture, -quarter))
        maps = {
            1: [[0, -1, height - 1], [1, 0, 0]],
            2: [[-1, 0, width - 1], [0, -1, height - 1]],
            3: [[0, 1, 0], [-1, 0, width - 1]],
        }
        return whole, np.array(maps[quarter], np.float64)
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    size = (
        int(np.ceil(abs(height * sin) + abs(width * cos))),
        int(np.ceil(abs(height * cos) + abs(width * sin))),
    )
    linear = np.array([[cos, -sin], [sin, cos]])
    centre = np.array([width - 1, height - 1]) / 2
    matrix = np.column_stack([linear, (np.array(size) - 1) / 2 - linear @ centre])
    return cv2.warpAffine(picture, matrix, size), matrix


def _placed(face: Face, view: View, matrix: np.ndarray, turn: int) -> Face | None:
    """Convert a face of a rotated view to frame pixels; None if it is outside the frame.

    Its box becomes the bounding box of the rotated box.
    """
    height, width = view.picture.shape[:2]
    corners = face.centre + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * face.size / 2
    back = view.to_frame(corners, matrix)
    low, high = back.min(axis=0), back.max(axis=0)
    landmarks = view.to_frame(face.landmarks, matrix)
    placed = face_of(np.concatenate([low, high - low]), landmarks, face.score, width, height)
    if placed is None:
        return None
    return replace(placed, size=face.size * view.stretch.mean(), turn=turn)


def _in_tiles(detector: Detector, picture: np.ndarray) -> Steps[list[Face]]:
    """All faces in an image. An image larger than a tile is processed in overlapping tiles.

    Tiles overlap by twice the size of the smallest face that the first pass, over the whole frame, finds. A
    face that a tile's edge cuts off is therefore complete in another tile, or was found by the first pass.
    """
    height, width = picture.shape[:2]
    tile = detector.tile
    if max(height, width) <= tile:
        return (yield from search_of(detector, picture))
    common = min(tile // 2, 2 * detector.least_face * max(height, width) // detector.first_side)
    found: list[Face] = []
    for top in _starts(height, tile, common):
        for left in _starts(width, tile, common):
            part = np.ascontiguousarray(picture[top : top + tile, left : left + tile])
            for face in (yield from search_of(detector, part)):
                low, high = face.box[:2], face.box[:2] + face.box[2:]
                cut = (
                    (left > 0 and low[0] <= 1)
                    or (top > 0 and low[1] <= 1)
                    or (left + tile < width and high[0] >= part.shape[1] - 1)
                    or (top + tile < height and high[1] >= part.shape[0] - 1)
                )
                if not cut:
                    add_new(found, [_moved(face, np.array([left, top], np.float32))])
    return found


def _starts(length: int, tile: int, common: int) -> list[int]:
    """The start positions of tiles that cover a length and overlap by at least `common`."""
    if length <= tile:
        return [0]
    count = int(np.ceil((length - common) / (tile - common)))
    return [round(start) for start in np.linspace(0, length - tile, count)]


def _moved(face: Face, shift: np.ndarray) -> Face:
    box = face.box.copy()
    box[:2] += shift
    return replace(face, box=box, landmarks=face.landmarks + shift, centre=face.centre + shift)
