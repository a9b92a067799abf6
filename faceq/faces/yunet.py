"""YuNet in ONNX Runtime: the same faces as `cv2.FaceDetectorYN`, in half the time on a CPU.

Source: Wu, Peng, Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 2023. The
outputs are decoded as in OpenCV.
"""

import functools
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import numpy_helper

from faceq.runtime.onnx_runtime import read, session

STRIDES = (8, 16, 32)
KINDS = ("cls", "obj", "bbox", "kps")
OUTPUTS = [f"{kind}_{stride}" for kind in KINDS for stride in STRIDES]
NMS_THRESHOLD = 0.3
CANDIDATES = 5000
"""Maximum number of boxes, in order of confidence, for non-maximum suppression."""


class YuNetSession:
    """The network at the size of one image, on the CPU. For GPUs, see `faceq.faces.yunet_canvas`.

    Args:
        path: the ONNX file, with float or quantised weights.
        threshold: minimum confidence of a face, 0...1.
        threads: number of threads of ONNX Runtime.
    """

    def __init__(self, path: Path, threshold: float, threads: int = 1):
        model = network(path)
        self._session = session(path, model, "cpu", threads)
        self._input = model.graph.input[0].name
        self._threshold = threshold

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Faces in an RGB uint8 image (H, W, 3).

        Returns:
            (N, 15) float32 in pixels of the image: box x, y, width, height, which may extend beyond the
            image; x, y of right eye, left eye, nose tip, right and left mouth corner (right and left of the
            person); confidence, 0...1.
        """
        below, right = -picture.shape[0] % 32, -picture.shape[1] % 32
        if below or right:
            picture = cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_CONSTANT)
        blob = cv2.dnn.blobFromImage(picture, swapRB=True)  # the network takes BGR
        outputs = self._session.run(OUTPUTS, {self._input: blob})
        found = dict(zip(OUTPUTS, (output[0] for output in outputs), strict=True))
        return faces_in(found, picture.shape[1], self._threshold)


def network(path: Path) -> onnx.ModelProto:
    """The network in a file, with float weights, for images of any height and width."""
    model = read(path)
    _dequantise(model)
    _free_sizes(model)
    return model


def faces_in(found: dict[str, np.ndarray], width: int, threshold: float) -> np.ndarray:
    """Decode the network's outputs for one image.

    Args:
        found: the OUTPUTS, each (cells, values), row by row of the grid of its stride.
        width: width of the padded image, pixels.
        threshold: minimum confidence, 0...1.

    Returns:
        (N, 15) float32, as from YuNetSession.
    """
    classes, objects, boxes, points = (
        np.concatenate([found[f"{kind}_{stride}"] for stride in STRIDES]) for kind in KINDS
    )
    score = np.sqrt(np.clip(classes[:, 0], 0, 1) * np.clip(objects[:, 0], 0, 1))
    sure = np.flatnonzero(score >= threshold)
    if not len(sure):
        return np.empty((0, 15), np.float32)
    height = len(found[OUTPUTS[0]]) * STRIDES[0] ** 2 // width
    cells = _cells(height, width)[sure]
    place, stride = cells[:, :2], cells[:, 2:]
    size = np.exp(boxes[sure, 2:]) * stride
    corner = (place + boxes[sure, :2]) * stride - size / 2
    marks = (points[sure] + np.tile(place, 5)) * stride
    return _separate(
        np.concatenate([corner, size, marks, score[sure, None]], axis=1).astype(np.float32), threshold
    )


@functools.lru_cache(maxsize=64)
def _cells(height: int, width: int) -> np.ndarray:
    """Column, row and stride of each cell of the grids of an input of that size, (N, 3) int64, in the order
    of the outputs. Each cell proposes one box."""
    grids = []
    for stride in STRIDES:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        grids.append(np.stack([columns.ravel(), rows.ravel(), np.full(rows.size, stride)], axis=1))
    return np.concatenate(grids)


def _separate(rows: np.ndarray, threshold: float) -> np.ndarray:
    """Non-maximum suppression: keep the most confident of overlapping boxes."""
    if len(rows) < 2:
        return rows
    boxes = rows[:, :4].astype(np.int32).tolist()  # OpenCV compares them in whole pixels
    kept = cv2.dnn.NMSBoxes(boxes, rows[:, 14].tolist(), threshold, NMS_THRESHOLD, 1.0, CANDIDATES)
    return rows[np.asarray(kept, np.int64).reshape(-1)]


def _dequantise(model: onnx.ModelProto) -> None:
    """Convert weights that are stored as integers to floats once, instead of for each image."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            floats = _floats(node, *(stored[name] for name in node.input))
            model.graph.initializer.append(numpy_helper.from_array(floats, node.output[0]))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _floats(
    node: onnx.NodeProto, values: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None
) -> np.ndarray:
    """ONNX's DequantizeLinear, with a single scale, or with one per index or per block of an axis."""
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)

    def spread(factors: np.ndarray) -> np.ndarray:
        if factors.size == 1:
            return factors.reshape(())
        if factors.ndim == values.ndim:
            return np.repeat(factors, block, axis)[tuple(slice(length) for length in values.shape)]
        return factors.reshape([-1 if at == axis else 1 for at in range(values.ndim)])

    offset = spread(zero.astype(np.float32)) if zero is not None else np.float32(0)
    return ((values.astype(np.float32) - offset) * spread(scale)).astype(np.float32)


def _free_sizes(model: onnx.ModelProto) -> None:
    """Let the network accept images of any height and width; in the file both are fixed to 640."""
    shape = model.graph.input[0].type.tensor_type.shape
    for axis, name in ((2, "height"), (3, "width")):
        shape.dim[axis].dim_param = name
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
