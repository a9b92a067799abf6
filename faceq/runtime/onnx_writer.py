"""Write a network as an ONNX graph, node by node, without the library in which it was trained."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper

_OPSET = 17


class OnnxWriter:
    """Collects nodes. Each method appends nodes and returns the name of their result.

    weights: those of the network, by name.
    """

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def model(
        self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """The graph of all nodes so far."""
        graph = helper.make_graph(self._nodes, name, inputs, outputs, self._constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)

    def constant(self, values: ArrayLike) -> str:
        """Values as float32."""
        return self._add(np.asarray(values, np.float32))

    def integers(self, values: ArrayLike) -> str:
        """Axes, a shape, or places in an array."""
        return self._add(np.asarray(values, np.int64))

    def _add(self, values: np.ndarray) -> str:
        name = f"constant{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """A single node."""
        name = output or f"value{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def reshaped(self, values: str, shape: list[int]) -> str:
        """The same values in another shape; 0 keeps the size of an axis."""
        return self.node("Reshape", [values, self.integers(shape)])
