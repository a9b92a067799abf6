"""Which face of a frame is scored, whichever way up it is and however small: what a detector is shown, which
of the faces it finds is chosen, and where its dense landmarks lie."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from faceq.faces import geometry
from faceq.faces.detect import Detector, Face, face_of, overlap
from faceq.faces.landmarks import Dense, Landmarker

FACE_FINDING = 2
"""Which way of finding and aligning faces a table's rows were made with: 2: that of this module; 1, which
records do not name: the largest face as it stands, aligned half by the detector's landmarks."""

SAME_FACE = 0.4
"""Least intersection over union of two boxes that are one face seen in two looks."""

CLOSER = 1.2
"""A second look at a frame is taken only where it shows it larger than the first one by this."""

NEAR_BEST = 0.15
"""Faces with a confidence this near to the best one's are candidates; the largest of them is chosen. A wider
margin takes a hand (.72) or a bodice (.61) for the face (.91, .95)."""

SURE_LOGIT = 14.0
SURE_SCORE = 0.7
"""From these on a face counts as upright as it is: the landmark model's logit, or, of models without one,
the detector's confidence. Below them the frame is looked at turned, too. Of CelebA's upright faces 4% lie
below the logit; turned by 90 degrees they have 3.8 at most (99th percentile), by 180 degrees 9.0 (95th)."""

LEAST_CONFIDENCE = 0.5
SURE_FACE = 0.85
"""Least `face_confidence` of what is a face, and the detector's confidence from which on it is one anyway.

Of 1,180 CelebA photos 3 finds lie below the first; of what the detector finds in photos without a face nearly
all does. So do blurred faces and profiles: of 191 faces of the demo's ladders 22, of which 15 lie above the
second. All eight finds of 40 pixels and more in LIVE Challenge that it alone lets through are faces."""

CANDIDATES = 3
"""Faces of one look that are tried, the first of which that is one is taken: a detector may find a face in
clouds, larger than the one that is there."""

TURNED_LOGIT = 6.0
LEAD_LOGIT = 2.0
LEAD_SCORE = 0.05
"""What a face found in a turned frame must have, and by how much it must be surer than the frame as it is."""

TURNS = ((90, 180, 270), (45, 135, 225, 315))
"""Degrees, clockwise. The second group is tried where the first one found nothing, or something unsure."""

SETTLED = 25.0
"""Degrees by which a face may be tilted in the look that found it: a detector's landmarks lean to upright,
and beyond 45 it misses many faces."""

MOST_SETTLING_LOOKS = 3

AROUND = 4.0
"""Side of what is looked at around a face, over its own."""


@dataclass(frozen=True)
class Found:
    """The face of a frame that is scored.

    face: with the landmarks that it is aligned by. dense: its dense landmarks. faces: how many faces were
    found in the frame. turn: degrees, clockwise, by which the frame was turned when the face was found.
    """

    face: Face
    dense: Dense
    faces: int
    turn: int

    @property
    def logit(self) -> float | None:
        """The landmark model's, of "this is a face"; None where it gives none."""
        return self.dense.logit

    @property
    def tilt(self) -> float:
        """Of the eyes in the turned frame, degrees, -180...180."""
        return (np.degrees(geometry.eye_angle(self.face.landmarks)) + self.turn + 180) % 360 - 180


