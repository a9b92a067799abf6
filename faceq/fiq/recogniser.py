"""A face recognition network, split before its last layer.

The network's ONNX file is split into the backbone, which ONNX Runtime or OpenVINO runs, and the last linear
layer with batch norm folded in, whose weights SER-FIQ needs. Dropout is between the two.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from faceq.faces.geometry import ALIGNED_SIZE
from faceq.fiq import serfiq
from faceq.fiq.serfiq import Head
from faceq.messages.one_line import one_line
from faceq.models import zoo
from faceq.models.fetch import fetch
from faceq.runtime.device import raise_if_gpu_failed
from faceq.runtime.numerics import F32, Numerics
from faceq.runtime.onnx_runtime import ModelFileError, Network, network, read, session, spell_out_prelu
from faceq.runtime.openvino_runtime import OpenVinoNetwork

if TYPE_CHECKING:
    import torch

    from faceq.runtime.io_binding import IoBoundSession

SAME_DIRECTION = 0.999
"""Minimum cosine between the embedding of the split network and that of the whole file."""

_SHAPING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout")
"""Nodes that do not change the values of an embedding."""


class Backbone:
    """A recogniser up to the input of its last layer.

    Args:
        path: an ONNX file whose last layer is linear: Gemm or MatMul, optionally followed by a bias, batch
            norm, other multiplications and additions, and L2 normalisation.
        dropout: the rate of SER-FIQ's dropout; None for the rate of the Dropout node in the file.
        mean, std: the network's input is (RGB - mean) / std, with RGB 0...255. None: the values that
            insightface's ArcFaceONNX finds for the file: 127.5 and 127.5, or 0 and 1 if the graph starts with
            this scaling.
        device: `cpu` or `cuda`.
        threads: intra-op threads on the CPU.
        numerics: the library that runs the backbone on the CPU, and the backbone's precision, f32 or bf16.
            The last layer is always in f32.
        trusted: the file is one of the model zoo, whose last layer is known to be found. Other files are
            checked: the network without its last layer must give the same embeddings as the whole network.

    Attributes:
        head: the last layer and the dropout rate.

    Raises:
        ModelFileError: the file is not such a network, or dropout has no effect in it.
        DeviceError: CUDA was requested and is not available.
    """

    def __init__(
        self,
        path: Path,
        dropout: float | None = None,
        mean: float | None = None,
        std: float | None = None,
        device: str = "cpu",
        threads: int = 1,
        numerics: Numerics = F32,
        trusted: bool = False,
    ):
        model = read(path)
        _keep_inputs(model, path)
        del model.graph.output[1:]  # some files also have the embedding's L2 norm as an output
        features, self.head = _open_tail(_Graph(model, path), dropout)
        whole = None
        if not trusted or mean is None or std is None:
            whole = session(path, model, device, threads)
        if whole is not None and (mean is None or std is None):
            mean, std = _arcface_scale(path, whole)
        self._mean, self._std = np.float32(mean), np.float32(std)
        del model.graph.output[:]
        model.graph.output.append(helper.make_tensor_value_info(features, onnx.TensorProto.FLOAT, None))
        self._device = device
        self._session: onnxruntime.InferenceSession | None = None
        self._network: Network
        if numerics.runtime == "openvino":
            self._network = OpenVinoNetwork(path, model, numerics.precision, threads)
        else:
            if device == "cpu":
                spell_out_prelu(model)
            self._session = session(path, model, device, threads)
            self._network = network(self._session)
        if whole is not None and not trusted:
            self._check(path, whole)

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """The features of aligned faces.

        Args:
            faces: (N, 112, 112, 3) uint8 RGB.

        Returns:
            (N, D) float32, the flattened input of the last layer, before dropout.
        """
        (features,) = self._network(self._batch(faces))
        return features.reshape(len(faces), -1)

    def on_device(self, faces: torch.Tensor) -> torch.Tensor:
        """Like `__call__`, for tensors on the device: (N, 112, 112, 3) uint8 RGB to (N, D) float32. Not for
        OpenVINO."""
        batch = (faces.permute(0, 3, 1, 2).float() - float(self._mean)) / float(self._std)
        return self._bound(batch).flatten(1)

    @functools.cached_property
    def _bound(self) -> IoBoundSession:
        from faceq.runtime.io_binding import IoBoundSession  # noqa: PLC0415 - torch takes a second to import

        assert self._session is not None
        (features,) = self._network(self._batch(np.zeros((1, ALIGNED_SIZE, ALIGNED_SIZE, 3), np.uint8)))
        return IoBoundSession(self._session, self._device, features.shape[1:])

    def _batch(self, faces: np.ndarray) -> np.ndarray:
        batch = np.ascontiguousarray(faces.transpose(0, 3, 1, 2), dtype=np.float32)
        return (batch - self._mean) / self._std

    def _check(self, path: Path, whole: onnxruntime.InferenceSession) -> None:
        """Check on two random images that the split network gives the whole network's embeddings, and that
        dropout changes them."""
        shape = (2, ALIGNED_SIZE, ALIGNED_SIZE, 3)
        faces = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        try:
            alone = [network(whole)(self._batch(face[None]))[0] for face in faces]
            features = self(faces)
        except Exception as error:  # ONNX Runtime's errors have no public base class
            raise_if_gpu_failed(error)
            reason = one_line(error)
            raise ModelFileError(
                f"{path}: fails on two faces of shape (3, {ALIGNED_SIZE}, {ALIGNED_SIZE}): {reason}"
            ) from None
        try:
            distance, found = serfiq.ClosedForm(self.head)(features)
            serfiq.check_distances(distance, found)
        except serfiq.DropoutError as error:
            raise ModelFileError(f"{path}: {error}") from None
        wanted = np.concatenate(alone).reshape(len(faces), -1)
        if found.shape != wanted.shape or not (_cosine(found, wanted) > SAME_DIRECTION).all():
            raise ModelFileError(
                f"{path}: its last layer is not supported: the split network gives another embedding"
            )


def from_zoo(name: str, device: str = "cpu", threads: int = 1) -> Backbone:
    """Load a recogniser from the model zoo by name, and fetch it if necessary."""
    path, known = fetch(name), zoo.recogniser(name)
    return Backbone(path, known.dropout, known.mean, known.std, device, threads, trusted=True)


def _arcface_scale(path: Path, whole: onnxruntime.InferenceSession) -> tuple[float, float]:
    """The mean and standard deviation that insightface uses for a recogniser's file."""
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX  # noqa: PLC0415 - takes a second to import

    found = ArcFaceONNX(str(path), whole)
    return found.input_mean, found.input_std


