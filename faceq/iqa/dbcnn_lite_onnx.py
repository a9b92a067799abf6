"""DB-CNN-Lite in ONNX Runtime or OpenVINO, whose convolutions are faster than torch's on CPUs.

The graphs are generated from the weights, for one shape of mini-batch. torch is not imported: this would take
a second and 150 MB in every process.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from faceq.iqa.dbcnn_lite_weights import (
    BOUND,
    IMAGENET_MEAN,
    IMAGENET_STD,
    LEVEL_STRIDES,
    MAP_STRIDE,
    PRODUCT_SCALE,
    PRODUCTS,
    RATING_CENTRE,
    RATING_SPREAD,
    SCNN_CHANNELS,
    SEMANTIC_CHANNELS,
    STEM_CHANNELS,
    Layout,
    Weights,
    layout_of,
    same_padding,
)
from faceq.runtime.numerics import F32, Numerics
from faceq.runtime.onnx_runtime import Network, network, session
from faceq.runtime.onnx_writer import OnnxWriter
from faceq.runtime.openvino_runtime import OpenVinoNetwork

_MASK = "mask"
_MAPS = (*(f"level{stride}" for stride in LEVEL_STRIDES), "distortion")


class OnnxQuality:
    """Scores mini-batches of one shape by DB-CNN-Lite on the CPU.

    ONNX Runtime or OpenVINO computes the feature maps. Pooling and the head are a second graph, which ONNX
    Runtime always computes in f32. Both give the results of `DBCNNLite` in torch except for the last bits.

    Args:
        weights: the weights of the model.
        batch: number of images in a mini-batch.
        side: height and width of the images, in pixels, a multiple of the layout's `side_unit`.
        threads: number of threads.
        numerics: the library that computes the maps, and their precision, f32 or bf16.
        layout: that of the weights, if they are not those of a model in the zoo.
    """

    def __init__(
        self,
        weights: Weights,
        batch: int,
        side: int,
        threads: int,
        numerics: Numerics = F32,
        layout: Layout | None = None,
    ):
        layout = layout or layout_of(weights)
        unit = layout.side_unit
        if side % unit:
            raise ValueError(
                f"dbcnn: the side of the images is {side} pixels: it must be a multiple of {unit}"
            )
        networks = _networks(weights, layout, batch, side)
        self._networks: Network
        if numerics.runtime == "openvino":
            self._networks = OpenVinoNetwork("dbcnn", networks, numerics.precision, threads)
        else:
            self._networks = network(session("dbcnn", networks, "cpu", threads))
        self._head = session("dbcnn", _pooling_and_head(weights, layout, batch, side), "cpu", threads)

    def __call__(self, images: NDArray[np.uint8], masks: NDArray[np.float32]) -> tuple[NDArray[np.float32]]:
        """Score images.

        Args:
            images: (batch, side, side, 3) uint8 RGB.
            masks: (batch, side, side) float32, 0..1: the weight of each pixel.

        Returns:
            (batch,) float32, as `DBCNNLite` returns it.
        """
        maps = dict(zip(_MAPS, self.maps(images), strict=True))
        (scores,) = self._head.run(None, maps | {_MASK: masks[:, None]})
        return (scores,)

    def maps(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """The feature maps of `DBCNNLite.maps`: those of each level, then those of the distortion network."""
        return self._networks(images)


def _networks(weights: Weights, layout: Layout, batch: int, side: int) -> onnx.ModelProto:
    """The graph from the images to the maps of both networks."""
    writer = _Writer(weights)
    # Convert (N, H, W, 3) uint8 to the input of both networks.
    values = writer.node("Cast", ["images"], to=TensorProto.FLOAT)
    values = writer.node("Transpose", [values], perm=[0, 3, 1, 2])
    mean, std = (255 * np.array(each).reshape(1, 3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    centred = writer.node("Sub", [values, writer.constant(mean)])
    normalised = writer.node("Div", [centred, writer.constant(std)])
    seen = _semantic_side(layout, side)
    levels = _semantic_maps(writer, writer.resized(normalised, side, seen), layout, seen)
    distortion = _distortion_maps(writer, normalised, layout)
    for name, maps in zip(_MAPS, (*levels, distortion), strict=True):
        writer.node("Identity", [maps], output=name)
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, side, side, 3])
    return _model(writer, [images], _MAPS)


def _semantic_side(layout: Layout, side: int) -> int:
    """Side of the semantic network's input for images of this side, pixels."""
    numerator, denominator = layout.share
    return side * numerator // denominator