class Finder:
    """Finds the face of a frame.

    The detector sees the frame with its longer side at `first_side`. If a face of `min_face` pixels would be
    smaller there than what it finds, it sees the frame a second time, so large that it finds that face, in
    tiles: that look costs most in large frames, and is the only one of its kind. Where it finds nothing, it
    sees the frame once more at `coarse_side`.

    Where it still finds nothing, or what it finds is not surely an upright face, it sees the frame turned, by
    quarters first, and what lies around the face that it found. A face that is tilted in the look that found
    it is looked for again along the line of its eyes. These looks are at `first_side`, 32 at most.

    Args:
        detector, landmarker: the models.
        min_face: shorter side, pixels, of the smallest face that must be found.
    """

    def __init__(self, detector: Detector, landmarker: Landmarker, min_face: int):
        self._detector = detector
        self._landmarker = landmarker
        self._min_face = min_face

    def __call__(self, picture: np.ndarray) -> Found | None:
        """The face of an RGB uint8 frame (H, W, 3), None if there is none."""
        first = View.of(picture, self._first_scale(picture))
        best = self._settled(first, self._found(first) or self._found_coarsely(picture))
        for turns in TURNS:
            if best is not None and _is_sure(best):
                break
            found, views = best, self._views(first, best)
            for turn in turns:
                other = self._found_turned(views, turn, found)
                if other is not None and _is_better(other, best):
                    best = other
            best = self._settled(first, best)
        return best

    def _found(self, first: "View") -> Found | None:
        """The face of a frame as it is."""
        faces = detect_in_view(self._detector, first, 0)
        close = min(1.0, self._detector.least_face / self._min_face)
        if close > CLOSER * first.scale:
            _add(faces, detect_in_view(self._detector, View.of(first.picture, close), 0))
        return self._of(first.picture, faces, 0)

    def _found_coarsely(self, picture: np.ndarray) -> Found | None:
        side, longer = self._detector.coarse_side, max(picture.shape[:2])
        if side >= min(longer, self._detector.first_side):
            return None
        return self._of(picture, detect_in_view(self._detector, View.of(picture, side / longer), 0), 0)

    def _views(self, first: "View", before: Found | None) -> list["View"]:
        """What is shown of a turned frame: what the first look shows, and what lies around the face that was
        found before, if that shows it larger."""
        if before is None:
            return [first]
        around = View.around(first.picture, before.face, self._detector.first_side)
        return [first, around] if around.scale > CLOSER * first.scale else [first]

    def _found_turned(self, views: list["View"], turn: int, before: Found | None) -> Found | None:
        """The face of a frame that is turned, which shows in one of its views."""
        first, *others = views
        faces = detect_in_view(self._detector, first, turn)
        for view in others:
            _add(faces, detect_in_view(self._detector, view, turn))
        found = self._of(first.picture, faces, turn)
        if found is None or before is None:
            return found
        return replace(found, faces=max(found.faces, before.faces))

    def _first_scale(self, picture: np.ndarray) -> float:
        return min(1.0, self._detector.first_side / max(picture.shape[:2]))

    def _of(self, picture: np.ndarray, faces: list[Face], turn: int) -> Found | None:
        first, left = None, list(faces)
        for _ in range(min(CANDIDATES, len(faces))):
            face = chosen(left)
            left = [other for other in left if other is not face]
            dense = self._landmarker(picture, face)
            if dense.five is not None:
                face = replace(face, landmarks=dense.five)
            found = Found(face, dense, len(faces), turn)
            if is_face(found):
                return found
            first = first or found
        return first

    def _settled(self, first: "View", found: Found | None) -> Found | None:
        """The face, found again with the frame turned so that its eyes lie level, if they do not."""
        for _ in range(MOST_SETTLING_LOOKS):
            if found is None or found.logit is None or abs(found.tilt) < SETTLED:
                break
            turn = round(found.turn - found.tilt) % 360
            again = self._found_turned(self._views(first, found), turn, found)
            if again is None or _sureness(again) < _sureness(found) - LEAD_LOGIT:
                break
            found = again
        return found


def chosen(faces: list[Face]) -> Face:
    """The face that is scored: of those with a confidence near the best one's the largest, where a face that
    the frame cuts counts by the square of its share inside."""
    best = max(face.score for face in faces)
    near = [face for face in faces if face.score >= best - NEAR_BEST]
    return max(near, key=lambda face: face.area * face.inside**2)


def face_confidence(found: Found) -> float | None:
    """How sure the dense landmark model is that this is a face, 0...1: its logit through a sigmoid, at a
    quarter of its scale, so that upright faces do not all read 1. None where the model has no such output."""
    return None if found.logit is None else float(1 / (1 + np.exp(-found.logit / 4)))


def is_face(found: Found) -> bool:
    """Whether what the detector found is a face: one of both models is sure enough."""
    confidence = face_confidence(found)
    return confidence is None or confidence >= LEAST_CONFIDENCE or found.face.score >= SURE_FACE


def _sureness(found: Found) -> float:
    return found.face.score if found.logit is None else found.logit


def _is_sure(found: Found) -> bool:
    return _sureness(found) >= (SURE_SCORE if found.logit is None else SURE_LOGIT)


def _is_better(other: Found, best: Found | None) -> bool:
    """Whether a face of a turned frame is to be taken in place of the best one so far."""
    if other.logit is not None and other.logit < TURNED_LOGIT:
        return False
    if best is None:
        return True
    lead = 0.0 if best.turn else LEAD_SCORE if other.logit is None else LEAD_LOGIT
    return _sureness(other) > _sureness(best) + lead


