"""Read ONNX files, and create sessions that run them on CPUs or on CUDA."""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from faceq.errors import DeviceError, ModelFileError
from faceq.messages.one_line import one_line
from faceq.runtime import device as devices

log = logging.getLogger(__name__)

_FILES_SHOWN = 3

Network = Callable[[np.ndarray], list[np.ndarray]]
"""Takes the batch for a model's only input, and returns the model's outputs in their order."""


def read(path: Path) -> onnx.ModelProto:
    """The model in a file.

    Raises ModelFileError if the file contains no model, or if its weights are in other files: those could be
    replaced without a change of the recorded SHA-256.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # from protobuf or the disk: they have no common base class
        raise ModelFileError(f"{path}: is not an ONNX file: {one_line(error)}") from None
    if not model.graph.node or not model.graph.output:
        raise ModelFileError(f"{path}: is not an ONNX file: it contains no graph")
    external = sorted({_location(tensor) for tensor in _tensors(model) if uses_external_data(tensor)})
    if external:
        raise ModelFileError(
            f"{path}: keeps weights in other files ({', '.join(map(repr, external[:_FILES_SHOWN]))}"
            f"{', …' if len(external) > _FILES_SHOWN else ''}), which its SHA-256 does not cover: "
            "save it as one file: onnx.save(onnx.load('model.onnx'), 'one.onnx')"
        )
    return model


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """All tensors of a model, including those in subgraphs, attributes and functions."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for each in [value] if hasattr(value, "ListFields") else value:
            if isinstance(each, onnx.TensorProto):
                yield each
            else:
                yield from _tensors(each)


def _location(tensor: onnx.TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "?")


def session(
    path: Path | str, model: onnx.ModelProto, device: str, threads: int
) -> onnxruntime.InferenceSession:
    """A session for a model.

    Args:
        path: the file from which the model was read; only for messages.
        model: the model, possibly modified after it was read.
        device: `cpu` or `cuda`.
        threads: number of intra-op threads on the CPU.

    Raises:
        ModelFileError: ONNX Runtime cannot run the model.
        DeviceError: `device` is `cuda`, but ONNX Runtime cannot use CUDA, or the GPU fails.
    """
    options = _options(threads)
    if all(node.op_type != "QuantizeLinear" for node in model.graph.node):
        # The model computes nothing in integers. Convert its quantised weights to floats once, not in every
        # run: the CUDA provider has no kernel for block-quantised weights.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if device == "cuda":
        devices.check_cuda()
        if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
            with contextlib.redirect_stdout(io.StringIO()) as printed:  # it prints missing libraries
                onnxruntime.preload_dlls()  # CUDA and cuDNN, from the packages that torch depends on
            for line in filter(None, printed.getvalue().splitlines()):
                log.warning("onnxruntime: %s", line)
        # Use full precision: TensorFloat-32 would change SER-FIQ, whose scores differ only slightly. By
        # default, cuDNN's algorithms are chosen by their measured times: two processes would choose different
        # ones, whose results differ in the last bits, and each new input shape would take up to a second.
        cuda = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
        providers = [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]
    else:
        providers = ["CPUExecutionProvider"]
    try:
        # If CUDA fails, now or later, the fallback would print to standard output and continue on the CPU.
        created = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=providers, enable_fallback=0
        )
    except Exception as error:  # the errors of ONNX Runtime have no public base class
        devices.raise_if_gpu_failed(error)
        raise ModelFileError(f"{path}: cannot be loaded: {one_line(error)}") from None
    # If CUDA libraries are missing, ONNX Runtime only logs it and continues on the CPU.
    if device == "cuda" and "CUDAExecutionProvider" not in created.get_providers():
        raise DeviceError(devices.CUDA_DID_NOT_LOAD)
    log.debug("%s: loaded on %s, %d threads", path, device, threads)
    return created


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # at lower levels it warns about every unused weight of a truncated model
    return options


def network(opened: onnxruntime.InferenceSession) -> Network:
    """A session with one input, as a function."""
    name = opened.get_inputs()[0].name
    return lambda batch: opened.run(None, {name: batch})


def linear(
    weight: np.ndarray, bias: np.ndarray | None = None, threads: int = 1
) -> Callable[[np.ndarray], np.ndarray]:
    """A linear layer on the CPU: (N, D) float32 to (N, E) float32.

    The bits of a row of the result depend neither on the other rows nor on its position, as they do with
    numpy's OpenBLAS.

    Args:
        weight: (E, D) float32.
        bias: (E,) float32; None for no bias.
        threads: number of threads. The result does not depend on it.
    """
    nodes = [helper.make_node("MatMul", ["features", "weight"], ["product"])]
    constants = {"weight": np.ascontiguousarray(weight.T)}
    if bias is not None:
        nodes.append(helper.make_node("Add", ["product", "bias"], ["sum"]))
        constants["bias"] = bias
    options = _options(threads)
    # The session takes the arrays as they are. Inside the model they would be copied four times.
    values = map(onnxruntime.OrtValue.ortvalue_from_numpy, constants.values())
    options.add_external_initializers(list(constants), list(values))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, weight.shape[1]])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [_outside(name, values.shape) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    layer = network(onnxruntime.InferenceSession(model.SerializeToString(), options))
    return lambda batch: layer(batch)[0]


def _outside(name: str, shape: tuple[int, ...]) -> onnx.TensorProto:
    """A float32 tensor of a graph whose values the options of the session contain."""
    tensor = onnx.TensorProto(
        name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value="options")
    return tensor


def spell_out_prelu(model: onnx.ModelProto) -> None:
    """Replace every per-channel PRelu(x) by slope * x + (1 - slope) * Relu(x), with depthwise convolutions as
    the products. The model is changed in place.

    ONNX Runtime computes convolutions on CPUs in a layout with blocked channels, for which it has no PRelu.
    It would therefore convert the layout before and after every PRelu. In this form SFace takes 14 ms per
    face, in its original form 30 ms.
    """
    slopes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        slope = slopes.get(node.input[1]) if node.op_type == "PRelu" else None
        if slope is None or slope.ndim < 3 or slope.size != slope.shape[-3] or slope.size == 1:
            model.graph.node.append(node)
            continue
        (source, _), (result,) = node.input, node.output
        kernels = {f"{result}/below": slope, f"{result}/above": 1 - slope}
        for name, factor in kernels.items():
            kernel = factor.reshape(-1, 1, 1, 1).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(kernel, name))
        below, above = ([name, f"{name}/out"] for name in kernels)
        model.graph.node.extend(
            [
                helper.make_node("Conv", [source, below[0]], [below[1]], group=slope.size),
                helper.make_node("Relu", [source], [f"{result}/relu"]),
                helper.make_node("Conv", [f"{result}/relu", above[0]], [above[1]], group=slope.size),
                helper.make_node("Add", [below[1], above[1]], [result]),
            ]
        )
