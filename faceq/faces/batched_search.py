"""Run many searches at the same time, so that a GPU gets its images in full mini-batches.

Threads decode and crop: OpenCV, Pillow and NumPy release Python's global lock for most of their work. The
calling thread runs the networks meanwhile.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
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
    """A search that has begun. position: of its item. held: bytes of memory. calls: those that it waits for,
    and the groups of their images. answers: to these calls. result: at its end, when it has no calls."""

    position: int
    steps: Steps[Result]
    held: int
    calls: list[tuple[NetworkCall, Hashable]] = field(default_factory=list)
    answers: dict[int, Any] = field(default_factory=dict)
    result: Result | None = None

    def advance(self) -> "_Search[Result]":
        """Run until the next calls, or the end."""
        answers = [self.answers[index] for index in range(len(self.calls))] if self.calls else None
        self.calls, self.answers = [], {}
        try:
            asked = next(self.steps) if answers is None else self.steps.send(answers)
        except StopIteration as end:
            self.result = end.value
            return self
        for call in asked:
            network: Any = call.network
            self.calls.append((call, network.group(call.image)))
        return self


@dataclass
class _Waiting(Generic[Result]):
    """A call of a search, by its index."""

    search: _Search[Result]
    index: int

    @property
    def image(self) -> np.ndarray:
        return self.search.calls[self.index][0].image


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
        self._opening: set[Future[_Search[Result]]] = set()
        self._running: set[Future[_Search[Result]]] = set()
        self._waiting: dict[tuple[Any, Hashable], list[_Waiting[Result]]] = defaultdict(list)

    def results(self) -> list[Result]:
        while len(self._results) < len(self._items):
            self._open()
            self._collect(block=False)
            if (full := self._next(full=True)) is not None:
                self._run(*full)
            elif self._opening or self._running:
                self._collect(block=True)
            elif (fullest := self._next(full=False)) is not None:
                self._run(*fullest)
        return [self._results[position] for position in range(len(self._items))]

    def stop(self) -> None:
        """Wait for the threads: after an error they may still be at work."""
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

    def _opened(self, position: int) -> _Search[Result]:
        return _Search(position, *self._begin(self._items[position])).advance()

    def _collect(self, block: bool) -> None:
        """Take what the threads have finished. `block`: wait for it."""
        done, _ = wait(
            self._opening | self._running, timeout=None if block else 0, return_when=FIRST_COMPLETED
        )
        for future in done:
            search = future.result()
            if future in self._opening:
                self._held += search.held
            if not search.calls:
                self._held -= search.held
                self._results[search.position] = search.result
            for index, (call, group) in enumerate(search.calls):
                self._waiting[call.network, group].append(_Waiting(search, index))
        self._opening -= done
        self._running -= done

    def _next(self, full: bool) -> tuple[Any, Hashable] | None:
        """The network and group whose mini-batch is the fullest. `full`: only if it is full."""
        filled = {key: len(calls) / key[0].size(key[1]) for key, calls in self._waiting.items() if calls}
        best = max(filled, key=lambda key: filled[key], default=None)
        return best if best is not None and (not full or filled[best] >= 1) else None

    def _run(self, network: BatchedNetwork, group: Hashable) -> None:
        """Answer the calls of one mini-batch. A search goes on when all of its calls have been answered."""
        waiting, size = self._waiting[network, group], network.size(group)
        calls, self._waiting[network, group] = waiting[:size], waiting[size:]
        outputs = network.many(group, [call.image for call in calls])
        ready = {}
        for call, output in zip(calls, outputs, strict=True):
            call.search.answers[call.index] = output
            if len(call.search.answers) == len(call.search.calls):
                ready[call.search.position] = call.search
        for search in ready.values():
            self._running.add(self._limits.pool.submit(_answered, search))


def _answered(search: _Search[Result]) -> _Search[Result]:
    """Turn the outputs for a search's calls into answers, and run it on."""
    for index, (call, group) in enumerate(search.calls):
        network: Any = call.network
        search.answers[index] = network.answer(group, call.image, search.answers[index])
    return search.advance()
