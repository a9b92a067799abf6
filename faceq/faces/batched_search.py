"""Run many searches at the same time, so that a GPU gets its images in full mini-batches.

Threads decode and crop: OpenCV, Pillow and NumPy release Python's global lock for most of their work. The
calling thread runs the networks meanwhile.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from faceq.faces.search import NetworkCall, Steps

MEMORY = 1 << 30
"""Decoded images are opened until they take this many bytes. Those that are being opened come on top: their
size is not known yet."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class BatchedNetwork(Protocol):
    """A network that answers the calls of several searches together."""

    def __call__(self, image: np.ndarray) -> Any:
        """The answer for one image."""

    def group(self, image: np.ndarray) -> Hashable:
        """Images of the same group can be in one mini-batch."""

    def size(self, group: Hashable) -> int:
        """Number of images in a mini-batch of this group."""

    def many(self, group: Hashable, images: list[np.ndarray]) -> list[Any]:
        """Run the network on images of one group. Returns the output for each of them."""

    def answer(self, group: Hashable, image: np.ndarray, output: Any) -> Any:
        """The answer for an image, from its output. It is computed by the threads."""


class BatchedSearch:
    """Runs searches whose networks are BatchedNetworks.

    Args:
        threads: number of threads that decode and crop.
        at_once: maximum number of searches at the same time.
    """

    def __init__(self, threads: int, at_once: int):
        self.threads, self.at_once = threads, at_once
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="search")

    def __call__(
        self, begin: Callable[[Item], tuple[Steps[Result], int]], items: Sequence[Item]
    ) -> list[Result]:
        """The results of one search for each item, in order.

        Args:
            begin: gives the search for an item, and the bytes of memory that it holds. A thread calls it.
            items: what to search.
        """
        batch = _Batch(self, begin, items)
        try:
            return batch.results()
        finally:
            batch.stop()


@dataclass
class _Search(Generic[Result]):
    """A search that has begun. position: of its item. held: bytes of memory."""

    position: int
    steps: Steps[Result]
    held: int


@dataclass
class _Step(Generic[Result]):
    """Where a search is: at its next call, whose image belongs to `group`, or at its end."""

    search: _Search[Result]
    call: NetworkCall | None = None
    group: Hashable = None
    result: Result | None = None


class _Batch(Generic[Item, Result]):
    """The searches of one batch of items."""

    def __init__(
        self,
        limits: BatchedSearch,
        begin: Callable[[Item], tuple[Steps[Result], int]],
        items: Sequence[Item],
    ):
        self._limits, self._begin, self._items = limits, begin, items
        self._results: dict[int, Any] = {}
        self._begun = self._held = 0
        self._opening: set[Future[_Step[Result]]] = set()
        self._running: set[Future[_Step[Result]]] = set()
        self._waiting: dict[tuple[Any, Hashable], list[_Step[Result]]] = defaultdict(list)

    def results(self) -> list[Result]:
        while len(self._results) < len(self._items):
            self._open()
            self._collect(block=False)
            if (full := self._next(full=True)) is not None:
                self._run(*full)
            elif self._opening or self._running:
                self._collect(block=True)
            elif (largest := self._next(full=False)) is not None:
                self._run(*largest)
        return [self._results[position] for position in range(len(self._items))]

    def stop(self) -> None:
        """Wait for the threads; after an error they may still be at work."""
        for future in self._opening | self._running:
            future.cancel()
        wait(self._opening | self._running)

    def _open(self) -> None:
        """Begin searches while there is room for them."""
        while (
            self._begun < len(self._items)
            and len(self._opening) < 2 * self._limits.threads
            and self._begun - len(self._results) < self._limits.at_once
            and (self._held < MEMORY or self._begun == len(self._results))
        ):
            self._opening.add(self._limits.pool.submit(self._opened, self._begun))
            self._begun += 1

    def _opened(self, position: int) -> _Step[Result]:
        steps, held = self._begin(self._items[position])
        return _advanced(_Search(position, steps, held), None)

    def _collect(self, block: bool) -> None:
        """Take what the threads have finished; `block`: wait until it is something."""
        done, _ = wait(
            self._opening | self._running, timeout=None if block else 0, return_when=FIRST_COMPLETED
        )
        for future in done:
            step = future.result()
            if future in self._opening:
                self._held += step.search.held
            if step.call is None:
                self._held -= step.search.held
                self._results[step.search.position] = step.result
            else:
                self._waiting[step.call.network, step.group].append(step)
        self._opening -= done
        self._running -= done

    def _next(self, full: bool) -> tuple[Any, Hashable] | None:
        """The network and group whose mini-batch is filled best; `full`: only if it is full."""
        filled = {key: len(steps) / key[0].size(key[1]) for key, steps in self._waiting.items() if steps}
        best = max(filled, key=lambda key: filled[key], default=None)
        return best if best is not None and (not full or filled[best] >= 1) else None

    def _run(self, network: BatchedNetwork, group: Hashable) -> None:
        waiting, size = self._waiting[network, group], network.size(group)
        steps, self._waiting[network, group] = waiting[:size], waiting[size:]
        images = [step.call.image for step in steps if step.call is not None]
        for step, output in zip(steps, network.many(group, images), strict=True):
            self._running.add(self._limits.pool.submit(_answered, step, output))


def _answered(step: _Step[Result], output: Any) -> _Step[Result]:
    """The next step of a search whose call has this output."""
    assert step.call is not None
    network: Any = step.call.network
    return _advanced(step.search, network.answer(step.group, step.call.image, output))


def _advanced(search: _Search[Result], answer: Any) -> _Step[Result]:
    try:
        call = search.steps.send(answer)
    except StopIteration as end:
        return _Step(search, result=end.value)
    network: Any = call.network
    return _Step(search, call, network.group(call.image))
