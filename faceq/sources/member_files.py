"""Videos inside a shard as files of their own: in memory, a window onto the shard, or a temporary file."""

import io
import os
import sys
import tempfile
from collections.abc import Iterable
from typing import BinaryIO, cast

from faceq.errors import FaceqError
from faceq.messages.one_line import one_line

SMALL = 8 << 20
"""Maximum size of a video that is kept in memory, bytes: as much as is read ahead from S3. A video is decoded
after the sidecars behind it were read: without a copy, most bytes of a tar would be requested twice."""


class Window:
    """The bytes of a file from `begin` on, at most `size`, as a file of their own for `faceq.sources.video`.

    It moves the position of the underlying file, which must be seekable.
    """

    def __init__(self, file: BinaryIO, begin: int, size: int):
        self._file, self._begin = file, begin
        self._size = max(0, min(size, file.seek(0, os.SEEK_END) - begin))
        self._at = 0

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`."""
        place = self._begin + self._at
        if self._file.tell() != place:
            self._file.seek(place)
        data = self._file.read(max(0, min(size, self._size - self._at)))
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Like `seek` of a file."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at


def another_reader(file: BinaryIO) -> BinaryIO:
    """A reader of the whole file with a position of its own. Several of them may be used in turn, if nothing
    else reads the file."""
    return cast(BinaryIO, Window(file, 0, sys.maxsize))


class SpoolError(FaceqError):
    """A video cannot be stored in a temporary file; the message says why. temporary: there is no space."""

    def __init__(self, message: str, temporary: bool = False):
        super().__init__(message)
        self.temporary = temporary


class Spool:
    """Copies of the videos of one source: in memory if they are SMALL, otherwise in temporary files. These
    have no name, so that they do not outlive the process.

    Args:
        most: maximum size of all temporary files that exist at the same time, bytes.
    """

    def __init__(self, most: int):
        self._most = most
        self._sizes: dict[BinaryIO, int] = {}

    def new(self, size: int) -> BinaryIO:
        """A file for a video of `size` bytes. Raises SpoolError if it is too large."""
        if size <= SMALL:
            return io.BytesIO()
        if sum(self._sizes.values()) + size > self._most:
            raise SpoolError(
                f"{size} bytes are more than limits.temporary_bytes={self._most} allows for temporary files: "
                "store the video in a tar that is not compressed, or raise the limit"
            )
        try:
            file = cast(BinaryIO, tempfile.TemporaryFile(prefix="faceq-"))  # noqa: SIM115 - `close` closes it
        except OSError as error:
            raise _no_space(error) from error
        self._sizes[file] = size
        return file

    def fill(self, file: BinaryIO, pieces: Iterable[tuple[int, bytes]]) -> Exception | None:
        """Write pieces, each at its offset; what is between them is zeros. The file is then at its start.

        Returns:
            The error that ended `pieces`: then the file holds what came before it.

        Raises:
            SpoolError: there is no space. The file is closed.
        """
        fault = None
        each = iter(pieces)
        while True:
            try:
                piece = next(each, None)
            except Exception as error:
                piece, fault = None, error
            try:
                if piece is None:
                    file.seek(0)  # also writes what is still in the buffer
                    return fault
                file.seek(piece[0])
                file.write(piece[1])
            except OSError as error:
                self.close(file)
                raise _no_space(error) from error

    def close(self, file: BinaryIO) -> None:
        """Delete a file."""
        self._sizes.pop(file, None)
        try:
            file.close()
        except OSError:
            file.close()  # the first call tried to write what is still in the buffer

    def close_all(self) -> None:
        """Delete all files."""
        for file in list(self._sizes):
            self.close(file)


def _no_space(error: OSError) -> SpoolError:
    return SpoolError(
        f"could not be copied to a temporary file in {tempfile.gettempdir()} ({one_line(error)}): free "
        "space, or set TMPDIR to another folder, and run again with --retry-unreadable",
        temporary=True,
    )
