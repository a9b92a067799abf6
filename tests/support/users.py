"""Running code as another user."""

import contextlib
import os
from collections.abc import Iterator

from faceq.storage.filesystem import storage_errors

NOBODY = 65534


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Run the block as a user other than root, because permissions do not apply to root."""
    if os.geteuid() != 0:
        yield
        return
    storage_errors()  # imported now, because another user may not be able to read the files of this Python
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
