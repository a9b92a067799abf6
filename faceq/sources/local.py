"""Local files as sources. Only regular files are opened, and a change during the read is an error."""

import errno
import io
import os
import stat
from types import TracebackType

from faceq.errors import FaceqError


class SpecialFileError(FaceqError):
    """The path is a pipe, a socket or a device. Reading it could block forever."""

    def __init__(self) -> None:
        super().__init__("this is a pipe, a socket or a device, not a file")


class ChangedError(FaceqError):
    """A file was modified while it was being read."""

    def __init__(self) -> None:
        super().__init__(
            "the file was changed while it was read, so frames may be missing or mixed up: once it is "
            "complete, run again with --retry-unreadable"
        )


class LocalFile(io.BufferedReader):
    """A regular file, opened for reading.

    If the file is modified inside a `with` block, the block ends with ChangedError, unless it is left early
    (GeneratorExit). A file that is deleted, or replaced by a rename, stays readable in its old state.

    Raises:
        SpecialFileError: it is a pipe, a socket or a device. It is not opened, because opening some devices
            has side effects.
        OSError: it cannot be opened.
    """

    def __init__(self, path: str):
        _check_regular(os.stat(path), path)
        # O_NONBLOCK: if a pipe replaces the file after the check, opening it must not block.
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
    """The first bytes of a file, at most `most`. Raises the errors of LocalFile."""
    with LocalFile(path) as file:
        return file.read(most)
