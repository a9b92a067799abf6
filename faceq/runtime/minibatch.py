"""Mini-batches of one fixed shape. The last bits of a network's output may depend on the batch size, and a
row must not depend on the other frames in its batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from faceq.messages.one_line import one_line
from faceq.runtime.device import DeviceError, is_out_of_memory

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Model = Callable[..., tuple[np.ndarray, ...]]
"""Takes arrays of N items each, one per argument, and returns arrays of N items each."""


def in_mini_batches(model: Model, size: int, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Run a model over arrays of N items in mini-batches of exactly `size`; the last one is padded with
    zeros.

    Args:
        model: called with `size` items at a time.
        arrays: N items each, N at least 1.

    Returns:
        One array of N items for each array that the model returns.
    """
    count = len(arrays[0])
    parts = [model(*mini) for mini in _padded(size, arrays)]
    return tuple(np.concatenate(part)[:count] for part in zip(*parts, strict=True))


def _padded(size: int, arrays: tuple[np.ndarray, ...]) -> Iterator[list[np.ndarray]]:
    for start in range(0, len(arrays[0]), size):
        parts = [array[start : start + size] for array in arrays]
        fill = size - len(parts[0])
        yield [np.concatenate([part, np.zeros((fill, *part.shape[1:]), part.dtype)]) for part in parts]


class OomSafeBatcher:
    """Like `in_mini_batches`, for a model on a GPU: when the GPU runs out of memory, the mini-batch size is
    halved permanently.

    Rows from then on may differ in their last bits from rows computed with the requested size, so a warning
    is logged.

    Args:
        model: as for `in_mini_batches`.
        size: number of items in a mini-batch at the start.
        stage: name of the stage, for messages.
    """

    def __init__(self, model: Model, size: int, stage: str):
        self._model = model
        self._stage = stage
        self.size = size

    def __call__(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Like `in_mini_batches`. Raises DeviceError if a single item does not fit into the GPU memory."""
        while True:
            try:
                return in_mini_batches(self._model, self.size, *arrays)
            except Exception as error:  # torch and ONNX Runtime have no error in common
                if not is_out_of_memory(error):
                    raise
                if self.size == 1:
                    raise DeviceError(
                        f"{self._stage}: one item does not fit into the GPU memory: {_short(error)}: give "
                        "the actor a larger share of a GPU (num_gpus), or a GPU of its own"
                    ) from error
            # After the except block: inside it, the traceback keeps the tensors of the failed attempt alive.
            self._halve()

    def _halve(self) -> None:
        import torch  # noqa: PLC0415 - takes a second to import, and CPUs do not need it

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.size //= 2
        log.warning(
            "%s: out of GPU memory: mini-batches of %d from now on: set mini_batch to %d, or give the actor "
            "a larger share of a GPU (num_gpus)",
            self._stage,
            self.size,
            self.size,
        )


def _short(error: Exception) -> str:
    return one_line(error)[:200]


def to_device(array: np.ndarray, device: str) -> torch.Tensor:
    """An array as a tensor on a device. The copy to CUDA goes through pinned memory and is asynchronous."""
    import torch  # noqa: PLC0415 - see `_halve`

    tensor = torch.from_numpy(array)
    if device == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