def _sides(layout: Layout, side: int) -> list[int]:
    """Side of each of _MAPS, in positions."""
    seen = _semantic_side(layout, side)
    return [*(seen // stride for stride in LEVEL_STRIDES), side // MAP_STRIDE]


def _semantic_maps(writer: "_Writer", images: str, layout: Layout, side: int) -> list[str]:
    """EfficientNet-Lite up to the last map that is used. Returns the maps of each level."""
    features = writer.relu6(writer.same_convolution("semantic.stem.0", images, side, stride=2))
    size, channels, levels = side // 2, STEM_CHANNELS, []
    for index, (_, stride, expansion, out) in enumerate(layout.blocks):
        block, inside = f"semantic.blocks.{index}", features
        if expansion != 1:
            inside = writer.relu6(writer.convolution(f"{block}.expand.0", inside))
        inside = writer.relu6(writer.same_convolution(f"{block}.depthwise.0", inside, size, stride))
        inside = writer.convolution(f"{block}.project", inside)
        is_residual = stride == 1 and channels == out
        features = writer.node("Add", [inside, features]) if is_residual else inside
        size, channels = size // stride, out
        if index in layout.level_blocks:
            levels.append(features)
    return levels


def _distortion_maps(writer: "_Writer", images: str, layout: Layout) -> str:
    """S-CNN."""
    features = images
    for index, (_, stride) in enumerate(layout.scnn):
        layer = writer.convolution(f"distortion.{index}.0", features, (1, 1), stride)
        features = writer.node("Relu", [layer])
    return features


def _pooling_and_head(weights: Weights, layout: Layout, batch: int, side: int) -> onnx.ModelProto:
    """The graph from the maps and the mask to the scores, the same steps as `DBCNNLite.rate`."""
    writer = _Writer(weights)
    sides, channels_of = _sides(layout, side), (*layout.level_channels, SCNN_CHANNELS)
    of_side = {each: _position_weights(writer, side, each) for each in sorted(set(sides))}
    pooled = [_products(writer, sides, of_side[sides[-1]])]
    for name, channels, each in zip(_MAPS, channels_of, sides, strict=True):
        pooled += _moments(writer, name, channels, of_side[each])
    values = writer.node("Concat", pooled, axis=1)

    # Standardise and bound them. The factor after the bound is part of the head's weights.
    centred = writer.node("Sub", [values, writer.constant(weights["pooled_mean"])])
    scaled = writer.node("Div", [centred, writer.constant(BOUND * weights["pooled_std"])])
    values = writer.node("Tanh", [scaled])
    factors = np.where(np.arange(weights["pooled_mean"].size) < PRODUCTS, PRODUCT_SCALE, 1.0) * BOUND
    head = writer.constant(RATING_SPREAD * (weights["head.weight"] * factors).T)
    score = writer.node("MatMul", [values, head])

    # If the mask is empty, the score is a constant.
    largest = writer.node("ReduceMax", [_MASK], axes=[1, 2, 3], keepdims=0)
    is_there = writer.node("Greater", [largest, writer.constant(np.array(0))])
    is_there = writer.node("Cast", [is_there], to=TensorProto.FLOAT)
    score = writer.node("Mul", [writer.reshaped(score, [batch]), is_there])
    constant = RATING_CENTRE + RATING_SPREAD * weights["head.bias"]
    writer.node("Add", [score, writer.constant(constant)], output="scores")
    taken = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, channels, each, each])
        for name, channels, each in zip((_MASK, *_MAPS), (1, *channels_of), (side, *sides), strict=True)
    ]
    return _model(writer, taken, ["scores"])


def _position_weights(writer: "_Writer", side: int, positions: int) -> str:
    """`dbcnn_lite.position_weights` of a square map, as (N, positions * positions, 1)."""
    average = _window_means(side, positions)
    down = writer.node("MatMul", [writer.constant(average), _MASK])
    weights = writer.node("MatMul", [down, writer.constant(average.T)])
    total = writer.node("ReduceSum", [weights, writer.integers([2, 3])], keepdims=1)
    total = writer.node("Max", [total, writer.constant(np.array(1e-6))])
    return writer.reshaped(writer.node("Div", [weights, total]), [0, -1, 1])


def _window_means(size: int, positions: int) -> NDArray[np.float32]:
    """The matrix (positions, size) that averages pixels along one axis over the windows of torch's
    `adaptive_avg_pool2d`, which overlap by a pixel if `positions` does not divide `size`."""
    at = np.arange(positions)[:, None]
    starts, ends = at * size // positions, -(-(at + 1) * size // positions)
    inside = (np.arange(size) >= starts) & (np.arange(size) < ends)
    return (inside / (ends - starts)).astype(np.float32)


