"""Apply a function to many items in several threads."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    stop: threading.Event | None = None,
) -> Iterator[Result]:
    """Apply a function to each item in `threads` threads, and yield the results in the order of the items.

    This uses all CPUs if the function spends its time in code that releases the GIL: image decoders, OpenCV,
    ONNX Runtime, torch. Compared with processes, it starts at once, the models are in memory once, and
    Ctrl-C and errors need no handling.

    At most twice as many items as threads are started before their results are taken. An error is raised in
    the place of its result, as in a loop. After an error or Ctrl-C, items that are not yet being processed
    are cancelled, and the others are waited for. At the end, also after an error, `stop` is set first, so
    that running calls can end early.
    """
    pool = ThreadPoolExecutor(threads)
    started: deque[Future[Result]] = deque()
    try:
        for item in items:
            if len(started) >= 2 * threads:
                yield started.popleft().result()
            started.append(pool.submit(function, item))
        while started:
            yield started.popleft().result()
    finally:
        if stop is not None:
            stop.set()
        pool.shutdown(cancel_futures=True)
