"""All faces of a frame that are scored, in a repeatable order."""

from dataclasses import replace

import numpy as np

from faceq.faces.detect import Face
from faceq.faces.finder import Finder, Found, is_face
from faceq.faces.search import Steps, gathered
from faceq.faces.views import is_among


def all_faces(finder: Finder, picture: np.ndarray, main: Found, least: int, most: int) -> Steps[list[Found]]:
    """The faces of a frame, as a search.

    They are those of the first detection pass that found the most faces. The landmarks of each are found as
    if it were the only one: see `Finder.follow`.

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
    others = [face for face in main.faces if not is_among(face, [main.face])]
    # By the longer side: the box of a face may grow when it is seen upright.
    detected = [face for face in others if face.box[2:].max() >= least]
    detected = sorted(detected, key=_order)[: most - 1]
    faces = [main]
    for found in (yield from gathered([finder.follow(picture, face) for face in detected])):
        # Two detections may turn out to be the same face, once it is seen upright.
        if (
            found is not None
            and is_face(found)
            and found.face.box[2:].min() >= least
            and not is_among(found.face, (other.face for other in faces))
        ):
            faces.append(replace(found, areas=main.areas))
    return sorted(faces, key=lambda found: _order(found.face))


def _order(face: Face) -> tuple[float, float, float]:
    x, y = face.box[:2]
    return -face.area, float(y), float(x)
