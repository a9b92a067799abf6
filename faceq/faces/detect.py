"""Face detectors: YuNet and SCRFD find faces and five landmarks. `faceq.faces.finder` prepares their
input."""

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
"""Longer side, in pixels, to which an image is scaled for SCRFD, unless its file has a fixed input size."""

SCRFD_LARGE = 0.25
"""If the largest face covers at least this share of the image, detection is repeated with a border around the
image.

Measured with scrfd_500m on 30 portraits of 384 pixels. Without a border, 18 faces are missed if the face
covers 0.4 of the image, and all 30 from 0.6 on. With a border of half the image's side none is missed, up to
faces that are larger than the image."""

SCRFD_BORDER = 0.5
"""Width of that border, relative to the image's longer side."""


@dataclass(frozen=True)
class Face:
    """A detected face.

    box: x, y, w, h (4,) float32, frame pixels, clipped to the frame. landmarks: (5, 2) float32, frame pixels,
    in the order of `faceq.faces.geometry`. score: the detector's confidence, 0...1. centre, size: centre x, y
    and width, height of the unclipped box, (2,) each, frame pixels; it may extend beyond the frame, and it is
    upright in the (possibly rotated) image in which the face was detected. inside: share of the box inside
    the frame, 0...1.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float
    centre: np.ndarray
    size: np.ndarray
    inside: float

    @property
    def side(self) -> float:
        """Longer side of the unclipped box, pixels."""
        return float(self.size.max())

    @property
    def area(self) -> float:
        """Area of the clipped box, square pixels."""
        return float(self.box[2] * self.box[3])


class Detector(Protocol):
    """A model that finds faces in an image at the given size.

    All sizes are in pixels. first_side: longer side to which an image is scaled down for the first detection
    pass. coarse_side: longer side for one more pass if nothing was found; if it equals `first_side` there is
    no such pass. tile: maximum side of the model's input. least_face: shorter side of the smallest face that
    the model finds reliably.
    """

    first_side: int
    coarse_side: int
    tile: int
    least_face: int

    def __call__(self, picture: np.ndarray) -> list[Face]:
        """All faces in an RGB uint8 image (H, W, 3), in no particular order; empty if there is none."""


def load(path: Path, threshold: float, device: str = "cpu", threads: int = 1) -> Detector:
    """Load a detector from an ONNX file. The type is recognised by the model's outputs.

    Args:
        path: YuNet, or SCRFD with landmarks.
        threshold: minimum confidence of a face, 0...1.
        device: `cpu` or `cuda`, for SCRFD; YuNet always runs on the CPU.
        threads: number of threads of ONNX Runtime on the CPU.

    Raises:
        ModelFileError: the model is neither of them.
    """
    model = read(path)
    if {f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32)} <= {
        output.name for output in model.graph.output
    }:
        return YuNet(path, threshold, threads)
    return Scrfd(path, model, threshold, device, threads)


class YuNet:
    """YuNet, run at the size of the image.

    Measured on 24 portraits of 384 pixels with noise of 50 grey levels: 3 faces are found at 384 pixels, 19
    at 320 and 24 at 160, because downscaling averages noise and compression blocks away. Measured on 40 faces
    of 41 pixels, pasted into photos of 1080p, 4K and 24 megapixels: scaled to 20 pixels, 40, 40 and 38 of
    them are found; scaled to 12 pixels, 33, 27 and 26.
    """

    first_side, coarse_side, tile, least_face = 320, 160, 1280, 20

    def __init__(self, path: Path, threshold: float, threads: int = 1):
        """Arguments as in `load`."""
        self._net = YuNetSession(path, threshold, threads)

    def __call__(self, picture: np.ndarray) -> list[Face]:
        """All faces in an RGB uint8 image (H, W, 3), in no particular order; empty if there is none."""
        found = self._net(picture)
        height, width = picture.shape[:2]
        faces = (
            face_of(row[:4], row[4:14].reshape(5, 2), float(np.float32(row[14])), width, height)
            for row in found
        )
        return [face for face in faces if face is not None]


class Scrfd:
    """SCRFD with landmarks (Guo et al., ICLR 2022), run by insightface's own class.

    SCRFD misses faces that fill the image. If the largest face covers SCRFD_LARGE of the image, or no face is
    found, a second detection pass uses a black border around the image, and replaces the result if it finds
    any face.
    """

    first_side, coarse_side, tile, least_face = SCRFD_SIZE, SCRFD_SIZE, SCRFD_SIZE, 20

    def __init__(self, path: Path, model: onnx.ModelProto, threshold: float, device: str, threads: int):
        from insightface.model_zoo.scrfd import SCRFD  # noqa: PLC0415 - takes a second to import

        made = session(path, model, device, threads)
        _check_scrfd(path, [input.shape for input in made.get_inputs()], len(made.get_outputs()))
        self._model = SCRFD(None, made)  # given a path, it would create its own session
        self._model.prepare(0, det_thresh=threshold, input_size=(SCRFD_SIZE, SCRFD_SIZE))
        try:
            self._at(np.zeros((64, 64, 3), np.uint8), 0)
        except Exception as error:  # from ONNX Runtime or numpy, if the shapes are not those of SCRFD
            raise_if_gpu_failed(error)
            reason = one_line(error)
            raise ModelFileError(f"{path}: its outputs are not those of SCRFD: {reason}") from None

    def __call__(self, picture: np.ndarray) -> list[Face]:
        """All faces in an RGB uint8 image (H, W, 3), in no particular order; empty if there is none."""
        faces = self._at(picture, 0)
        largest = max((face.area for face in faces), default=0.0)
        if faces and largest < SCRFD_LARGE * picture.shape[0] * picture.shape[1]:
            return faces
        return self._at(picture, round(SCRFD_BORDER * max(picture.shape[:2]))) or faces

    def _at(self, picture: np.ndarray, border: int) -> list[Face]:
        height, width = picture.shape[:2]
        # SCRFD scales the longer side to SCRFD_SIZE, and fails if the other side becomes empty.
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
            f"{path}: finds faces but no landmarks ({outputs} outputs): use SCRFD with landmarks (9 or 15 "
            "outputs), whose file names end in _kps or _bnkps"
        )
    if outputs not in (9, 15):
        raise ModelFileError(
            f"{path}: is not a supported face detector: YuNet has 12 outputs, SCRFD 9 or 15, "
            f"this model has {outputs}"
        )
    if len(inputs) != 1 or len(inputs[0]) != 4 or inputs[0][1] != 3:
        raise ModelFileError(f"{path}: has inputs {inputs}: a detector has one input of shape (1, 3, H, W)")


def face_of(box: np.ndarray, landmarks: np.ndarray, score: float, width: int, height: int) -> Face | None:
    """A face from its unclipped box x, y, w, h (4,) in an image of the given size; None if it is outside."""
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
