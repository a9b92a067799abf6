"""Which device a stage runs on, whether CUDA is there when it is asked for, and how many CPUs there are.

A GPU that was asked for and is not there is an error, never a silent fall to the CPU.

torch is imported where it is asked: processes that only find faces on CPUs, most of a cluster's, would pay a
second and a good part of their memory for it.
"""

import importlib.metadata
import logging
import os
import re

import onnxruntime

from faceq.errors import DeviceError
from faceq.messages.one_line import one_line
from faceq.runtime import cgroup

log = logging.getLogger(__name__)

_INSTALL = '`pip install "onnxruntime-gpu[cuda,cudnn]"`'
"""Quoted: zsh takes bare brackets for a pattern. The extras bring CUDA's and cuDNN's libraries."""

CUDA_DID_NOT_LOAD = (
    "device: onnxruntime-gpu is installed, but its CUDA provider did not load: its CUDA and cuDNN libraries "
    f"are missing or of other versions; {_INSTALL} brings them"
)

_OF_THE_CARD = re.compile(r"\bCU\w+ failure \d|CUDA_PATH is set")
"""How ONNX Runtime's CUDA provider tells of CUDA, cuDNN and cuBLAS that fail, and of libraries that it cannot
load."""


def usable_cpus() -> int:
    """CPUs that this process may use, by its affinity and its container's quota, at least one; where the
    system does not say (macOS), all that the machine has."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup.cpu_quota()
    return cpus if quota is None else max(1, min(cpus, int(quota)))


def missing() -> str | None:
    """Why models cannot run on CUDA in this process, and what to do about it; None if they can."""
    import torch  # noqa: PLC0415

    if torch.version.cuda is None:
        return "this torch is a build without CUDA: install torch's CUDA build"
    if not torch.cuda.is_available():
        return "torch sees no GPU: check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return _wrong_runtime({name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)})
    return None


def warn_if_unused() -> None:
    """Log why models run on the CPU, where torch sees a GPU."""
    import torch  # noqa: PLC0415

    reason = missing()
    if reason and torch.cuda.is_available():
        warn_unused(reason)


def warn_unused(reason: str) -> None:
    """Log why models run on the CPU of a machine that has a GPU."""
    log.warning("this machine has a GPU, but models run on the CPU: %s", reason)


def _wrong_runtime(installed: set[str]) -> str:
    """What to say of an ONNX Runtime without CUDA, by the distributions that are installed."""
    if "onnxruntime-gpu" in installed and "onnxruntime" in installed:
        what = "onnxruntime and onnxruntime-gpu are both installed, and the one without CUDA is in the way"
    elif "onnxruntime-gpu" in installed:
        what = "onnxruntime-gpu is installed without its CUDA provider"
    else:
        what = "the installed onnxruntime is the build without CUDA, which insightface and faceq bring along"
    return (
        f"{what}: after all other installs `pip uninstall --yes onnxruntime onnxruntime-gpu`, then {_INSTALL}"
    )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch or ONNX Runtime found no memory on the GPU."""
    import torch  # noqa: PLC0415

    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    if isinstance(error, RuntimeError) and type(error).__module__.startswith(("builtins", "torch")):
        # "CUDA failure 2" is ONNX Runtime's, where its CUDA provider throws by itself.
        return any(
            said in text
            for said in ("cuda error: out of memory", "cuda failure 2: out of memory", "alloc_failed")
        )
    return type(error).__module__.startswith("onnxruntime") and any(
        said in text for said in ("failed to allocate memory", "out of memory", "alloc_failed")
    )


def check_card(error: Exception) -> None:
    """Raise DeviceError if it was the GPU that failed while a model was loaded, and not the model's file."""
    if is_out_of_memory(error):
        raise DeviceError(
            "device: the GPU's memory does not hold the models: give the actors more of a card (num_gpus)"
        ) from error
    reason = one_line(error)
    if _OF_THE_CARD.search(reason):
        raise DeviceError(
            f"device: CUDA failed while a model was loaded: {reason}: check the card (nvidia-smi) and CUDA's "
            "libraries, or set the device to cpu"
        ) from error


def check_cuda() -> None:
    """That models can run on CUDA here; DeviceError with the reason if not."""
    reason = missing()
    if reason:
        raise DeviceError(f"device: cuda was asked for, and {reason}; or set the device to cpu")
