"""Find the face of a frame that is scored, whatever its orientation and size.

This module chooses the scales, rotations and parts of the frame in which the detector runs, selects one of
the detected faces, and finds its dense landmarks. If its results change, raise `method.FACE_FINDING`.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np

from faceq.faces import geometry
from faceq.faces.detect import Detector, Face, overlap
from faceq.faces.landmarks import Dense, Landmarker
from faceq.faces.search import Steps, gathered, run
from faceq.faces.views import View, add_new, detected

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

FOLLOWED = 0.25
"""Minimum intersection over union at which a detection in the rotated frame counts as the face that is
searched. Both boxes are upright in the frame: around a face that is tilted by 45 degrees, one is twice as
large as the other."""

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


@dataclass(frozen=True)
class Found:
    """A face of a frame that is scored.

    face: the face, with the landmarks used for alignment. dense: its dense landmarks. areas: of the faces of
    one detection pass, the first of those that found the most, square pixels. seen: the detections of all
    passes, but not those that are too small for the first pass if a second one saw them larger; a face may be
    among them several times. given: if the frame is a face that is already aligned, the landmarks of the
    alignment template, (5, 2) float32, frame pixels; then these are used for alignment. None if the face was
    detected.
    """

    face: Face
    dense: Dense
    areas: tuple[float, ...]
    seen: tuple[Face, ...]
    given: np.ndarray | None = None

    @property
    def logit(self) -> float | None:
        """The landmark model's logit of "this is a face"; None if the model has no such output."""
        return self.dense.logit

    @property
    def tilt(self) -> float:
        """Tilt of the line through the eyes in the rotated frame, degrees, -180...180."""
        return (np.degrees(geometry.eye_angle(self.face.landmarks)) + self.face.turn + 180) % 360 - 180


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
        return (yield from self._righted(first, found))

    def follow(self, picture: np.ndarray, face: Face) -> Steps[Found | None]:
        """A face that was detected in an RGB uint8 frame (H, W, 3), found as if it were alone: further
        detection passes see only the region around it, and other faces there are ignored."""
        first = View.around(picture, face, self._detector.first_side)
        found = yield from self._select(picture, [face], face)
        return (yield from self._righted(first, found, face))

    def _righted(self, first: View, found: Found | None, of: Face | None = None) -> Steps[Found | None]:
        """The face. If it is not certain that it is upright, it is also searched in the rotated view.

        `first`: the view that was searched. `of`: search only this face, and only there.
        """
        best = yield from self._levelled(first, found, of)
        for turns in TURNS:
            if best is not None and _is_sure(best):
                break
            found, views = best, self._views(first, best, of)
            others = yield from gathered([self._found_turned(views, turn, found, of) for turn in turns])
            for other in others:
                if other is not None and _is_better(other, best):
                    best = other
            best = best and _with_seen(best, [found, *others])
            best = yield from self._levelled(first, best, of)
        return best

    def _found(self, first: View) -> Steps[Found | None]:
        """The face of the frame without rotation."""
        least = self._detector.least_face
        close = min(1.0, least / self._min_face)
        if close <= MIN_ZOOM * first.scale:
            faces = yield from self._detected_in([first], 0)
            return (yield from self._select(first.picture, faces))
        views = [first, View.of(first.picture, close)]
        seen, more = yield from gathered([detected(self._detector, view, 0) for view in views])
        found = yield from self._select(first.picture, _distinct([seen, more]))
        # The first pass misplaces the boxes of faces that are too small for it. The second one has them all.
        seen = [face for face in seen if face.size.min() * first.scale >= least]
        return None if found is None else replace(found, seen=(*seen, *more))

    def _found_coarsely(self, picture: np.ndarray) -> Steps[Found | None]:
        side, longer = self._detector.coarse_side, max(picture.shape[:2])
        if side >= min(longer, self._detector.first_side):
            return None
        faces = yield from detected(self._detector, View.of(picture, side / longer), 0)
        return (yield from self._select(picture, faces))

    def _views(self, first: View, before: Found | None, of: Face | None) -> list[View]:
        """The views for a detection pass on the rotated frame: the whole frame, and the region around the
        face found before if that view shows the face larger."""
        if before is None or of is not None:
            return [first]
        around = View.around(first.picture, before.face, self._detector.first_side)
        return [first, around] if around.scale > MIN_ZOOM * first.scale else [first]

    def _found_turned(
        self, views: list[View], turn: int, before: Found | None, of: Face | None
    ) -> Steps[Found | None]:
        """The face in the given views of the frame, rotated by `turn` degrees."""
        faces = yield from self._detected_in(views, turn)
        found = yield from self._select(views[0].picture, faces, of)
        if found is None or before is None:
            return found
        return replace(found, areas=max(found.areas, before.areas, key=len))

    def _detected_in(self, views: list[View], turn: int) -> Steps[list[Face]]:
        """The faces in all of these views of a frame, each of them once."""
        return _distinct((yield from gathered([detected(self._detector, view, turn) for view in views])))

    def _first_scale(self, picture: np.ndarray) -> float:
        return min(1.0, self._detector.first_side / max(picture.shape[:2]))

    def _select(self, picture: np.ndarray, faces: list[Face], of: Face | None = None) -> Steps[Found | None]:
        """The face among those of a detection pass. `of`: it must be this face."""
        first, left = None, [face for face in faces if of is None or overlap(face, of) >= FOLLOWED]
        for _ in range(min(CANDIDATES, len(left))):
            face = chosen(left)
            left = [other for other in left if other is not face]
            dense = yield from self._landmarker.steps(picture, face)
            if dense.five is not None:
                face = replace(face, landmarks=dense.five)
            found = Found(face, dense, tuple(each.area for each in faces), tuple(faces))
            if is_face(found):
                return found
            first = first or found
        return first

    def _levelled(self, first: View, found: Found | None, of: Face | None) -> Steps[Found | None]:
        """The face. If it is tilted, it is detected again in a frame rotated so that its eyes are level."""
        for _ in range(MAX_LEVELLING_PASSES):
            if found is None or found.logit is None or abs(found.tilt) < MAX_TILT:
                break
            turn = round(found.face.turn - found.tilt) % 360
            again = yield from self._found_turned(self._views(first, found, of), turn, found, of)
            if again is None:
                break
            better = _sureness(again) >= _sureness(found) - LEAD_LOGIT
            found = _with_seen(again if better else found, [found, again])
            if not better:
                break
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


def _distinct(passes: list[list[Face]]) -> list[Face]:
    """The faces of several detection passes, each of them once, as the first pass that found it saw it."""
    faces = list(passes[0])
    for more in passes[1:]:
        add_new(faces, more)
    return faces


def _with_seen(face: Found, searches: list[Found | None]) -> Found:
    """The face, with the detections of several searches of the frame."""
    seen = itertools.chain.from_iterable(found.seen for found in searches if found is not None)
    return replace(face, seen=tuple(seen))


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
    lead = 0.0 if best.face.turn else LEAD_SCORE if other.logit is None else LEAD_LOGIT
    return _sureness(other) > _sureness(best) + lead
