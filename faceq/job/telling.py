"""Forwards what workers log to the job's own process: Ray keeps the output of workers in files."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from faceq.messages.masking import mask

_FACEQ = logging.getLogger("faceq")


@contextlib.contextmanager
def telling(census: Any) -> Iterator[None]:
    """In the block, what faceq logs at level INFO or higher goes to the census. The job's own process logs it
    again, with the same logger and level."""
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
        # Masked here: the secrets to mask are in the environment of this process.
        self._census.say.remote(record.levelno, record.name, mask(record.getMessage()))
