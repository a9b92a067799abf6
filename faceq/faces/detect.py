"""Face detectors: YuNet and SCRFD find faces and five landmarks. `faceq.faces.finder` prepares their
input."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np

from faceq.faces.scrfd import SCRFD_SIZE, ScrfdSession
from faceq.faces.search import Steps, ask, run
from faceq.faces.yunet import YuNetSession
from faceq.runtime.onnx_runtime import read

if TYPE_CHECKING:
    from faceq.faces.yunet_canvas import YuNetCanvases

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
    the frame, 0...1. turn: rotation of the frame when the face was detected, degrees, clockwise.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float
    centre: np.ndarray
    size: np.ndarray
    inside: float
    turn: int = 0

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


def load(
    path: Path, threshold: float, device: str = "cpu", threads: int = 1, mini_batch: int | None = None
) -> Detector:
    """Load a detector from an ONNX file. The type is recognised by the model's outputs.

    Args:
        path: YuNet, or SCRFD with landmarks.
        threshold: minimum confidence of a face, 0...1.
        device: `cpu` or `cuda`; YuNet runs on CUDA only in mini-batches.
        threads: number of threads of ONNX Runtime on the CPU.
        mini_batch: number of images in a mini-batch, for `faceq.faces.batched_search`; None: one by one.

    Raises:
        ModelFileError: the model is neither of them.
    """
    model = read(path)
    if {f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32)} <= {
        output.name for output in model.graph.output
    }:
        if mini_batch is None:
            return YuNet(path, threshold, threads)
        from faceq.faces.yunet_canvas import YuNetCanvases  # noqa: PLC0415 - imports torch

        return BatchedYuNet(YuNetCanvases(path, threshold, device, threads, mini_batch))
    scrfd = ScrfdSession(path, model, threshold, device, threads, batches=mini_batch is not None)
    if mini_batch is None:
        return Scrfd(scrfd, scrfd)
    from faceq.faces.fixed_size import MiniBatches  # noqa: PLC0415 - imports torch

    return Scrfd(scrfd, MiniBatches(scrfd, mini_batch))


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
        return _faces(picture, self._net(picture))


class BatchedYuNet:
    """YuNet on a GPU, as a `faceq.faces.batched_search.BatchedNetwork`."""

    first_side, coarse_side = YuNet.first_side, YuNet.coarse_side
    tile, least_face = YuNet.tile, YuNet.least_face

    def __init__(self, canvases: "YuNetCanvases"):
        self._canvases = canvases

    def __call__(self, picture: np.ndarray) -> list[Face]:
        """As of YuNet."""
        group = self.group(picture)
        return self.answer(group, picture, self.many(group, [picture])[0])

    def group(self, image: np.ndarray) -> tuple[int, int]:
        return self._canvases.canvas(*image.shape[:2])

    def size(self, group: tuple[int, int]) -> int:
        return self._canvases.size(group)

    def many(self, group: tuple[int, int], images: list[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        return self._canvases.many(group, images)

    def answer(self, group: tuple[int, int], image: np.ndarray, output: tuple[np.ndarray, ...]) -> list[Face]:
        return _faces(image, self._canvases.faces_in(group, image, output))


def _faces(picture: np.ndarray, rows: np.ndarray) -> list[Face]:
    """The faces in YuNet's rows (N, 15) for an image."""
    height, width = picture.shape[:2]
    faces = (
        face_of(row[:4], row[4:14].reshape(5, 2), float(np.float32(row[14])), width, height) for row in rows
    )
    return [face for face in faces if face is not None]


class Scrfd:
    """SCRFD with landmarks (Guo et al., ICLR 2022).

    SCRFD misses faces that fill the image. If the largest face covers SCRFD_LARGE of the image, or no face is
    found, a second detection pass uses a black border around the image, and replaces the result if it finds
    any face.
    """

    first_side, coarse_side, tile, least_face = SCRFD_SIZE, SCRFD_SIZE, SCRFD_SIZE, 20

    def __init__(self, net: ScrfdSession, network: Callable[[np.ndarray], Any]):
        """net: prepares the input and decodes the outputs. network: runs; `net` or MiniBatches of it."""
        self._net, self._network = net, network

    def __call__(self, picture: np.ndarray) -> list[Face]:
        """All faces in an RGB uint8 image (H, W, 3), in no particular order; empty if there is none."""
        return run(self.steps(picture))

    def steps(self, picture: np.ndarray) -> Steps[list[Face]]:
        """The same as a search."""
        faces = yield from self._at(picture, 0)
        largest = max((face.area for face in faces), default=0.0)
        if faces and largest < SCRFD_LARGE * picture.shape[0] * picture.shape[1]:
            return faces
        border = round(SCRFD_BORDER * max(picture.shape[:2]))
        return (yield from self._at(picture, border)) or faces

    def _at(self, picture: np.ndarray, border: int) -> Steps[list[Face]]:
        height, width = picture.shape[:2]
        # SCRFD scales the longer side to SCRFD_SIZE, and fails if the other side becomes empty.
        least = -(-max(height, width) // (SCRFD_SIZE // 2))
        below, right = border + max(0, least - height), border + max(0, least - width)
        bordered = picture
        if below or right:
            bordered = cv2.copyMakeBorder(picture, border, below, border, right, cv2.BORDER_CONSTANT)
        shown, scale = self._net.prepared(bordered)
        outputs = yield from ask(self._network, shown)
        boxes, landmarks = self._net.decode(outputs, scale)
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


def search_of(detector: Detector, picture: np.ndarray) -> Steps[list[Face]]:
    """What `detector(picture)` returns, as a search."""
    if isinstance(detector, Scrfd):
        return (yield from detector.steps(picture))
    return (yield from ask(detector, picture))


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
