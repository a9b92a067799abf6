"""Find the face of a frame that is scored, whatever its orientation and size.

This module chooses the scales, rotations and parts of the frame in which the detector runs, selects one of
the detected faces, and finds its dense landmarks. If its results change, raise `method.FACE_FINDING`.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from faceq.faces import geometry
from faceq.faces.detect import Detector, Face, face_of, overlap, search_of
from faceq.faces.landmarks import Dense, Landmarker
from faceq.faces.search import Steps, gathered, run

SAME_FACE = 0.4
"""Minimum intersection over union at which boxes from two detection passes count as the same face."""

MIN_ZOOM = 1.2
"""A second detection pass only runs if its scale is more than this many times that of the first."""

NEAR_BEST = 0.15
"""Faces whose confidence is at most this much below the best one are candidates; the largest of them is
chosen. A wider margin would choose a hand (.72) or a bodice (.61) instead of the face (.91, .95)."""

SURE_LOGIT = 14.0
SURE_SCORE = 0.7
"""Minimum landmark logit (or, for landmark models without a logit, minimum detector confidence) at which a
face is accepted as upright. Below it, the frame is also rotated. 4% of CelebA's upright faces are below the
logit. Rotated by 90 degrees, they reach 3.8 (99th percentile), by 180 degrees 9.0 (95th percentile)."""

MIN_CONFIDENCE = 0.5
SURE_FACE = 0.85
"""A detection counts as a face if its `face_confidence` is at least the first number, or the detector's
confidence at least the second.

In 1,180 CelebA photos, 3 detections are below the first number; in photos without a face, nearly all
detections are. Blurred faces and profiles can be below it, too: 22 of 191 faces of the demo's degraded images
are, and 15 of these are above the second number. In LIVE Challenge, all eight detections of at least 40
pixels that pass only because of the second number are faces."""

CANDIDATES = 3
"""Maximum number of detections per pass that are tried until one of them is a face: a detector may find a
false face, in clouds for example, that is larger than the real one."""

TURNED_LOGIT = 6.0
LEAD_LOGIT = 2.0
LEAD_SCORE = 0.05
"""Minimum logit of a face found in a rotated frame, and the lead in logit or score that it needs over a face
found in the upright frame."""

TURNS = ((90, 180, 270), (45, 135, 225, 315))
"""Rotations in degrees, clockwise. The second group is tried if the first finds no face or an uncertain
one."""

MAX_TILT = 25.0
"""Maximum tilt of a face, in degrees, in the detection pass that found it. Beyond it, detection is repeated
with the face level: a detector's landmarks are biased towards upright, and beyond 45 degrees it misses many
faces."""

MAX_LEVELLING_PASSES = 3

REGION_SIDE = 4.0
"""Side of the region around a face that is searched again, relative to the side of the face."""


@dataclass(frozen=True)
class Found:
    """The face of a frame that is scored.

    face: the face, with the landmarks used for alignment. dense: its dense landmarks. areas: of all faces
    found in the frame, square pixels. turn: rotation of the frame when the face was found, degrees,
    clockwise. given: if the frame is a face that is already aligned, the landmarks of the alignment template,
    (5, 2) float32, frame pixels; then these are used for alignment. None if the face was detected.
    """

    face: Face
    dense: Dense
    areas: tuple[float, ...]
    turn: int
    given: np.ndarray | None = None

    @property
    def logit(self) -> float | None:
        """The landmark model's logit of "this is a face"; None if the model has no such output."""
        return self.dense.logit

    @property
    def tilt(self) -> float:
        """Tilt of the line through the eyes in the rotated frame, degrees, -180...180."""
        return (np.degrees(geometry.eye_angle(self.face.landmarks)) + self.turn + 180) % 360 - 180


