"""A place for half a file that nobody else can put a link or a file of theirs into."""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def private_folder(place: Path) -> Iterator[Path]:
    """A folder that only this user may enter. It is removed at the end of the block, but after an error what
    is in it stays for the next try.

    Args:
        place: where the folder should be, so that it is found again. If somebody else has put something
            there, the folder gets a random name beside it, and is always removed.
    """
    if _is_mine(place):
        yield place
        shutil.rmtree(place, ignore_errors=True)
        return
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f"{place.name}-") as folder:
        yield Path(folder)


def _is_mine(place: Path) -> bool:
    """Whether a folder of this user, closed to all others, is there; it is made where none is."""
    with contextlib.suppress(OSError):
        if not stat.S_ISDIR(os.lstat(place).st_mode):
            os.unlink(place)  # a link is not followed
    with contextlib.suppress(FileExistsError):
        os.mkdir(place, 0o700)
    found = os.lstat(place)
    closed = not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and closed
