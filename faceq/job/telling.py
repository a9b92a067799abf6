"""What workers log, on its way to the job's own process: Ray keeps the output of workers in files."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from faceq.messages.masking import mask

_FACEQ = logging.getLogger("faceq")


@contextlib.contextmanager
def telling(census: Any) -> Iterator[None]:
    """What faceq logs in the block, from the level INFO on, goes to the census. The job's own process logs it
    again, under the same logger and at the same level."""
    relay = _Relay(census)
    before = _FACEQ.level
    _FACEQ.addHandler(relay)
    _FACEQ.setLevel(logging.INFO)
    try:
        yield
    finally:
        _FACEQ.setLevel(before)
        _FACEQ.removeHandler(relay)


class _Relay(logging.Handler):
    """Sends records to the census."""

    def __init__(self, census: Any):
        super().__init__()
        self._census = census

    def emit(self, record: logging.LogRecord) -> None:
        # Masked here: what is secret, this process's environment knows.
        self._census.say.remote(record.levelno, record.name, mask(record.getMessage()))
