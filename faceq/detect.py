"""Faces and their five landmarks in a picture, by YuNet or SCRFD."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import onnx

from faceq.device import check_card
from faceq.onnx_runtime import ModelFileError, read, session
from faceq.opencv import tame
from faceq.yunet import YuNetSession

SIDES = (640, 320, 160)
"""Longer side, pixels, that a larger picture is scaled down to for the looks at it. The first look that
shows a face names the faces; the largest one's landmarks are averaged over the looks in which it is the
largest too.

Measured: at 640, 2 of 1,180 CelebA photos show no face; of 24 portraits of 384 pixels with noise of 50
grey levels, 3 show one at 384, 19 at 320 and 24 at 160, because shrinking averages noise and blocks away.
A look at 320 and 160 found one false face more in 24 Kodak pictures without one at 640."""

SAME_FACE = 0.4
"""Least intersection over union of two boxes that are one face seen in two looks."""

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
    """A detected face in frame pixels: box x, y, w, h (4,) clipped to the frame, landmarks (5, 2)
    float32 in the order of `faceq.geometry`, and the detector's confidence, 0...1."""

    box: np.ndarray
    landmarks: np.ndarray
    score: float


class Detector(Protocol):
    """A model that finds faces."""

    def __call__(self, image: np.ndarray) -> list[Face]:
        """All faces in an RGB uint8 picture (H, W, 3), largest box first; empty if there is none."""


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
    """YuNet, looking at a picture at several sizes."""

    def __init__(self, path: Path, threshold: float, threads: int = 1):
        """As `load` takes them."""
        tame()
        self._net = YuNetSession(path, threshold, threads)

    def __call__(self, image: np.ndarray) -> list[Face]:
        """All faces in an RGB uint8 picture (H, W, 3), largest box first; empty if there is none."""
        scales = sorted({min(1.0, side / max(image.shape[:2])) for side in SIDES}, reverse=True)
        looks = [faces for scale in scales if (faces := self._at(image, scale))]
        if not looks:
            return []
        largest, *others = looks[0]
        shown = [face.landmarks for look in looks for face in look[:1] if _overlap(face, largest) > SAME_FACE]
        return [replace(largest, landmarks=np.mean(np.stack(shown), axis=0)), *others]

    def _at(self, image: np.ndarray, scale: float) -> list[Face]:
        height, width = image.shape[:2]
        small, stretch = _smaller(image, scale)
        found = self._net(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        faces = [_face(row, stretch, width, height) for row in found]
        return sorted((face for face in faces if face.box[2:].min() > 0), key=_area, reverse=True)


class Scrfd:
    """SCRFD with landmarks (Guo et al., ICLR 2022), by insightface's own class.

    It misses faces that fill the picture: where the largest face covers SCRFD_LARGE of it, or none is seen, a
    second look is taken with a black border around the picture, and names the faces if it sees any.
    """

    def __init__(self, path: Path, model: onnx.ModelProto, threshold: float, device: str, threads: int):
        from insightface.model_zoo.scrfd import SCRFD  # noqa: PLC0415 - a second, for this alone

        made = session(path, model, device, threads)
        _check_scrfd(path, [input.shape for input in made.get_inputs()], len(made.get_outputs()))
        self._model = SCRFD(None, made)  # of a file with free sizes it would make a session of its own
        self._model.prepare(0, det_thresh=threshold, input_size=(SCRFD_SIZE, SCRFD_SIZE))
        try:
            self._at(np.zeros((64, 64, 3), np.uint8), 0)
        except Exception as error:  # ONNX Runtime's and numpy's, where shapes are not SCRFD's
            check_card(error)
            reason = " ".join(str(error).split())
            raise ModelFileError(f"{path}: does not give what SCRFD gives: {reason}") from None

    def __call__(self, image: np.ndarray) -> list[Face]:
        """All faces in an RGB uint8 picture (H, W, 3), largest box first; empty if there is none."""
        faces = self._at(image, 0)
        if faces and _area(faces[0]) < SCRFD_LARGE * image.shape[0] * image.shape[1]:
            return faces
        return self._with_border(image) or faces

    def _with_border(self, image: np.ndarray) -> list[Face]:
        # Brought down first: SCRFD would do it after, with a picture at least four times as large in memory.
        small, stretch = _smaller(image, min(1.0, SCRFD_SIZE / max(image.shape[:2])))
        return [
            replace(
                face,
                box=(face.box * np.tile(stretch, 2)).astype(np.float32),
                landmarks=(face.landmarks * stretch).astype(np.float32),
            )
            for face in self._at(small, round(SCRFD_BORDER * max(small.shape[:2])))
        ]

    def _at(self, image: np.ndarray, border: int) -> list[Face]:
        height, width = image.shape[:2]
        # SCRFD brings the longer side to SCRFD_SIZE, and fails where that leaves nothing of the other one.
        least = -(-max(height, width) // (SCRFD_SIZE // 2))
        below, right = border + max(0, least - height), border + max(0, least - width)
        bordered = np.ascontiguousarray(image[..., ::-1])
        if below or right:
            bordered = cv2.copyMakeBorder(bordered, border, below, border, right, cv2.BORDER_CONSTANT)
        boxes, landmarks = self._model.detect(bordered)
        faces = []
        for box, points in zip(boxes, landmarks, strict=True):
            low = np.clip(box[0:2] - border, 0, (width, height))
            high = np.clip(box[2:4] - border, 0, (width, height))
            corners = np.concatenate([low, high - low]).astype(np.float32)
            faces.append(Face(corners, (points - border).astype(np.float32), float(box[4])))
        return sorted((face for face in faces if face.box[2:].min() > 0), key=_area, reverse=True)


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


def _smaller(image: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The picture at a share of its size, at most 1, and the factors (2,) that bring x, y back to its own."""
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    return small, np.array([width / size[0], height / size[1]])


def _face(row: np.ndarray, stretch: np.ndarray, width: int, height: int) -> Face:
    low = np.clip(row[0:2] * stretch, 0, (width, height))
    high = np.clip((row[0:2] + row[2:4]) * stretch, 0, (width, height))
    landmarks = row[4:14].reshape(5, 2) * stretch
    return Face(
        box=np.concatenate([low, high - low]).astype(np.float32),
        landmarks=landmarks.astype(np.float32),
        score=float(np.float32(row[14])),
    )


def _overlap(one: Face, other: Face) -> float:
    """Intersection over union of two boxes, 0...1."""
    low = np.maximum(one.box[:2], other.box[:2])
    high = np.minimum(one.box[:2] + one.box[2:], other.box[:2] + other.box[2:])
    common = float(np.prod(np.maximum(high - low, 0)))
    return common / (_area(one) + _area(other) - common)


def _area(face: Face) -> float:
    return float(face.box[2] * face.box[3])
