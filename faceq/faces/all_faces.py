"""All faces of a frame that are scored, in a repeatable order."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from faceq.faces.detect import Face
from faceq.faces.finder import TURNED_LOGIT, Finder, Found, is_face
from faceq.faces.search import Steps, gathered
from faceq.faces.views import SAME_FACE

NEAR = 0.25
"""Two detections are the same face if the centres of their five landmarks are closer than this share of the
smaller side. Their boxes may overlap little: a detection pass misplaces the box of a face that is small or
rotated for it."""

TRIED, LEAST_TRIED = 2, 16
"""Maximum number of detections that are tried: so many times the maximum number of faces, or LEAST_TRIED if
that is more. Some detections are no faces, and the box of a tilted face grows when it is seen upright."""


def all_faces(finder: Finder, picture: np.ndarray, main: Found, least: int, most: int) -> Steps[list[Found]]:
    """The faces of a frame, as a search.

    They are those of all detection passes that looked for the main face. If several passes found a face, the
    first one counts. The landmarks of each are found as if it were the only one: see `Finder.follow`.

    Args:
        finder: has found `main`.
        picture: the frame, (H, W, 3) uint8 RGB.
        main: the face that `finder` chose. It is always among the faces.
        least: shorter side of the smallest other face, pixels.
        most: maximum number of faces. The largest ones are taken.

    Returns:
        The faces by the area of their box, largest first; equal ones from top to bottom, then from left to
        right.
    """
    if len(main.areas) < 2:  # no pass found a second face
        return [main]
    tried = sorted(_new(main.seen, [main.face], least), key=_order)[: max(LEAST_TRIED, TRIED * most)]
    followed = yield from gathered([finder.follow(picture, face) for face in tried])
    found = [
        face
        for detected, face in zip(tried, followed, strict=True)
        if face is not None and _is_other(face, detected) and face.face.box[2:].min() >= least
    ]
    faces = [main]
    # Two detections may turn out to be the same face, once it is seen upright.
    for face in sorted(found, key=lambda face: -face.face.score):
        if _new([face.face], [known.face for known in faces], least):
            faces.append(replace(face, areas=main.areas))
    largest = sorted(faces[1:], key=lambda found: _order(found.face))[: most - 1]
    return sorted([main, *largest], key=lambda found: _order(found.face))


def _new(seen: Sequence[Face], known: Sequence[Face], least: int) -> list[Face]:
    """The faces that are not known and may be large enough, each once, as it was seen first."""
    # By the longer side: the box of a face may grow when it is seen upright.
    faces = [*known, *(face for face in seen if face.box[2:].max() >= least)]
    low = np.array([face.box[:2] for face in faces], np.float64)
    size = np.array([face.box[2:] for face in faces], np.float64)
    centre = np.array([face.landmarks.mean(axis=0) for face in faces], np.float64)
    side = np.array([face.side for face in faces])
    kept = list(range(len(known)))
    for at in range(len(known), len(faces)):
        ends = np.minimum(low[kept] + size[kept], low[at] + size[at]) - np.maximum(low[kept], low[at])
        common = np.maximum(ends, 0).prod(axis=1)
        overlap = common / (size[kept].prod(axis=1) + size[at].prod() - common)
        away = np.hypot(*(centre[kept] - centre[at]).T) / np.minimum(side[kept], side[at])
        if not ((overlap >= SAME_FACE) | (away < NEAR)).any():
            kept.append(at)
    return [faces[at] for at in kept[len(known) :]]


def _is_other(found: Found, detected: Face) -> bool:
    """Whether a detection is a face. In a rotated frame, upright faces are detected, too, upside down."""
    certain = not detected.turn or found.logit is None or found.logit >= TURNED_LOGIT
    return certain and is_face(found)


def _order(face: Face) -> tuple[float, float, float]:
    x, y = face.box[:2]
    return -face.area, float(y), float(x)
