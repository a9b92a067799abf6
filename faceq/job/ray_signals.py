"""Keeping the handlers of signals while Ray starts."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def kept_from_ray() -> Iterator[None]:
    """Start Ray in the block: it sets its own handler of SIGTERM, which ends the process without a word.

    A SIGTERM that came meanwhile and ended Ray's start is raised again for the handler from before.
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
