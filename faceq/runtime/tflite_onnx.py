"""Convert the TFLite file of FaceMesh to an ONNX model.

ONNX Runtime can run that model in batches, and takes half the time of OpenCV. Only the contents of that file
are supported: seven kinds of operators, weights in half precision, and ReLU as the only fused activation.
Other files raise ValueError.
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tflite
from onnx import helper, numpy_helper

OPSET = 17

_KINDS = {value: name for name, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)}
_TYPES = {tflite.TensorType.FLOAT32: np.float32, tflite.TensorType.FLOAT16: np.float16}


def read(path: Path) -> onnx.ModelProto:
    """The network in a TFLite file, with a variable batch size.

    Its input is (N, 3, H, W) float32. Its outputs are those of the file, each flattened to (N, values).

    Raises:
        ValueError: the file is not a TFLite file, or contains something that is not supported.
    """
    data = path.read_bytes()
    if not tflite.Model.ModelBufferHasIdentifier(data, 0):
        raise ValueError("is not a TFLite file")
    try:
        return _Conversion(tflite.Model.GetRootAsModel(data, 0)).model()
    except (AttributeError, IndexError, KeyError, TypeError, struct.error) as error:
        raise ValueError(f"contains an unsupported network ({type(error).__name__}: {error})") from None


class _Conversion:
    """Converts one graph from TFLite (channels last) to ONNX (channels first)."""

    def __init__(self, model: tflite.Model):
        self._model = model
        self._graph = model.Subgraphs(0)
        self._constants: dict[int, np.ndarray] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        for index in range(self._graph.OperatorsLength()):
            self._add(self._graph.Operators(index))
        (source,) = self._graph.InputsAsNumpy()
        _, height, width, channels = self._graph.Tensors(source).ShapeAsNumpy().tolist()
        outputs = []
        for tensor in self._graph.OutputsAsNumpy():
            size = int(np.prod(self._graph.Tensors(tensor).ShapeAsNumpy()[1:]))
            # Transpose back to channels last first, so that the values are in the order of the file.
            last = self._node("Transpose", [_name(tensor)], perm=[0, 2, 3, 1])
            shape = self._weight(np.array([-1, size], np.int64))
            self._node("Reshape", [last, shape], f"{_name(tensor)}/flat")
            outputs.append(helper.make_tensor_value_info(f"{_name(tensor)}/flat", 1, ["batch", size]))
        image = helper.make_tensor_value_info(_name(source), 1, ["batch", channels, height, width])
        graph = helper.make_graph(self._nodes, "tflite", [image], outputs, self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        onnx.checker.check_model(model)
        return model

    def _add(self, operator: tflite.Operator) -> None:
        kind = _KINDS[self._model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()]
        inputs, (output,) = operator.InputsAsNumpy().tolist(), operator.OutputsAsNumpy().tolist()
        match kind:
            case "DEQUANTIZE":
                self._constants[output] = self._constant(inputs[0]).astype(np.float32)
            case "CONV_2D":
                options = _options(operator, tflite.Conv2DOptions())
                self._convolution(inputs, output, options, self._constant(inputs[1]).transpose(0, 3, 1, 2), 1)
            case "DEPTHWISE_CONV_2D":
                options = _options(operator, tflite.DepthwiseConv2DOptions())
                kernel = self._constant(inputs[1]).transpose(3, 0, 1, 2)
                self._convolution(inputs, output, options, kernel, len(kernel))
            case "PRELU":
                self._prelu(inputs, output)
            case "ADD":
                _only_relu(
                    _options(operator, tflite.AddOptions()).FusedActivationFunction(), allow_relu=False
                )
                self._node("Add", [_name(each) for each in inputs], _name(output))
            case "MAX_POOL_2D":
                self._pool(inputs[0], output, _options(operator, tflite.Pool2DOptions()))
            case "PAD":
                before, after = self._constant(inputs[1])[[0, 3, 1, 2]].T
                pads = self._weight(np.concatenate([before, after]).astype(np.int64))
                self._node("Pad", [_name(inputs[0]), pads], _name(output))
            case _:
                raise ValueError(f"contains the unsupported operator {kind}")

    def _convolution(
        self, inputs: list[int], output: int, options: tflite.Conv2DOptions, kernel: np.ndarray, group: int
    ) -> None:
        activation = options.FusedActivationFunction()
        _only_relu(activation)
        strides = [options.StrideH(), options.StrideW()]
        linear = _name(output) if not activation else f"{_name(output)}/linear"
        self._node(
            "Conv",
            [_name(inputs[0]), self._weight(kernel), self._weight(self._constant(inputs[2]))],
            linear,
            strides=strides,
            pads=self._pads(inputs[0], kernel.shape[2:], strides, options.Padding()),
            group=group,
        )
        if activation:
            self._node("Relu", [linear], _name(output))

    def _prelu(self, inputs: list[int], output: int) -> None:
        slope = self._constant(inputs[1]).reshape(-1, 1, 1)
        self._node("PRelu", [_name(inputs[0]), self._weight(slope)], _name(output))

    def _pool(self, source: int, output: int, options: tflite.Pool2DOptions) -> None:
        _only_relu(options.FusedActivationFunction(), allow_relu=False)
        kernel, strides = (
            [options.FilterHeight(), options.FilterWidth()],
            [options.StrideH(), options.StrideW()],
        )
        pads = self._pads(source, kernel, strides, options.Padding())
        self._node("MaxPool", [_name(source)], _name(output), kernel_shape=kernel, strides=strides, pads=pads)

    def _pads(self, source: int, kernel: Sequence[int], strides: list[int], padding: int) -> list[int]:
        """The ONNX pads for the padding mode SAME of TFLite, which puts an odd pixel at the end."""
        if padding == tflite.Padding.VALID:
            return [0, 0, 0, 0]
        sides = self._graph.Tensors(source).ShapeAsNumpy()[1:3].tolist()
        totals = [
            max(0, (-(-side // stride) - 1) * stride + size - side)
            for side, size, stride in zip(sides, kernel, strides, strict=True)
        ]
        return [*(total // 2 for total in totals), *(total - total // 2 for total in totals)]

    def _constant(self, tensor: int) -> np.ndarray:
        if tensor in self._constants:
            return self._constants[tensor]
        stored = self._graph.Tensors(tensor)
        kind = np.int32 if stored.Type() == tflite.TensorType.INT32 else _TYPES[stored.Type()]
        data = self._model.Buffers(stored.Buffer()).DataAsNumpy()
        return np.frombuffer(data.tobytes(), kind).reshape(stored.ShapeAsNumpy())

    def _weight(self, values: np.ndarray) -> str:
        name = f"weight/{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        output = output or f"{kind}/{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output


def _name(tensor: int) -> str:
    return f"tensor/{tensor}"


def _options(operator: tflite.Operator, options: Any) -> Any:
    table = operator.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)
    return options


def _only_relu(activation: int, allow_relu: bool = True) -> None:
    none, relu = tflite.ActivationFunctionType.NONE, tflite.ActivationFunctionType.RELU
    if activation != none and not (allow_relu and activation == relu):
        raise ValueError(f"contains the unsupported fused activation {activation}")
