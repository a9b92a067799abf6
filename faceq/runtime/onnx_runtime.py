"""ONNX files and the sessions that run them, on CPUs and on CUDA."""

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from faceq.errors import DeviceError, ModelFileError
from faceq.messages.one_line import one_line
from faceq.runtime import device as devices

log = logging.getLogger(__name__)

_FILES_SHOWN = 3


def read(path: Path) -> onnx.ModelProto:
    """The model in a file.

    Raises ModelFileError where it holds none, or weights are in other files: these could be exchanged while
    the SHA-256 on record stays the same.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # of protobuf or the disk: they share no base
        raise ModelFileError(f"{path}: is not an ONNX file: {one_line(error)}") from None
    if not model.graph.node or not model.graph.output:
        raise ModelFileError(f"{path}: is not an ONNX file: it holds no graph")
    elsewhere = sorted({_location(tensor) for tensor in _tensors(model) if uses_external_data(tensor)})
    if elsewhere:
        raise ModelFileError(
            f"{path}: keeps weights in other files ({', '.join(map(repr, elsewhere[:_FILES_SHOWN]))}"
            f"{', …' if len(elsewhere) > _FILES_SHOWN else ''}), which its SHA-256 does not cover: "
            "write it as one file: onnx.save(onnx.load('model.onnx'), 'one.onnx')"
        )
    return model


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """All tensors of a model, wherever they stand: in graphs within graphs, attributes and functions."""
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


def session(path: Path, model: onnx.ModelProto, device: str, threads: int) -> onnxruntime.InferenceSession:
    """A session for a model read from `path`, which may have been changed since.

    Args:
        device: `cpu` or `cuda`.
        threads: intra-op threads on the CPU.

    Raises:
        ModelFileError: ONNX Runtime cannot run it.
        DeviceError: CUDA was asked for, and ONNX Runtime does not run on it, or the card fails.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # warns of every weight of a tail that was cut off
    if all(node.op_type != "QuantizeLinear" for node in model.graph.node):
        # Nothing is computed in integers: weights stored so become floats here, once, and not in each run,
        # where CUDA's provider would have no kernel for weights in blocks.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if device == "cuda":
        devices.check_cuda()
        if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
            with contextlib.redirect_stdout(io.StringIO()) as printed:  # prints what it does not find
                onnxruntime.preload_dlls()  # CUDA's and cuDNN's, out of the packages that torch brings
            for line in filter(None, printed.getvalue().splitlines()):
                log.warning("onnxruntime: %s", line)
        # In full precision: TensorFloat-32 would move SER-FIQ, whose scores lie close together.
        providers = [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    else:
        providers = ["CPUExecutionProvider"]
    try:
        # The fallback would print to standard output and go on with the CPU where CUDA fails, now or later.
        made = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=providers, enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's errors share no public base
        devices.check_card(error)
        raise ModelFileError(f"{path}: cannot be loaded: {one_line(error)}") from None
    # Where CUDA's libraries are missing, ONNX Runtime logs it and goes on with the CPU.
    if device == "cuda" and "CUDAExecutionProvider" not in made.get_providers():
        raise DeviceError(devices.CUDA_DID_NOT_LOAD)
    log.debug("%s: loaded on %s, %d threads", path, device, threads)
    return made


def spell_out_prelu(model: onnx.ModelProto) -> None:
    """Write PRelu(x) with a slope for each channel as slope * x + (1 - slope) * Relu(x), in depthwise
    convolutions.

    ONNX Runtime computes convolutions on CPUs in blocks of channels, and has no PRelu for these: around each
    one it brings the maps back into rows and into blocks again. SFace takes 14 ms a face in this form, 30 ms
    in its own.
    """
    slopes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        slope = slopes.get(node.input[1]) if node.op_type == "PRelu" else None
        if slope is None or slope.ndim < 3 or slope.size != slope.shape[-3] or slope.size == 1:
            model.graph.node.append(node)
            continue
        (taken, _), (given,) = node.input, node.output
        kernels = {f"{given}/below": slope, f"{given}/above": 1 - slope}
        for name, factor in kernels.items():
            kernel = factor.reshape(-1, 1, 1, 1).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(kernel, name))
        below, above = ([name, f"{name}/out"] for name in kernels)
        model.graph.node.extend(
            [
                helper.make_node("Conv", [taken, below[0]], [below[1]], group=slope.size),
                helper.make_node("Relu", [taken], [f"{given}/relu"]),
                helper.make_node("Conv", [f"{given}/relu", above[0]], [above[1]], group=slope.size),
                helper.make_node("Add", [below[1], above[1]], [given]),
            ]
        )
