"""YuNet in mini-batches, for GPUs: images of all sizes are put on canvases of a few sizes.

On a plain canvas the network would see a padded image: the biases of its layers fill the padding, and faces
move (by at most 6 pixels in 221 photos). Therefore the graph is changed: before each 3x3 convolution, the
area outside the image is set to zero, which is what the convolution sees at the edge of an image of its own
size. The answers are those of `faceq.faces.yunet` except for the last bits.
"""

from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from faceq.faces.yunet import OUTPUTS, faces_in, network
from faceq.runtime.minibatch import OomSafeBatcher
from faceq.runtime.onnx_runtime import session

SIDES = (320, 480, 640, 960, 1280)
"""Heights and widths of canvases, in pixels: those of the first detection pass and of its image rotated by 45
degrees, and steps up to the largest tile."""

GRID = 32
"""Images are padded to multiples of the network's largest stride, in pixels, as in OpenCV."""

Canvas = tuple[int, int]
"""Height and width, pixels."""


class YuNetCanvases:
    """YuNet for many images at once.

    Every canvas has a session of its own: ONNX Runtime 1.20 and later plan all convolutions again whenever
    the shape of a session's input changes (microsoft/onnxruntime#23006).

    Args:
        path: the ONNX file, with float or quantised weights.
        threshold: minimum confidence of a face, 0...1.
        device: `cpu` or `cuda`.
        threads: number of threads of ONNX Runtime on the CPU.
        mini_batch: number of images in a mini-batch on the smallest canvas. Larger canvases take
            proportionally fewer.
    """

    def __init__(self, path: Path, threshold: float, device: str, threads: int, mini_batch: int):
        self._path, self._device, self._threads = path, device, threads
        self._threshold = threshold
        self._mini_batch = mini_batch
        self._model = _masked(network(path))
        self._batchers: dict[Canvas, OomSafeBatcher] = {}

    def canvas(self, height: int, width: int) -> Canvas:
        """The canvas for an image of this size."""
        return _side(height), _side(width)

    def size(self, canvas: Canvas) -> int:
        """Number of images in a mini-batch on this canvas."""
        if canvas in self._batchers:
            return self._batchers[canvas].size
        return max(1, self._mini_batch * SIDES[0] ** 2 // (canvas[0] * canvas[1]))

    def many(self, canvas: Canvas, images: list[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """Run the network on RGB uint8 images (H, W, 3) that belong on this canvas. Returns the raw outputs
        for `faces_in` of each of them."""
        shown = np.zeros((len(images), *canvas, 3), np.uint8)
        for index, image in enumerate(images):
            shown[index, : image.shape[0], : image.shape[1]] = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        cells = (1, canvas[0] // GRID, canvas[1] // GRID)
        inside = np.stack([_inside(cells, image.shape) for image in images])
        if canvas not in self._batchers:
            self._batchers[canvas] = self._batcher(canvas)
        return list(zip(*self._batchers[canvas](shown, inside), strict=True))

    def faces_in(self, canvas: Canvas, image: np.ndarray, outputs: tuple[np.ndarray, ...]) -> np.ndarray:
        """Faces (N, 15) in an image, as from `YuNetSession`."""
        height, width = (-(-side // GRID) * GRID for side in image.shape[:2])
        found = {}
        for name, values in zip(OUTPUTS, outputs, strict=True):
            stride = int(name.split("_")[1])
            grid = values.reshape(canvas[0] // stride, canvas[1] // stride, -1)
            inside = grid[: height // stride, : width // stride]
            found[name] = inside.reshape(-1, inside.shape[-1])
        return faces_in(found, width, self._threshold)

    def _batcher(self, canvas: Canvas) -> OomSafeBatcher:
        made = session(self._path, self._model, self._device, self._threads)

        def run(shown: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, ...]:
            return tuple(made.run(OUTPUTS, {"canvas": shown, "inside": inside}))

        return OomSafeBatcher(run, self.size(canvas), "find_face")


def _inside(cells: tuple[int, int, int], shape: tuple[int, ...]) -> np.ndarray:
    """The network's input `inside` for an image of this shape."""
    inside = np.zeros(cells, np.float32)
    inside[:, : -(-shape[0] // GRID), : -(-shape[1] // GRID)] = 1
    return inside


def _side(length: int) -> int:
    """The shortest side of a canvas on which this length fits."""
    return next((side for side in SIDES if side >= length), -(-length // SIDES[0]) * SIDES[0])


def _masked(model: onnx.ModelProto) -> onnx.ModelProto:
    """Change YuNet's graph to take `canvas`, (N, H, W, 3) uint8 BGR, and `inside`, (N, 1, H / 32, W / 32)
    float32, 1 where the image is and 0 in the padding."""
    graph = model.graph
    image = graph.input[0].name
    strides = _strides(model)
    nodes = [
        helper.make_node("Transpose", ["canvas"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["channels"], [image], to=TensorProto.FLOAT),
        *(_mask(model, stride) for stride in sorted({2, *strides.values()} - {1})),
    ]
    for node in graph.node:
        if node.op_type == "Conv" and any(_attribute(node, "pads")) and node.input[0] != image:
            masked = f"{node.output[0]}/masked"
            nodes.append(
                helper.make_node("Mul", [node.input[0], f"inside/{strides[node.input[0]]}"], [masked])
            )
            node.input[0] = masked
        elif node.op_type == "Reshape" and node.input[0] in strides:
            _keep_batch(model, node)
        nodes.append(node)
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.extend(
        [
            helper.make_tensor_value_info("canvas", TensorProto.UINT8, ["batch", "height", "width", 3]),
            helper.make_tensor_value_info("inside", TensorProto.FLOAT, ["batch", 1, "rows", "columns"]),
        ]
    )
    return model


def _strides(model: onnx.ModelProto) -> dict[str, int]:
    """The stride, in pixels of the image, of every tensor that is computed from the image."""
    found = {model.graph.input[0].name: 1}
    for node in model.graph.node:
        if node.input[0] not in found:
            continue  # it computes a weight
        stride = found[node.input[0]]
        if node.op_type in ("Conv", "MaxPool"):
            stride *= _attribute(node, "strides")[0]
        elif node.op_type == "Resize":
            stride //= 2
        found[node.output[0]] = stride
    return found


def _mask(model: onnx.ModelProto, stride: int) -> onnx.NodeProto:
    """The node that repeats the values of `inside` for a grid of this stride."""
    scales = np.array([1, 1, GRID // stride, GRID // stride], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(scales, f"scales/{stride}"))
    return helper.make_node(
        "Resize",
        ["inside", "", f"scales/{stride}"],
        [f"inside/{stride}"],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _keep_batch(model: onnx.ModelProto, reshape: onnx.NodeProto) -> None:
    """Replace the batch size 1 in the target shape of a Reshape by that of its input."""
    (shape,) = (each for each in model.graph.initializer if each.name == reshape.input[1])
    name = f"{reshape.output[0]}/shape"
    target = np.array([0, *numpy_helper.to_array(shape)[1:]], np.int64)
    model.graph.initializer.append(numpy_helper.from_array(target, name))
    reshape.input[1] = name


def _attribute(node: onnx.NodeProto, name: str) -> list[int]:
    return next((list(each.ints) for each in node.attribute if each.name == name), [])
