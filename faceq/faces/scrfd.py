"""SCRFD in ONNX Runtime, in batches of any size.

Source: Guo et al., "Sample and Computation Redistribution for Efficient Face Detection", ICLR 2022. Images
are prepared and outputs decoded as in insightface's class `SCRFD`, which runs one image at a time.
"""

from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import helper, numpy_helper

from faceq.messages.one_line import one_line
from faceq.runtime.device import raise_if_gpu_failed
from faceq.runtime.onnx_runtime import ModelFileError, session
from faceq.runtime.uint8_input import NAME, free_inputs, sides, take_uint8

SCRFD_SIZE = 640
"""Side, in pixels, of the network's input, unless its file has a fixed input size."""

MEAN, SCALE = 127.5, 1 / 128
NMS_THRESHOLD = 0.4

Found = tuple[np.ndarray, np.ndarray]
"""Faces of one image: boxes x1, y1, x2, y2 and confidence (N, 5) float32; landmarks (N, 5, 2) float32. Pixels
of the image, most confident first."""


class ScrfdSession:
    """The network, the preparation of its input and the decoding of its outputs.

    Args:
        path: the ONNX file; only for messages.
        model: its content.
        threshold: minimum confidence of a face, 0...1.
        device: `cpu` or `cuda`.
        threads: number of threads of ONNX Runtime on the CPU.
        batches: change the graph so that it takes several images at once, if it has the published layout.

    Raises:
        ModelFileError: the file is not SCRFD with landmarks.
    """

    def __init__(
        self,
        path: Path,
        model: onnx.ModelProto,
        threshold: float,
        device: str = "cpu",
        threads: int = 1,
        batches: bool = False,
    ):
        _check(path, model)
        self._threshold = threshold
        height, width = (side.dim_value for side in free_inputs(model)[0].type.tensor_type.shape.dim[2:])
        self.shape = (height or SCRFD_SIZE, width or SCRFD_SIZE)
        levels = len(model.graph.output) // 3
        self._strides = (8, 16, 32, 64, 128)[:levels]
        self._per_cell = 2 if levels == 3 else 1
        used = (_with_any_batch(model) if batches else None) or model
        take_uint8(used, MEAN, SCALE)
        self._session = session(path, used, device, threads)
        try:
            self.decode(self(np.zeros((*self.shape, 3), np.uint8)), 1.0)
        except Exception as error:  # from ONNX Runtime or numpy, if the shapes are not those of SCRFD
            raise_if_gpu_failed(error)
            reason = one_line(error)
            raise ModelFileError(f"{path}: its outputs are not those of SCRFD: {reason}") from None

    def prepared(self, image: np.ndarray) -> tuple[np.ndarray, float]:
        """An image (H, W, 3) uint8 at the network's size, on black, and the scale at which it is shown."""
        height, width = image.shape[:2]
        if height / width > self.shape[0] / self.shape[1]:
            size = (int(self.shape[0] / (height / width)), self.shape[0])
        else:
            size = (self.shape[1], int(self.shape[1] * (height / width)))
        shown = np.zeros((*self.shape, 3), np.uint8)
        shown[: size[1], : size[0]] = cv2.resize(image, size)
        return shown, size[1] / height

    def __call__(self, shown: np.ndarray) -> tuple[np.ndarray, ...]:
        """The network's outputs for one prepared RGB image, for `decode`."""
        return self.answer(*(each[0] for each in self.batch(shown[None])))

    def batch(self, shown: np.ndarray) -> tuple[np.ndarray, ...]:
        """The outputs, each (N, boxes, values), for prepared images (N, H, W, 3)."""
        outputs = self._session.run(None, {NAME: shown})
        return tuple(each.reshape(len(shown), -1, each.shape[-1]) for each in outputs)

    def answer(self, *outputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """The outputs of one image."""
        return outputs

    def decode(self, outputs: tuple[np.ndarray, ...], scale: float) -> Found:
        """The faces in one image, from its outputs and its scale."""
        levels = len(self._strides)
        scores, boxes, landmarks = [], [], []
        for level, stride in enumerate(self._strides):
            score, box, points = (outputs[level + part * levels] for part in range(3))
            sure = np.flatnonzero(score[:, 0] >= self._threshold)
            across = self.shape[1] // stride
            cell = sure // self._per_cell
            centre = (np.stack([cell % across, cell // across], axis=1) * stride).astype(np.float32)
            away = box[sure] * stride
            scores.append(score[sure, 0])
            boxes.append(np.concatenate([centre - away[:, :2], centre + away[:, 2:]], axis=1))
            landmarks.append(centre[:, None] + points[sure].reshape(-1, 5, 2) * stride)
        confidence = np.concatenate(scores)
        order = np.argsort(-confidence, kind="stable")
        placed = np.concatenate([np.concatenate(boxes) / scale, confidence[:, None]], axis=1)[order]
        kept = _separate(placed)
        return placed[kept], (np.concatenate(landmarks) / scale)[order][kept]


def _separate(boxes: np.ndarray) -> list[int]:
    """Non-maximum suppression of boxes (N, 5), most confident first: the indices of those that are kept.
    Sides count the last pixel, as in insightface."""
    low, high = boxes[:, :2], boxes[:, 2:4]
    area = (high - low + 1).prod(axis=1)
    kept, left = [], np.arange(len(boxes))
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        size = np.minimum(high[best], high[left]) - np.maximum(low[best], low[left]) + 1
        common = np.maximum(size, 0).prod(axis=1)
        left = left[common / (area[best] + area[left] - common) <= NMS_THRESHOLD]
    return kept


def _with_any_batch(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy of SCRFD's graph that takes any number of images. The published graphs flatten the outputs of
    all images together, and the sizes of some are fixed. None if the graph has another layout."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    made_by = {result: node for node in graph.node for result in node.output}
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    constants |= {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    for output in graph.output:
        node = made_by.get(output.name)
        while node is not None and node.op_type == "Sigmoid":
            node = made_by.get(node.input[0])
        turn = made_by.get(node.input[0]) if node is not None and node.op_type == "Reshape" else None
        if node is None or turn is None or turn.op_type != "Transpose" or node.input[1] not in constants:
            return None
        del turn.attribute[:]
        turn.attribute.append(helper.make_attribute("perm", [0, 2, 3, 1]))
        target = np.array([0, -1, constants[node.input[1]][-1]], np.int64)
        node.input[1] = f"{output.name}/shape"
        graph.initializer.append(numpy_helper.from_array(target, node.input[1]))
        output.type.tensor_type.ClearField("shape")
    for node in list(graph.node):
        if node.op_type == "Resize" and len(node.input) > 3 and node.input[3] in constants:
            _keep_batch(graph, node, constants[node.input[3]])
    free_inputs(changed)[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]
    return changed


def _keep_batch(graph: onnx.GraphProto, resize: onnx.NodeProto, sizes: np.ndarray) -> None:
    """Replace the first two of the fixed sizes of a Resize, batch and channels, by those of its input."""
    name = f"{resize.output[0]}/sizes"
    parts = {"start": np.array([0]), "end": np.array([2]), "space": sizes[2:]}
    for part, values in parts.items():
        graph.initializer.append(numpy_helper.from_array(values.astype(np.int64), f"{name}/{part}"))
    place = list(graph.node).index(resize)
    nodes = [
        helper.make_node("Shape", [resize.input[0]], [f"{name}/all"]),
        helper.make_node("Slice", [f"{name}/all", f"{name}/start", f"{name}/end"], [f"{name}/first"]),
        helper.make_node("Concat", [f"{name}/first", f"{name}/space"], [name], axis=0),
    ]
    for index, node in enumerate(nodes):
        graph.node.insert(place + index, node)
    resize.input[3] = name


def _check(path: Path, model: onnx.ModelProto) -> None:
    outputs = len(model.graph.output)
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
    inputs = [sides(each) for each in free_inputs(model)]
    if len(inputs) != 1 or len(inputs[0]) != 4 or inputs[0][1] != 3:
        raise ModelFileError(f"{path}: has inputs {inputs}: a detector has one input of shape (1, 3, H, W)")
