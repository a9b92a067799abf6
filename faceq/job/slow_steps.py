"""Messages about steps of a job that usually take a moment, and minutes with a large input or table."""

import contextlib
import logging
import threading
from collections.abc import Iterator

log = logging.getLogger(__name__)

PATIENCE_S = 3


@contextlib.contextmanager
def named(step: str) -> Iterator[None]:
    """Log what the block does, if it takes longer than PATIENCE_S seconds."""
    timer = threading.Timer(PATIENCE_S, log.info, ["%s", step])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
