"""How a network computes: its precision, and the library that runs it on CPUs."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Precision = Literal["f32", "bf16", "fp16"]

_CPU_FLAGS = Path("/proc/cpuinfo")
"""Lists the features of the CPUs. Exists on Linux only."""


@dataclass(frozen=True)
class Numerics:
    """precision: f32 is single precision, bf16 and fp16 are the two formats of 16 bits. runtime: the library
    that runs the network on a CPU."""

    precision: Precision = "f32"
    runtime: Literal["onnxruntime", "openvino"] = "onnxruntime"


F32 = Numerics()


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


def has_fast_bf16() -> bool:
    """Whether networks are faster in bf16 than in f32 on these CPUs: they have AMX or AVX512-BF16."""
    try:
        text = _CPU_FLAGS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return " amx_bf16" in text or " avx512_bf16" in text
