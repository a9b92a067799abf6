"""Pictures that are faces already aligned to the recogniser's template, as in training sets of recognisers.

Nothing is detected: the picture says where the face is, so that recognisers get it as it is, and no degraded
crop is lost. The landmark model still runs, because the mask, the pose and the measures need the face as it
is, not as the template has it.
"""

from dataclasses import replace

import numpy as np

from faceq.faces import geometry
from faceq.faces.detect import Face
from faceq.faces.finder import Found
from faceq.faces.landmarks import Landmarker
from faceq.faces.method import MOST_OBLONG
from faceq.faces.search import Steps, run
from faceq.sources.decode.image import UnreadableError

FACE_CENTRE, FACE_SIZE = np.array([56.4, 63.5]), np.array([81.4, 107.7])
"""Centre and size of the box that YuNet finds around a face, in pixels of the aligned face: medians over 148
CelebA photos. The landmark model starts from it.

On the aligned pictures of these faces, FaceMesh's five landmarks are 0.5 pixels from those in the photo (95th
percentile: 1.5), and the intersection of the masks is 0.97 of their union (1st percentile: 0.89). If the
model starts from the whole picture, or the picture gets a border of 40 pixels (replicated, mirrored or
black), the 1st percentile is 0.70 to 0.83."""


class AlignedPictures:
    """Takes each frame as one aligned face, in place of `faceq.faces.finder.Finder`."""

    def __init__(self, landmarker: Landmarker):
        self._landmarker = landmarker

    def __call__(self, picture: np.ndarray) -> Found:
        """The face that an RGB uint8 picture (H, W, 3) is. Its box is the whole picture.

        `face.landmarks` are those that the landmark model finds, or the template's if it gives none; `given`
        are always the template's.
        """
        return run(self.steps(picture))

    def steps(self, picture: np.ndarray) -> Steps[Found]:
        """The same as a search."""
        height, width = picture.shape[:2]
        expected = _expected(width, height)
        dense = yield from self._landmarker.steps(picture, expected)
        landmarks = expected.landmarks if dense.five is None else dense.five
        whole = np.array([0, 0, width, height], np.float32)
        face = replace(expected, box=whole, landmarks=landmarks)
        return Found(face, dense, (face.area,), (face,), given=expected.landmarks)


def check_square(picture: np.ndarray) -> None:
    """Raise UnreadableError if a picture (H, W, 3) cannot be an aligned face, because it is not square."""
    height, width = picture.shape[:2]
    if max(width, height) > MOST_OBLONG * min(width, height):
        raise UnreadableError(
            f"is {width}x{height} pixels, but `faces: aligned` needs square pictures of aligned faces: score "
            "other images with `faces: largest`"
        )


def _expected(width: int, height: int) -> Face:
    """The face as a detector would find it in an aligned picture of this size, with the template's
    landmarks."""
    scale = np.array([width, height]) / geometry.ALIGNED_SIZE
    centre, size = (FACE_CENTRE + 0.5) * scale - 0.5, FACE_SIZE * scale
    box = np.concatenate([centre - size / 2, size]).astype(np.float32)
    landmarks = geometry.aligned_landmarks(width, height).astype(np.float32)
    return Face(box, landmarks, score=1.0, centre=centre, size=size, inside=1.0)
