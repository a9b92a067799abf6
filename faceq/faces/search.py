"""Searches that hand their images to networks instead of running them.

A search is a generator. It yields the calls of networks that it needs next, receives their answers, and
returns its result at the end. What it asks for depends on the answers so far. On CPUs, `run` answers each
call at once. On a GPU, `faceq.faces.batched_search` runs many searches at the same time and answers their
calls in mini-batches.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")


@dataclass(frozen=True)
class NetworkCall:
    """network: called with the image, it gives the answer. image: (H, W, 3) uint8."""

    network: Callable[[np.ndarray], Any]
    image: np.ndarray


Steps = Generator[list[NetworkCall], list[Any], Result]


def ask(network: Callable[[np.ndarray], Any], image: np.ndarray) -> Steps[Any]:
    """The search for the answer to a single call."""
    (answer,) = yield [NetworkCall(network, image)]
    return answer


def finished(result: Result) -> Steps[Result]:
    """The search that needs no call."""
    return result
    yield


def gathered(searches: Sequence[Steps[Result]]) -> Steps[list[Result]]:
    """The results of searches that do not depend on each other. Their next calls are yielded together."""
    results: dict[int, Result] = {}
    answers: dict[int, list[Any] | None] = dict.fromkeys(range(len(searches)))
    while answers:
        calls: dict[int, list[NetworkCall]] = {}
        for index, given in answers.items():
            try:
                calls[index] = next(searches[index]) if given is None else searches[index].send(given)
            except StopIteration as end:
                results[index] = end.value
        if calls:
            told = iter((yield [call for asked in calls.values() for call in asked]))
        answers = {index: [next(told) for _ in asked] for index, asked in calls.items()}
    return [results[index] for index in range(len(searches))]


def run(steps: Steps[Result]) -> Result:
    """The result of one search, whose calls are answered one by one."""
    try:
        calls = next(steps)
        while True:
            calls = steps.send([call.network(call.image) for call in calls])
    except StopIteration as end:
        result: Result = end.value
        return result