@dataclass(frozen=True)
class View:
    """A frame, or a part of it, as the detector is shown it before it is turned.

    picture: the frame, (H, W, 3) uint8 RGB. shown: what is shown. scale: of `shown`, at most 1. stretch:
    (2,), what brings x, y of `shown` to the frame's pixels, from `origin` (2,) on.
    """

    picture: np.ndarray
    shown: np.ndarray
    scale: float
    stretch: np.ndarray
    origin: np.ndarray

    @classmethod
    def of(cls, picture: np.ndarray, scale: float) -> "View":
        """All of a frame."""
        return cls._of_part(picture, picture, scale, np.zeros(2))

    @classmethod
    def around(cls, picture: np.ndarray, face: Face, side: int) -> "View":
        """What lies around a face, AROUND times its size, with its longer side at `side` pixels at most."""
        half = AROUND * face.side / 2
        low = np.clip(face.centre - half, 0, None).astype(int)
        high = np.ceil(face.centre + half).astype(int)
        part = picture[low[1] : high[1], low[0] : high[0]]
        if not part.size:
            return cls.of(picture, min(1.0, side / max(picture.shape[:2])))
        return cls._of_part(picture, part, min(1.0, side / max(part.shape[:2])), low.astype(np.float64))

    @classmethod
    def _of_part(cls, picture: np.ndarray, part: np.ndarray, scale: float, origin: np.ndarray) -> "View":
        height, width = part.shape[:2]
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(part, size, interpolation=cv2.INTER_AREA) if scale < 1 else part
        return cls(picture, small, scale, np.array([width / size[0], height / size[1]]), origin)

    def to_frame(self, points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """Points (N, 2) of what is shown, turned by `matrix` (2, 3), in frame pixels."""
        return geometry.to_frame(points, matrix) * self.stretch + self.origin


def detect_in_view(detector: Detector, view: View, turn: int) -> list[Face]:
    """Faces in what is shown of a frame, turned clockwise by some degrees, in frame pixels."""
    shown, matrix = turned(view.shown, turn)
    placed = (_placed(face, view, matrix) for face in _in_tiles(detector, shown))
    return [face for face in placed if face is not None]


def _add(faces: list[Face], others: list[Face]) -> None:
    """Add those faces of another look that are not among the first ones."""
    for face in others:
        if all(overlap(face, known) < SAME_FACE for known in faces):
            faces.append(face)


def turned(picture: np.ndarray, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture (H, W, 3) turned clockwise by some degrees, whole, on black; and the map (2, 3) from its
    pixels to those of the turned one."""
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
    """A face of a turned view, in the frame's pixels; None if it lies outside. Its box is the one around the
    turned box."""
    height, width = view.picture.shape[:2]
    corners = face.centre + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * face.size / 2
    back = view.to_frame(corners, matrix)
    low, high = back.min(axis=0), back.max(axis=0)
    landmarks = view.to_frame(face.landmarks, matrix)
    placed = face_of(np.concatenate([low, high - low]), landmarks, face.score, width, height)
    return None if placed is None else replace(placed, size=face.size * view.stretch.mean())


def _in_tiles(detector: Detector, picture: np.ndarray) -> list[Face]:
    """All faces in a picture, which the detector sees in tiles where it is larger than one.

    Tiles overlap by twice what the first look, which shows all of the frame, finds of its own: a face that a
    tile cuts lies whole in another one, or was found before.
    """
    height, width = picture.shape[:2]
    tile = detector.tile
    if max(height, width) <= tile:
        return detector(picture)
    common = min(tile // 2, 2 * detector.least_face * max(height, width) // detector.first_side)
    found: list[Face] = []
    for top in _starts(height, tile, common):
        for left in _starts(width, tile, common):
            part = np.ascontiguousarray(picture[top : top + tile, left : left + tile])
            for face in detector(part):
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
    """Where tiles begin that cover a length and overlap by `common` at least."""
    if length <= tile:
        return [0]
    count = int(np.ceil((length - common) / (tile - common)))
    return [round(start) for start in np.linspace(0, length - tile, count)]


def _moved(face: Face, shift: np.ndarray) -> Face:
    box = face.box.copy()
    box[:2] += shift
    return replace(face, box=box, landmarks=face.landmarks + shift, centre=face.centre + shift)
