"""Models that find faces and five landmarks: YuNet, SCRFD. `faceq.faces.finder` decides what they see."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import onnx

from faceq.faces.yunet import YuNetSession
from faceq.messages.one_line import one_line
from faceq.runtime.device import raise_if_gpu_failed
from faceq.runtime.onnx_runtime import ModelFileError, read, session

SCRFD_SIZE = 640
"""Side, pixels, that a picture's longer side is brought to for SCRFD, if its file fixes none."""

SCRFD_LARGE = 0.25
"""Share of the picture from which on a face is looked for again with a border around the picture.

Measured with scrfd_500m on 30 portraits of 384 pixels: without a border 18 are missed where the face covers
0.4 of the picture, all 30 from 0.6 on; with one of half the picture's side none, up to where the face is
larger than the picture."""

SCRFD_BORDER = 0.5
"""Width of that border over the picture's longer side."""


@dataclass(frozen=True)
class Face:
    """A detected face.

    box: x, y, w, h (4,) float32, frame pixels, clipped to the frame. landmarks: (5, 2) float32, frame pixels,
    in the order of `faceq.faces.geometry`. score: the detector's confidence, 0...1. centre, size: of the
    box as it was detected, x, y and width, height, (2,) each, frame pixels; it may reach out of the frame,
    and stands upright in the look that found the face. inside: share of the box in the frame, 0...1.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float
    centre: np.ndarray
    size: np.ndarray
    inside: float

    @property
    def side(self) -> float:
        """Longer side of the box as it was detected, pixels."""
        return float(self.size.max())

    @property
    def area(self) -> float:
        """Of the box, square pixels."""
        return float(self.box[2] * self.box[3])


class Detector(Protocol):
    """A model that finds faces in a picture as it is given, at that size.

    first_side: longer side, pixels, that a picture is scaled down to for the first look at it. coarse_side:
    the same for one more look where nothing was found; the same number: there is none. tile: the longest side
    that the model is shown at once. least_face: shorter side of the smallest face that it finds reliably,
    pixels.
    """

    first_side: int
    coarse_side: int
    tile: int
    least_face: int

    def __call__(self, picture: np.ndarray) -> list[Face]:
        """All faces in an RGB uint8 picture (H, W, 3), in no order; empty if there is none."""


def load(path: Path, threshold: float, device: str = "cpu", threads: int = 1) -> Detector:
    """The detector in an ONNX file, known by its outputs.

    Args:
        path: YuNet, or SCRFD with landmarks.
        threshold: the least confidence, 0...1, of what counts as a face.
        device: `cpu` or `cuda`, for SCRFD; YuNet stays on the CPU.
        threads: of ONNX Runtime on the CPU.

    Raises:
        ModelFileError: it is neither.
    """
    model = read(path)
    if {f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32)} <= {
        output.name for output in model.graph.output
    }:
        return YuNet(path, threshold, threads)
    return Scrfd(path, model, threshold, device, threads)


class YuNet:
    """YuNet, at the size of the picture.

    Measured on 384-pixel portraits with noise of 50 grey levels: of 24 faces 3 are found at 384 pixels, 19 at
    320 and 24 at 160, because shrinking averages noise and blocks away. Of 40 faces with 41 pixels, pasted
    into photos of 1080p, 4K and 24 megapixels, 40, 40 and 38 are found where they are shown at 20 pixels, and
    33, 27 and 26 at 12.
    """

    first_side, coarse_side, tile, least_face = 320, 160, 1280, 20

    def __init__(self, path: Path, threshold: float, threads: int = 1):
        """As `load` takes them."""
        self._net = YuNetSession(path, threshold, threads)

    def __call__(self, picture: np.ndarray) -> list[Face]:
        """All faces in an RGB uint8 picture (H, W, 3), in no order; empty if there is none."""
        found = self._net(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        height, width = picture.shape[:2]
        faces = (
            face_of(row[:4], row[4:14].reshape(5, 2), float(np.float32(row[14])), width, height)
            for row in found
        )
        return [face for face in faces if face is not None]


class Scrfd:
    """SCRFD with landmarks (Guo et al., ICLR 2022), by insightface's own class.

    It misses faces that fill the picture: where the largest face covers SCRFD_LARGE of it, or none is seen, a
    second look is taken with a black border around the picture, and names the faces if it sees any.
    """

    first_side, coarse_side, tile, least_face = SCRFD_SIZE, SCRFD_SIZE, SCRFD_SIZE, 20

    def __init__(self, path: Path, model: onnx.ModelProto, threshold: float, device: str, threads: int):
        from insightface.model_zoo.scrfd import SCRFD  # noqa: PLC0415 - a second, for this alone

        made = session(path, model, device, threads)
        _check_scrfd(path, [input.shape for input in made.get_inputs()], len(made.get_outputs()))
        self._model = SCRFD(None, made)  # of a file with free sizes it would make a session of its own
        self._model.prepare(0, det_thresh=threshold, input_size=(SCRFD_SIZE, SCRFD_SIZE))
        try:
            self._at(np.zeros((64, 64, 3), np.uint8), 0)
        except Exception as error:  # ONNX Runtime's and numpy's, where shapes are not SCRFD's
            raise_if_gpu_failed(error)
            reason = one_line(error)
            raise ModelFileError(f"{path}: does not give what SCRFD gives: {reason}") from None

    def __call__(self, picture: np.ndarray) -> list[Face]:
        """All faces in an RGB uint8 picture (H, W, 3), in no order; empty if there is none."""
        faces = self._at(picture, 0)
        largest = max((face.area for face in faces), default=0.0)
        if faces and largest < SCRFD_LARGE * picture.shape[0] * picture.shape[1]:
            return faces
        return self._at(picture, round(SCRFD_BORDER * max(picture.shape[:2]))) or faces

    def _at(self, picture: np.ndarray, border: int) -> list[Face]:
        height, width = picture.shape[:2]
        # SCRFD brings the longer side to SCRFD_SIZE, and fails where that leaves nothing of the other one.
        least = -(-max(height, width) // (SCRFD_SIZE // 2))
        below, right = border + max(0, least - height), border + max(0, least - width)
        bordered = np.ascontiguousarray(picture[..., ::-1])
        if below or right:
            bordered = cv2.copyMakeBorder(bordered, border, below, border, right, cv2.BORDER_CONSTANT)
        boxes, landmarks = self._model.detect(bordered)
        found = (
            face_of(
                np.concatenate([box[:2] - border, box[2:4] - box[:2]]),
                points - border,
                float(box[4]),
                width,
                height,
            )
            for box, points in zip(boxes, landmarks, strict=True)
        )
        return [face for face in found if face is not None]


def _check_scrfd(path: Path, inputs: list[list[object]], outputs: int) -> None:
    if outputs in (6, 10):
        raise ModelFileError(
            f"{path}: finds faces but no landmarks ({outputs} outputs): SCRFD with landmarks has 9 or 15, "
            "its files end in _kps or _bnkps"
        )
    if outputs not in (9, 15):
        raise ModelFileError(
            f"{path}: is no face detector that is known: YuNet has 12 outputs, SCRFD 9 or 15, "
            f"this has {outputs}"
        )
    if len(inputs) != 1 or len(inputs[0]) != 4 or inputs[0][1] != 3:
        raise ModelFileError(f"{path}: takes {inputs}: detectors take one input of pictures (1, 3, H, W)")


def face_of(box: np.ndarray, landmarks: np.ndarray, score: float, width: int, height: int) -> Face | None:
    """A face from its box x, y, w, h (4,) as it was detected in a picture of some size; None if it lies
    outside."""
    low = np.clip(box[:2], 0, (width, height))
    high = np.clip(box[:2] + box[2:4], 0, (width, height))
    visible = high - low
    if visible.min() <= 0:
        return None
    return Face(
        box=np.concatenate([low, visible]).astype(np.float32),
        landmarks=landmarks.astype(np.float32),
        score=score,
        centre=(box[:2] + box[2:4] / 2).astype(np.float64),
        size=box[2:4].astype(np.float64),
        inside=float(visible.prod() / (box[2] * box[3])),
    )


def overlap(one: Face, other: Face) -> float:
    """Intersection over union of two faces' boxes, 0...1."""
    low = np.maximum(one.box[:2], other.box[:2])
    high = np.minimum(one.box[:2] + one.box[2:], other.box[:2] + other.box[2:])
    common = float(np.prod(np.maximum(high - low, 0)))
    return common / (one.area + other.area - common)
