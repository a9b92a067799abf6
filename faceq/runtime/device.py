"""Check whether models can run on CUDA, and count the CPUs of this process.

A requested GPU that is not available is an error. There is no silent fallback to the CPU.

torch and ONNX Runtime are imported inside the functions that need them. Most processes of a cluster only find
faces on CPUs; for them the import of torch would take a second and much of their memory.
"""

import ctypes
import importlib.metadata
import logging
import os
import re

from faceq.errors import DeviceError
from faceq.messages.one_line import one_line
from faceq.runtime import cgroup

log = logging.getLogger(__name__)

_INSTALL = '`pip install "onnxruntime-gpu[cuda,cudnn]"`'
"""Quoted, because zsh expands unquoted brackets. The extras install the CUDA and cuDNN libraries."""

CUDA_DID_NOT_LOAD = (
    "device: onnxruntime-gpu is installed, but its CUDA provider did not load: the CUDA and cuDNN libraries "
    f"are missing or have the wrong version: install them with {_INSTALL}"
)

_GPU_ERROR = re.compile(r"\bCU\w+ failure \d|CUDA_PATH is set")
"""Matches messages of the CUDA provider of ONNX Runtime about failures of CUDA, cuDNN and cuBLAS, and about
libraries that it cannot load."""


def usable_cpus() -> int:
    """Number of CPUs that this process may use, by its affinity and the CPU quota of its container; at least
    one. On systems without affinity (macOS), the limit is the number of CPUs of the machine."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup.cpu_quota()
    return cpus if quota is None else max(1, min(cpus, int(quota)))


def gpus() -> int:
    """Number of GPUs that the NVIDIA driver shows to this process. Does not import torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value


def usable_gpus() -> int:
    """Number of GPUs that models can run on. Without a GPU, this does not import torch."""
    count = gpus()
    return count if count and missing() is None else 0


def missing() -> str | None:
    """The reason why models cannot run on CUDA in this process, with advice; None if they can."""
    import onnxruntime  # noqa: PLC0415
    import torch  # noqa: PLC0415

    if torch.version.cuda is None:
        return "torch is installed as a build without CUDA: install its CUDA build"
    if not torch.cuda.is_available():
        return "torch sees no GPU: check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return _wrong_runtime({name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)})
    return None


def warn_if_unused() -> None:
    """If torch sees a GPU that models cannot use, log the reason."""
    if not gpus():
        return
    import torch  # noqa: PLC0415

    reason = missing()
    if reason and torch.cuda.is_available():
        warn_unused(reason)


def warn_unused(reason: str) -> None:
    """Log the reason why models run on the CPU although the machine has a GPU."""
    log.warning("this machine has a GPU, but models run on the CPU: %s", reason)


def _wrong_runtime(installed: set[str]) -> str:
    """The message for an ONNX Runtime without CUDA, by the installed distributions."""
    if "onnxruntime-gpu" in installed and "onnxruntime" in installed:
        what = "onnxruntime and onnxruntime-gpu are both installed, and the one without CUDA takes precedence"
    elif "onnxruntime-gpu" in installed:
        what = "onnxruntime-gpu is installed without its CUDA provider"
    else:
        what = "the installed onnxruntime is the build without CUDA, on which faceq and insightface depend"
    return (
        f"{what}: after all other installs, run `pip uninstall --yes onnxruntime onnxruntime-gpu`, then "
        f"{_INSTALL}"
    )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch or ONNX Runtime ran out of GPU memory."""
    import torch  # noqa: PLC0415

    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    if isinstance(error, RuntimeError) and type(error).__module__.startswith(("builtins", "torch")):
        # "CUDA failure 2" comes from the CUDA provider of ONNX Runtime when it throws directly.
        return any(
            phrase in text
            for phrase in ("cuda error: out of memory", "cuda failure 2: out of memory", "alloc_failed")
        )
    return type(error).__module__.startswith("onnxruntime") and any(
        phrase in text for phrase in ("failed to allocate memory", "out of memory", "alloc_failed")
    )


def raise_if_gpu_failed(error: Exception) -> None:
    """Raise DeviceError if a model could not be loaded because of the GPU and not because of its file."""
    if is_out_of_memory(error):
        raise DeviceError(
            "device: the models do not fit into the GPU memory: give the actors a larger share of a GPU "
            "(num_gpus)"
        ) from error
    reason = one_line(error)
    if _GPU_ERROR.search(reason):
        raise DeviceError(
            f"device: CUDA failed while a model was loaded: {reason}: check the GPU (nvidia-smi) and the "
            "CUDA libraries, or set the device to cpu"
        ) from error


def check_cuda() -> None:
    """Check that models can run on CUDA in this process. Raises DeviceError with the reason if they
    cannot."""
    reason = missing()
    if reason:
        raise DeviceError(f"device: cuda is not available: {reason}; or set the device to cpu")