class Finder:
    """Finds the face of a frame.

    The first detection pass scales the frame's longer side to `first_side`. If a face of `min_face` pixels
    would then be too small for the detector, a second pass in tiles uses a scale at which the detector finds
    such a face. This is the most expensive pass in large frames, and it runs only once. If nothing is found,
    one more pass runs at `coarse_side`.

    If there is still no face, or it is not certain that the face is upright, the detector runs on the rotated
    frame (by multiples of 90 degrees first), and on the region around the face found so far. If a face is
    tilted in the pass that found it, detection is repeated with its eyes level. These passes run at
    `first_side`; there are at most 32 of them.

    Args:
        detector, landmarker: the models.
        min_face: shorter side, in pixels, of the smallest face that must be found.
    """

    def __init__(self, detector: Detector, landmarker: Landmarker, min_face: int):
        self._detector = detector
        self._landmarker = landmarker
        self._min_face = min_face

    def __call__(self, picture: np.ndarray) -> Found | None:
        """The face of an RGB uint8 frame (H, W, 3); None if there is none."""
        return run(self.steps(picture))

    def steps(self, picture: np.ndarray) -> Steps[Found | None]:
        """The same as a search."""
        first = View.of(picture, self._first_scale(picture))
        found = (yield from self._found(first)) or (yield from self._found_coarsely(picture))
        best = yield from self._levelled(first, found)
        for turns in TURNS:
            if best is not None and _is_sure(best):
                break
            found, views = best, self._views(first, best)
            others = yield from gathered([self._found_turned(views, turn, found) for turn in turns])
            for other in others:
                if other is not None and _is_better(other, best):
                    best = other
            best = yield from self._levelled(first, best)
        return best

    def _found(self, first: "View") -> Steps[Found | None]:
        """The face of the frame without rotation."""
        views = [first]
        close = min(1.0, self._detector.least_face / self._min_face)
        if close > MIN_ZOOM * first.scale:
            views.append(View.of(first.picture, close))
        faces = yield from self._detected_in(views, 0)
        return (yield from self._select(first.picture, faces, 0))

    def _found_coarsely(self, picture: np.ndarray) -> Steps[Found | None]:
        side, longer = self._detector.coarse_side, max(picture.shape[:2])
        if side >= min(longer, self._detector.first_side):
            return None
        faces = yield from _detected(self._detector, View.of(picture, side / longer), 0)
        return (yield from self._select(picture, faces, 0))

    def _views(self, first: "View", before: Found | None) -> list["View"]:
        """The views for a detection pass on the rotated frame: the whole frame, and the region around the
        face found before if that view shows the face larger."""
        if before is None:
            return [first]
        around = View.around(first.picture, before.face, self._detector.first_side)
        return [first, around] if around.scale > MIN_ZOOM * first.scale else [first]

    def _found_turned(self, views: list["View"], turn: int, before: Found | None) -> Steps[Found | None]:
        """The face in the given views of the frame, rotated by `turn` degrees."""
        faces = yield from self._detected_in(views, turn)
        found = yield from self._select(views[0].picture, faces, turn)
        if found is None or before is None:
            return found
        return replace(found, areas=max(found.areas, before.areas, key=len))

    def _detected_in(self, views: list["View"], turn: int) -> Steps[list[Face]]:
        """The faces in all of these views of a frame, each of them once."""
        faces, *others = yield from gathered([_detected(self._detector, view, turn) for view in views])
        for more in others:
            _add(faces, more)
        return faces

    def _first_scale(self, picture: np.ndarray) -> float:
        return min(1.0, self._detector.first_side / max(picture.shape[:2]))

    def _select(self, picture: np.ndarray, faces: list[Face], turn: int) -> Steps[Found | None]:
        first, left = None, list(faces)
        for _ in range(min(CANDIDATES, len(faces))):
            face = chosen(left)
            left = [other for other in left if other is not face]
            dense = yield from self._landmarker.steps(picture, face)
            if dense.five is not None:
                face = replace(face, landmarks=dense.five)
            found = Found(face, dense, tuple(each.area for each in faces), turn)
            if is_face(found):
                return found
            first = first or found
        return first

    def _levelled(self, first: "View", found: Found | None) -> Steps[Found | None]:
        """The face. If it is tilted, it is detected again in a frame rotated so that its eyes are level."""
        for _ in range(MAX_LEVELLING_PASSES):
            if found is None or found.logit is None or abs(found.tilt) < MAX_TILT:
                break
            turn = round(found.turn - found.tilt) % 360
            again = yield from self._found_turned(self._views(first, found), turn, found)
            if again is None or _sureness(again) < _sureness(found) - LEAD_LOGIT:
                break
            found = again
        return found


def chosen(faces: list[Face]) -> Face:
    """The largest face among those with nearly the best confidence: at most NEAR_BEST below it.

    The area of a face that the frame's edge cuts off is weighted by the square of its share inside the frame.
    """
    best = max(face.score for face in faces)
    near = [face for face in faces if face.score >= best - NEAR_BEST]
    return max(near, key=lambda face: face.area * face.inside**2)


def face_confidence(found: Found) -> float | None:
    """The dense landmark model's confidence that this is a face, 0...1; None if the model has no such output.

    It is the sigmoid of a quarter of the logit, so that upright faces do not all get 1.
    """
    return None if found.logit is None else float(1 / (1 + np.exp(-found.logit / 4)))


def is_face(found: Found) -> bool:
    """Whether a detection is a face: at least one of the two models is confident enough."""
    confidence = face_confidence(found)
    return confidence is None or confidence >= MIN_CONFIDENCE or found.face.score >= SURE_FACE


def _sureness(found: Found) -> float:
    return found.face.score if found.logit is None else found.logit


def _is_sure(found: Found) -> bool:
    return _sureness(found) >= (SURE_SCORE if found.logit is None else SURE_LOGIT)


def _is_better(other: Found, best: Found | None) -> bool:
    """Whether a face found in a rotated frame replaces the best one so far."""
    if other.logit is not None and other.logit < TURNED_LOGIT:
        return False
    if best is None:
        return True
    lead = 0.0 if best.turn else LEAD_SCORE if other.logit is None else LEAD_LOGIT
    return _sureness(other) > _sureness(best) + lead


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
    return run(_detected(detector, view, turn))


def _detected(detector: Detector, view: View, turn: int) -> Steps[list[Face]]:
    shown, matrix = turned(view.shown, turn)
    faces = yield from _in_tiles(detector, shown)
    placed = (_placed(face, view, matrix) for face in faces)
    return [face for face in placed if face is not None]


def _add(faces: list[Face], others: list[Face]) -> None:
    """Add the faces of another detection pass that are not in the list yet."""
    for face in others:
        if all(overlap(face, known) < SAME_FACE for known in faces):
            faces.append(face)


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


def _placed(face: Face, view: View, matrix: np.ndarray) -> Face | None:
    """Convert a face of a rotated view to frame pixels; None if it is outside the frame.

    Its box becomes the bounding box of the rotated box.
    """
    height, width = view.picture.shape[:2]
    corners = face.centre + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * face.size / 2
    back = view.to_frame(corners, matrix)
    low, high = back.min(axis=0), back.max(axis=0)
    landmarks = view.to_frame(face.landmarks, matrix)
    placed = face_of(np.concatenate([low, high - low]), landmarks, face.score, width, height)
    return None if placed is None else replace(placed, size=face.size * view.stretch.mean())


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
                    moved = _moved(face, np.array([left, top], np.float32))
                    if all(overlap(moved, other) < SAME_FACE for other in found):
                        found.append(moved)
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
