"""YuNet in ONNX Runtime: the same faces as `cv2.FaceDetectorYN`, in half the time on a CPU.

Source: Wu, Peng, Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 2023. The
outputs are decoded as in OpenCV.
"""

from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import numpy_helper

from faceq.runtime.onnx_runtime import read, session

STRIDES = (8, 16, 32)
OUTPUTS = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in STRIDES]
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
        """Faces in a BGR uint8 image (H, W, 3).

        Returns:
            (N, 15) float32 in pixels of the image: box x, y, width, height, which may extend beyond the
            image; x, y of right eye, left eye, nose tip, right and left mouth corner (right and left of the
            person); confidence, 0...1.
        """
        height, width = picture.shape[:2]
        padded = np.zeros((-height % 32 + height, -width % 32 + width, 3), np.uint8)
        padded[:height, :width] = picture
        outputs = self._session.run(OUTPUTS, {self._input: cv2.dnn.blobFromImage(padded)})
        found = dict(zip(OUTPUTS, (output[0] for output in outputs), strict=True))
        return faces_in(found, padded.shape[1], self._threshold)


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
    rows = np.concatenate([_rows(found, stride, width // stride, threshold) for stride in STRIDES])
    return _separate(rows, threshold)


def _rows(found: dict[str, np.ndarray], stride: int, across: int, threshold: float) -> np.ndarray:
    """The boxes of one stride with sufficient confidence. Each cell of the grid proposes one box; a row has
    `across` cells."""
    classes, objects = (np.clip(found[f"{kind}_{stride}"][:, 0], 0, 1) for kind in ("cls", "obj"))
    score = np.sqrt(classes * objects)
    sure = np.flatnonzero(score >= threshold)
    if not len(sure):
        return np.empty((0, 15), np.float32)
    cells = np.stack([sure % across, sure // across], axis=1)
    box, points = found[f"bbox_{stride}"][sure], found[f"kps_{stride}"][sure]
    size = np.exp(box[:, 2:]) * stride
    corner = (cells + box[:, :2]) * stride - size / 2
    places = (points + np.tile(cells, 5)) * stride
    return np.concatenate([corner, size, places, score[sure, None]], axis=1).astype(np.float32)


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
