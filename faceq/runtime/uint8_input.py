"""Let a network take images as bytes: a GPU then gets a quarter of the data and converts it itself."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NAME = "images"


def free_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The model's inputs. Old files list their weights among them."""
    weights = {each.name for each in model.graph.initializer}
    return [each for each in model.graph.input if each.name not in weights]


def sides(value: onnx.ValueInfoProto) -> list[int | str]:
    """The shape of an input: numbers, or names of sizes that may vary."""
    return [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]


def take_uint8(model: onnx.ModelProto, mean: float = 0.0, scale: float = 1.0) -> None:
    """Change the model's image input from (N, 3, H, W) float32 to NAME, (N, H, W, 3) uint8. The network gets
    (image - mean) * scale, with the same bits as from `cv2.dnn.blobFromImage`."""
    graph = model.graph
    (image,) = free_inputs(model)
    batch, _, height, width = sides(image)
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
        ("Cast", [], {"to": TensorProto.FLOAT}),
        *([("Sub", [_constant(graph, "mean", mean)], {})] if mean else []),
        *([("Mul", [_constant(graph, "scale", scale)], {})] if scale != 1 else []),
    ]
    nodes, last = [], NAME
    for index, (kind, others, attributes) in enumerate(steps):
        result = image.name if index == len(steps) - 1 else f"{NAME}/{kind}"
        nodes.append(helper.make_node(kind, [last, *others], [result], **attributes))
        last = result
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    graph.input.remove(image)
    graph.input.append(helper.make_tensor_value_info(NAME, TensorProto.UINT8, [batch, height, width, 3]))


def _constant(graph: onnx.GraphProto, name: str, value: float) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), f"{NAME}/{name}"))
    return f"{NAME}/{name}"
