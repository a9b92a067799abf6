"""A recognition network, cut open at its dropout layer.

The network's ONNX file is split in two: the backbone, which ONNX Runtime runs, and the last linear
layer with its batch norm folded in, which SER-FIQ needs as numbers.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from faceq.serfiq import Head


class RecogniserError(ValueError):
    """A recognition model that cannot be cut open; the message names the file and what it lacks."""


class Backbone:
    """All of a recogniser up to the input of its dropout layer.

    Args:
        path: an ONNX file that ends in Dropout, Flatten, Gemm and (optionally) BatchNormalization.
        device: `cpu` or `cuda`.
        threads: intra-op threads on the CPU.

    Attributes:
        head: the last layer and the dropout rate.
    """

    def __init__(self, path: Path, device: str = "cpu", threads: int = 1):
        model = onnx.load(str(path))
        features, self.head = _open_tail(model, path)
        _cut_at(model, features)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # warns of every weight of the tail that was cut off
        provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise RecogniserError(
                f"{provider} is not in this onnxruntime: install onnxruntime-gpu or set the device to cpu"
            )
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[provider])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Features of aligned faces.

        Args:
            faces: (N, 112, 112, 3) uint8 RGB. SFace normalises inside its graph: 0...255 goes in.

        Returns:
            (N, D) float32, the input of the dropout layer, flattened.
        """
        batch = np.ascontiguousarray(faces.transpose(0, 3, 1, 2), dtype=np.float32)
        (features,) = self._session.run(None, {self._input: batch})
        return features.reshape(len(faces), -1)


def _open_tail(model: onnx.ModelProto, path: Path) -> tuple[str, Head]:
    """Name of the tensor that enters the dropout layer, and the layer behind it as numbers."""
    nodes = list(model.graph.node)
    dropout = next((node for node in reversed(nodes) if node.op_type == "Dropout"), None)
    gemm = next((node for node in reversed(nodes) if node.op_type == "Gemm"), None)
    if dropout is None or gemm is None:
        missing = "Dropout" if dropout is None else "Gemm"
        raise RecogniserError(f"{path}: the graph has no {missing} node, SER-FIQ needs one near its end")
    weight = _constant(model, gemm.input[1])
    if not _attribute(gemm, "transB", 0):
        weight = weight.T
    bias = _constant(model, gemm.input[2]) if len(gemm.input) > 2 else np.zeros(len(weight))
    behind = (node for node in nodes if node.input and node.input[0] == gemm.output[0])
    norm = next((node for node in behind if node.op_type == "BatchNormalization"), None)
    if norm is not None:
        gain, shift, mean, variance = (_constant(model, name) for name in norm.input[1:5])
        gain = gain / np.sqrt(variance + _attribute(norm, "epsilon", 1e-5))
        weight, bias = weight * gain[:, None], gain * (bias - mean) + shift
    rate = float(_constant(model, dropout.input[1])) if len(dropout.input) > 1 else 0.5
    head = Head(weight.astype(np.float32), bias.astype(np.float32), rate)
    return dropout.input[0], head


def _constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    """Value of a tensor that depends on no input: an initializer, a Constant, or a few nodes on such."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            return numpy_helper.to_array(tensor)
    node = next((n for n in model.graph.node if name in n.output), None)
    if node is None:
        raise RecogniserError(f"tensor {name} is neither a constant nor made from constants")
    inputs = [numpy_helper.from_array(_constant(model, i), i) for i in node.input if i]
    graph = helper.make_graph([node], "constant", [], [helper.make_empty_tensor_value_info(name)], inputs)
    small = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = onnxruntime.InferenceSession(small.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([name], {})[0]


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _cut_at(model: onnx.ModelProto, features: str) -> None:
    """Make `features` the graph's only output, its weights constants, and its batch size free."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    used = {name for node in graph.node for name in node.input}
    # Old exporters list each weight as an input too, also such that quantisation has since replaced.
    inputs = [value for value in graph.input if value.name in used - weights]
    for value in inputs:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(features, onnx.TensorProto.FLOAT, None))
    # Shapes that the file states for tensors in between still hold its old batch size of one.
    del graph.value_info[:]
