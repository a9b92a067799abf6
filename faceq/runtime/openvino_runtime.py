"""Run ONNX models on CPUs with OpenVINO, in single precision or in bf16.

OpenVINO is an optional dependency: it is imported inside the functions that need it.
"""

import logging
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from faceq.errors import DeviceError, ModelFileError
from faceq.messages.one_line import one_line
from faceq.runtime.numerics import Precision, has_openvino

log = logging.getLogger(__name__)

_TOOLS = "openvino.tools.ovc"

INSTALL = '`pip install "faceq[openvino]"`'


class OpenVinoNetwork:
    """A network on the CPU.

    Args:
        path: the file from which the model was read; only for messages.
        model: the model, with one input.
        precision: `f32` or `bf16`. Inputs and outputs are the same in both.
        threads: number of threads.

    Raises:
        DeviceError: OpenVINO is not installed, or the CPU cannot compute in this precision.
        ModelFileError: OpenVINO cannot run the model.
    """

    def __init__(self, path: Path | str, model: onnx.ModelProto, precision: Precision, threads: int):
        check(precision)
        properties = {
            # Without this hint, OpenVINO chooses bf16 by itself on CPUs that have it.
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            # Pinned threads of several processes would all share the first cores.
            "ENABLE_CPU_PINNING": False,
        }
        core = _core()
        try:
            self._compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", properties)
        except RuntimeError as error:
            raise ModelFileError(f"{path}: OpenVINO cannot load it: {one_line(error)}") from None
        log.debug("%s: loaded by OpenVINO in %s, %d threads", path, precision, threads)

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """The model's outputs, in its order."""
        return list(self._compiled(batch, share_inputs=True).to_tuple())


def check(precision: Precision) -> None:
    """Check that OpenVINO can compute in this precision in this process. Raises DeviceError if it cannot."""
    where = f"this machine ({platform.node()})"
    if not has_openvino():
        raise DeviceError(
            f"runtime: OpenVINO is not installed on {where}: run {INSTALL}, or set runtime to onnxruntime "
            "and precision to f32"
        )
    if precision == "bf16" and not supports_bf16():
        raise DeviceError(
            f"precision: the CPU of {where} cannot compute in bf16 (it has neither AMX nor avx512_bf16): set "
            "precision to f32"
        )


def supports_bf16() -> bool:
    """Whether this machine's CPU can compute in bf16."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _core() -> Any:
    """OpenVINO, imported without its tools for model conversion.

    Importing these would report the use of OpenVINO to Google Analytics, and set an environment variable.
    """
    blocked = {} if "openvino" in sys.modules else {_TOOLS: None}
    sys.modules.update(blocked)  # type: ignore[arg-type]  # None: an import fails, which OpenVINO ignores
    try:
        import openvino  # noqa: PLC0415 - optional
    finally:
        for name in blocked:
            del sys.modules[name]
    return openvino.Core()
