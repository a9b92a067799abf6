"""Keeps the handler of SIGTERM while Ray starts and ends."""

import contextlib
import signal
import threading
from collections.abc import Iterator


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
    try:
        yield
    except SystemExit:  # raised by Ray's handler
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
