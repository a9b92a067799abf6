"""Standard output and standard error of a command, whose reader may go away before the command ends.

`faceq score … | head -1` still scores every frame; `faceq query … | head -1` ends.
"""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from faceq.errors import StorageError
from faceq.messages.visible import ENCODING_ERRORS


class ReaderGone(BaseException):
    """The reader of standard output is gone, and the command only prints."""


class Output:
    """only_prints: whether standard output is the only result of the command; if not, it needs no reader."""

    def __init__(self) -> None:
        self.only_prints = True


class _Stream(io.TextIOWrapper):
    """A standard stream. If it cannot be written, further output is discarded; see `_lost`."""

    def __init__(self, stream: TextIO, output: Output | None):
        """`output`: None for standard error, which is never the result of a command."""
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors=ENCODING_ERRORS,
            line_buffering=bool(stream.line_buffering),
            write_through=getattr(stream, "write_through", False),
        )
        self._output = output

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._lost(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())  # also discards what is still in the buffer
        os.close(null)
        if self._output is not None and self._output.only_prints:
            if error.errno == errno.EPIPE:
                raise ReaderGone from error
            raise StorageError(f"standard output cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def guarded() -> Iterator[Output]:
    """In the block, sys.stdout and sys.stderr can be written after their readers are gone, in any thread.

    File descriptors that were closed when the process started (`>&-`) are connected to the null device.
    Otherwise the first file that is opened would get their number, and printed text would go into it.
    """
    for descriptor in (0, 1, 2):
        _open_if_closed(descriptor)
    before = sys.stdout, sys.stderr
    output = Output()
    sys.stdout, sys.stderr = _guard(sys.stdout, output), _guard(sys.stderr, None)
    try:
        yield output
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Stream):
                with contextlib.suppress(ReaderGone, StorageError, OSError):
                    stream.flush()
                stream.detach()
        sys.stdout, sys.stderr = before


def _open_if_closed(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one


def _guard(stream: TextIO | None, output: Output | None) -> TextIO:
    if stream is None:  # its file descriptor was closed
        return open(os.devnull, "w", encoding="utf-8")
    try:
        stream.fileno()
    except (OSError, AttributeError):  # a buffer of the calling program
        return stream
    return _Stream(stream, output)
