"""Code that runs as another user."""

import contextlib
import os
from collections.abc import Iterator

from faceq.storage.filesystem import storage_errors

NOBODY = 65534


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions hold for anyone but root."""
    if os.geteuid() != 0:
        yield
        return
    storage_errors()  # imported now: another user may not read this Python's files
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
