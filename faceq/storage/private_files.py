"""Private folders for unfinished files: no other user can place a file or a symbolic link in them."""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def private_folder(place: Path) -> Iterator[Path]:
    """A folder that only this user may enter. It is removed at the end of the block. After an error it is
    kept for the next attempt.

    Args:
        place: the preferred path, so that the next attempt finds the folder. If another user has placed
            something there, the folder gets a random name next to it, and is always removed.
    """
    if _is_mine(place):
        yield place
        shutil.rmtree(place, ignore_errors=True)
        return
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f"{place.name}-") as folder:
        yield Path(folder)


def _is_mine(place: Path) -> bool:
    """Create the folder if it is missing, and return whether it belongs to this user and is closed to all
    others."""
    with contextlib.suppress(OSError):
        if not stat.S_ISDIR(os.lstat(place).st_mode):
            os.unlink(place)  # a link is not followed
    with contextlib.suppress(FileExistsError):
        os.mkdir(place, 0o700)
    found = os.lstat(place)
    closed = not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and closed
