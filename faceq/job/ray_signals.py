"""Keeping the handler of SIGTERM while Ray starts and ends."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def kept_from_ray() -> Iterator[None]:
    """Start or end Ray in the block, and have the same handler of SIGTERM after it.

    Ray's start sets a handler of its own, and its end the system's default: both end the process without a
    word. A SIGTERM that ended Ray's start is raised again for the handler from before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:  # raised by Ray's handler
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
