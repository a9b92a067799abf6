"""Keeps the handler of SIGTERM while Ray starts and ends."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from ray._private import worker as ray_worker


@contextlib.contextmanager
def kept_from_ray() -> Iterator[None]:
    """Start or end Ray in the block; after it, the handler of SIGTERM is the same as before.

    Ray sets its own handler when it starts, and the system's default when it ends: both end the process
    without a message. A SIGTERM that interrupted Ray's start is raised again for the previous handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    worker = ray_worker.global_worker
    if before is not None and hasattr(worker, "core_worker"):
        worker.core_worker = _Core(worker.core_worker, before)
    try:
        yield
    except SystemExit:  # raised by Ray's handler
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


class _Core:
    """Ray's native part. When it ends, it removes the handler of SIGTERM, and Ray then needs a second or
    more to end its processes. Therefore the handler is set again at once."""

    def __init__(self, core: Any, handler: Any):
        self._core = core
        self._handler = handler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def shutdown_driver(self) -> None:
        self._core.shutdown_driver()
        signal.signal(signal.SIGTERM, self._handler)
