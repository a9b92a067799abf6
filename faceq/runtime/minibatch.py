"""Mini-batches of one fixed shape: a network may give other last bits for another batch size, and a row must
not depend on the frames that came with it."""

import logging
from collections.abc import Callable, Iterator

import numpy as np
import torch

from faceq.messages.one_line import one_line
from faceq.runtime.device import DeviceError, is_out_of_memory

log = logging.getLogger(__name__)

Model = Callable[..., tuple[np.ndarray, ...]]
"""Takes one array per argument, each with as many items, and returns arrays with as many."""


def in_mini_batches(model: Model, size: int, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Run a model over arrays of N items in mini-batches of exactly `size`, the last one padded by zeros.

    Args:
        model: is shown `size` items at a time.
        arrays: N items each, N at least 1.

    Returns:
        One array of N items for each that the model returns.
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
    """The same for a model on a GPU, whose mini-batches are halved for good when its memory does not hold
    them.

    Rows from then on may differ in their last bits from those of the size that was asked for, so it is said.

    Args:
        model: as `in_mini_batches` takes it.
        size: items in a mini-batch, to begin with.
        stage: its name, for what is said.
    """

    def __init__(self, model: Model, size: int, stage: str):
        self._model = model
        self._stage = stage
        self.size = size

    def __call__(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """As `in_mini_batches`; DeviceError where the memory does not hold a single item."""
        while True:
            try:
                return in_mini_batches(self._model, self.size, *arrays)
            except Exception as error:  # torch and ONNX Runtime have no error in common
                if not is_out_of_memory(error):
                    raise
                if self.size == 1:
                    raise DeviceError(
                        f"{self._stage}: the GPU's memory does not hold one item: {_short(error)}: give the "
                        "actor more of a card (num_gpus), or a card of its own"
                    ) from error
            # Out of the except block: until then its traceback keeps the tensors of the attempt alive.
            self._halve()

    def _halve(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.size //= 2
        log.warning(
            "%s: out of GPU memory: mini-batches of %d from here on; set mini_batch to that, or give the "
            "actor more of a card (num_gpus)",
            self._stage,
            self.size,
        )


def _short(error: Exception) -> str:
    return one_line(error)[:200]


def to_device(array: np.ndarray, device: str) -> torch.Tensor:
    """An array as a tensor on a device; to CUDA by way of pinned memory, while the processor goes on."""
    tensor = torch.from_numpy(array)
    if device == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
