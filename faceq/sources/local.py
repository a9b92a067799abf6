"""Files on local disks as sources: regular ones only, and unchanged while they are read."""

import errno
import io
import os
import stat
from types import TracebackType

from faceq.errors import FaceqError


class SpecialFileError(FaceqError):
    """A pipe, a socket or a device, on which a reader could wait forever."""

    def __init__(self) -> None:
        super().__init__("this is a pipe, a socket or a device, not a file")


class ChangedError(FaceqError):
    """A file was written to while it was read."""

    def __init__(self) -> None:
        super().__init__(
            "the file was changed while it was read, so frames may be missing or mixed: when it is complete, "
            "run again with --retry-unreadable"
        )


class LocalFile(io.BufferedReader):
    """A regular file, opened to be read.

    A `with` block over it ends with ChangedError if the file was written to in the meantime; not if the block
    is left early (GeneratorExit). A file that was deleted, or replaced by a rename, stays readable as it was.

    Raises:
        SpecialFileError: a pipe, a socket or a device. It is not opened: some devices act on that.
        OSError: it cannot be opened.
    """

    def __init__(self, path: str):
        _check_regular(os.stat(path), path)
        # A pipe that takes the file's place after that look is not waited for either.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            before = os.fstat(handle)
            _check_regular(before, path)
            super().__init__(io.FileIO(handle, "rb"))
        except BaseException:
            os.close(handle)
            raise
        self._before = _version(before)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        changed = not self.closed and _version(os.fstat(self.fileno())) != self._before
        self.close()
        if changed and (kind is None or issubclass(kind, Exception)):
            raise ChangedError from error


def _check_regular(found: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(found.st_mode):
        raise SpecialFileError


def _version(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def first_bytes(path: str, most: int) -> bytes:
    """A file's first bytes, up to `most`; raises as LocalFile does."""
    with LocalFile(path) as file:
        return file.read(most)