def _moments(writer: "_Writer", maps: str, channels: int, weights: str) -> list[str]:
    """`dbcnn_lite.masked_moments`: the means (N, C) and the standard deviations (N, C)."""
    features = writer.reshaped(maps, [0, channels, -1])
    mean = writer.node("MatMul", [features, weights])
    apart = writer.node("Sub", [features, mean])
    variance = writer.node("MatMul", [writer.node("Mul", [apart, apart]), weights])
    root = writer.node("Sqrt", [writer.node("Add", [variance, writer.constant(np.array(1e-6))])])
    deviation = writer.node("Sub", [root, writer.constant(np.array(1e-3))])
    return [writer.reshaped(values, [0, channels]) for values in (mean, deviation)]


def _products(writer: "_Writer", sides: list[int], weights: str) -> str:
    """The semantic maps, at the size of the distortion network's map, multiplied with it:
    `dbcnn_lite.masked_bilinear` and `dbcnn_lite.evened`, (N, PRODUCTS)."""
    *levels, distortion = _MAPS
    aligned = [writer.resized(level, each, sides[-1]) for level, each in zip(levels, sides, strict=False)]
    semantic = writer.convolution("project", writer.node("Concat", aligned, axis=1))
    left = writer.reshaped(semantic, [0, SEMANTIC_CHANNELS, -1])
    right = writer.reshaped(distortion, [0, SCNN_CHANNELS, -1])
    left, right = (writer.with_ones(maps) for maps in (left, right))
    weighted = writer.node("Mul", [right, writer.node("Transpose", [weights], perm=[0, 2, 1])])
    products = writer.node("MatMul", [left, writer.node("Transpose", [weighted], perm=[0, 2, 1])])
    products = writer.reshaped(products, [0, PRODUCTS])
    floor = 1e-4
    size = writer.node("Add", [writer.node("Abs", [products]), writer.constant(np.array(floor))])
    root = writer.node("Sub", [writer.node("Sqrt", [size]), writer.constant(np.array(floor**0.5))])
    rooted = writer.node("Mul", [writer.node("Sign", [products]), root])
    length = writer.node("ReduceL2", [rooted], axes=[1], keepdims=1)
    return writer.node("Div", [rooted, writer.node("Max", [length, writer.constant(np.array(1e-12))])])


def _model(
    writer: "_Writer", inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[str]
) -> onnx.ModelProto:
    """The graph of all nodes so far."""
    wanted = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    return writer.model("dbcnn-lite", inputs, wanted)


class _Writer(OnnxWriter):
    """Adds the layers of DB-CNN-Lite."""

    def resized(self, maps: str, size: int, wanted: int) -> str:
        """Square maps interpolated linearly to another side."""
        if size == wanted:
            return maps
        scale = self.constant(np.array([1, 1, wanted / size, wanted / size]))
        return self.node(
            "Resize", [maps, "", scale], mode="linear", coordinate_transformation_mode="half_pixel"
        )

    def with_ones(self, maps: str) -> str:
        """Maps (N, C, positions) with an additional channel of ones at the end."""
        pads = self.integers([0, 0, 0, 0, 1, 0])
        return self.node("Pad", [maps, pads, self.constant(np.array(1))])

    def relu6(self, features: str) -> str:
        """Values limited to 0..6."""
        return self.node("Clip", [features, *(self.constant(np.array(bound)) for bound in (0, 6))])

    def same_convolution(self, name: str, features: str, size: int, stride: int) -> str:
        """A convolution of square maps of this size, with TensorFlow's SAME padding."""
        kernel = self.weights[f"{name}.weight"].shape[2]
        return self.convolution(name, features, same_padding(size, kernel, stride), stride)

    def convolution(
        self, name: str, features: str, padding: tuple[int, int] = (0, 0), stride: int = 1
    ) -> str:
        """A convolution, or a depthwise one if its weights have one input channel. `padding`: before and
        after the maps, on both axes."""
        weight, bias = (self.weights[f"{name}.{kind}"] for kind in ("weight", "bias"))
        return self.node(
            "Conv",
            [features, self.constant(weight), self.constant(bias)],
            pads=[padding[0], padding[0], padding[1], padding[1]],
            strides=[stride, stride],
            group=len(weight) if weight.shape[1] == 1 else 1,
        )