def _cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)


def _keep_inputs(model: onnx.ModelProto, path: Path) -> None:
    """Make the image the graph's only input, the weights constants, and the batch size variable."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    used = {name for node in graph.node for name in node.input}
    # Old exporters also list the weights as inputs, even weights that quantisation has replaced since.
    inputs = [value for value in graph.input if value.name in used - weights]
    if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ModelFileError(f"{path}: expected one input of images (N, 3, H, W), found {names}")
    for value in (*inputs, *graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.input[:]
    graph.input.extend(inputs)
    # The file's shapes of intermediate tensors may still have a batch size of one.
    del graph.value_info[:]


class _Graph:
    """A graph with lookups: the node that makes a tensor, and the value of a constant."""

    def __init__(self, model: onnx.ModelProto, path: Path):
        self.path = path
        self.output: str = model.graph.output[0].name
        self._model = model
        self._made_by = {output: node for node in model.graph.node for output in node.output}
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._free = {value.name for value in model.graph.input}
        for node in model.graph.node:  # ONNX requires topological order
            if not self._free.isdisjoint(node.input):
                self._free.update(node.output)

    def maker(self, tensor: str) -> onnx.NodeProto | None:
        return self._made_by.get(tensor)

    def is_constant(self, tensor: str) -> bool:
        return tensor not in self._free

    def constant(self, tensor: str) -> np.ndarray:
        """The value of a weight, or of a tensor that is computed from weights alone."""
        if tensor in self._weights:
            return numpy_helper.to_array(self._weights[tensor])
        node = self._made_by[tensor]
        inputs = [numpy_helper.from_array(self.constant(i), i) for i in node.input if i]
        wanted = [helper.make_empty_tensor_value_info(tensor)]
        graph = helper.make_graph([node], "constant", [], wanted, inputs)
        imports, version = self._model.opset_import, self._model.ir_version
        small = helper.make_model(graph, opset_imports=imports, ir_version=version)
        session = onnxruntime.InferenceSession(small.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run([tensor], {})[0]


def _open_tail(graph: _Graph, dropout: float | None) -> tuple[str, Head]:
    """The name of the last layer's input tensor, and the layer's weights."""
    behind = []  # the nodes between the layer and the graph's output, the last one first
    node = graph.maker(graph.output)
    while node is not None and node.op_type not in ("Gemm", "MatMul"):
        behind.append(node)
        node = graph.maker(_data_input(graph, node))
    if node is None or not graph.is_constant(node.input[1]):
        raise ModelFileError(
            f"{graph.path}: the graph does not end in a linear layer (Gemm or MatMul with weights)"
        )
    weight, bias = _linear(graph, node)
    for after in reversed(behind):
        weight, bias = _folded(graph, after, weight, bias)
    rate = _dropout_rate(graph, node.input[0]) if dropout is None else dropout
    if rate is None:
        raise ModelFileError(
            f"{graph.path}: the graph has no Dropout node before its last layer: SER-FIQ needs the dropout "
            "rate of its training: set `dropout` (--dropout)"
        )
    return node.input[0], Head(weight.astype(np.float32), bias.astype(np.float32), rate)


def _data_input(graph: _Graph, node: onnx.NodeProto) -> str:
    """The input through which a node after the last layer gets the embedding.

    Raises ModelFileError if the node is neither linear nor an L2 normalisation.
    """
    if node.op_type in (*_SHAPING, "BatchNormalization", "LpNormalization"):
        return node.input[0]
    if node.op_type in ("Add", "Sub", "Mul", "Div"):
        free = [name for name in node.input if not graph.is_constant(name)]
        if len(free) == 1 and (node.op_type in ("Add", "Mul") or free[0] == node.input[0]):
            return free[0]
        if _is_normalisation(graph, node):
            return node.input[0]
    raise ModelFileError(
        f"{graph.path}: the last layer is not linear: it is followed by {node.op_type} ({node.output[0]})"
    )


def _is_normalisation(graph: _Graph, node: onnx.NodeProto) -> bool:
    """Whether a Div divides an embedding by its own L2 norm, as some exporters write it."""
    divisor = graph.maker(node.input[1]) if node.op_type == "Div" else None
    while divisor is not None and divisor.op_type in ("Clip", "Max", "Expand", "Add"):
        divisor = graph.maker(divisor.input[0])
    return divisor is not None and divisor.op_type == "ReduceL2" and divisor.input[0] == node.input[0]


def _linear(graph: _Graph, node: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray]:
    """The weight (E, D) and bias (E,) of a Gemm or MatMul."""
    weight = graph.constant(node.input[1])
    if node.op_type == "MatMul" or not _attribute(node, "transB", 0):
        weight = weight.T
    weight = weight * _attribute(node, "alpha", 1.0)
    if len(node.input) < 3:
        return weight, np.zeros(len(weight))
    bias = graph.constant(node.input[2]) * _attribute(node, "beta", 1.0)
    return weight, np.broadcast_to(bias.reshape(-1), len(weight))


def _folded(
    graph: _Graph, node: onnx.NodeProto, weight: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fold a node after the layer into the layer. L2 normalisation is ignored: only directions matter."""
    if node.op_type == "BatchNormalization":
        gain, shift, mean, variance = (graph.constant(name) for name in node.input[1:5])
        gain = gain / np.sqrt(variance + _attribute(node, "epsilon", 1e-5))
        return weight * gain[:, None], gain * (bias - mean) + shift
    constants = [graph.constant(name).reshape(-1) for name in node.input if graph.is_constant(name)]
    match node.op_type, constants:
        case "Add", [value]:
            return weight, bias + value
        case "Sub", [value]:
            return weight, bias - value
        case "Mul", [value]:
            return weight * value[:, None], bias * value
        case "Div", [value]:
            return weight / value[:, None], bias / value
    return weight, bias


def _dropout_rate(graph: _Graph, tensor: str) -> float | None:
    """The rate of the Dropout node before a tensor, with only shape changes in between; None if there is
    none."""
    node = graph.maker(tensor)
    while node is not None and node.op_type in (*_SHAPING, "Transpose"):
        if node.op_type == "Dropout":
            if len(node.input) > 1 and node.input[1]:
                return float(graph.constant(node.input[1]))
            # Before opset 12 the rate is an attribute; 0.5 is ONNX's default.
            return float(_attribute(node, "ratio", 0.5))
        node = graph.maker(node.input[0])
    return None


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default
