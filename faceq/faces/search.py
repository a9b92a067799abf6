"""Searches that hand their images to a network instead of running it.

A search is a generator. It yields a NetworkCall, receives the network's answer, and returns its result at the
end. What it asks for next depends on the answers so far. On CPUs, `run` answers each call at once. On a GPU,
`faceq.faces.batched_search` runs many searches at the same time and answers their calls in mini-batches.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")


@dataclass(frozen=True)
class NetworkCall:
    """network: called with the image, it gives the answer. image: (H, W, 3) uint8."""

    network: Callable[[np.ndarray], Any]
    image: np.ndarray


Steps = Generator[NetworkCall, Any, Result]


def finished(result: Result) -> Steps[Result]:
    """A search that has its result without any call."""
    return result
    yield


def run(steps: Steps[Result]) -> Result:
    """The result of one search, whose calls are answered one by one."""
    try:
        call = next(steps)
        while True:
            call = steps.send(call.network(call.image))
    except StopIteration as end:
        result: Result = end.value
        return result
