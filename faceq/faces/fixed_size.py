"""Networks whose images all have the same size, in mini-batches."""

import logging
from collections.abc import Hashable
from typing import Any, Protocol

import numpy as np

from faceq.messages.one_line import one_line
from faceq.runtime.device import raise_if_gpu_failed
from faceq.runtime.minibatch import OomSafeBatcher

log = logging.getLogger(__name__)


class FixedSizeNetwork(Protocol):
    """A network for images of one size. shape: their height and width, pixels."""

    shape: tuple[int, int]

    def batch(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """The outputs, each (N, ...), for images (N, H, W, 3) uint8."""

    def answer(self, *outputs: np.ndarray) -> Any:
        """What the outputs for one image mean."""


class MiniBatches:
    """A FixedSizeNetwork as a `faceq.faces.batched_search.BatchedNetwork`.

    If the network cannot process several images together, or gives them other values than alone, its
    mini-batches have one image.
    """

    def __init__(self, network: FixedSizeNetwork, mini_batch: int):
        self._network = network
        size = mini_batch if mini_batch > 1 and _takes_batches(network) else 1
        self._batcher = OomSafeBatcher(network.batch, size, "find_face")

    def __call__(self, image: np.ndarray) -> Any:
        return self._network.answer(*self.many(None, [image])[0])

    def group(self, image: np.ndarray) -> Hashable:
        return None

    def size(self, group: Hashable) -> int:
        return self._batcher.size

    def many(self, group: Hashable, images: list[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        return list(zip(*self._batcher(np.stack(images)), strict=True))

    def answer(self, group: Hashable, image: np.ndarray, output: tuple[np.ndarray, ...]) -> Any:
        return self._network.answer(*output)


def _takes_batches(network: FixedSizeNetwork) -> bool:
    """Whether two images have the same outputs together as alone: a graph may have a fixed batch size, or mix
    its images."""
    images = np.random.default_rng(0).integers(0, 256, (2, *network.shape, 3), np.uint8)
    alone = [network.batch(image[None]) for image in images]
    try:
        together = network.batch(images)
    except Exception as error:  # the errors of ONNX Runtime have no public base class
        raise_if_gpu_failed(error)
        reason = one_line(error)
    else:
        parts = zip(together, *alone, strict=True)
        if all(_is_close(both, np.concatenate(singles)) for both, *singles in parts):
            return True
        reason = "two images together have other values than alone"
    log.warning("find_face: %s runs one image at a time: %s", type(network).__name__, reason)
    return False


def _is_close(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-3, atol=1e-3)
