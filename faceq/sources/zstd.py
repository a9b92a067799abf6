"""Unpack Zstandard files as a stream with Arrow's decoder.

Arrow has no parameter for the size of the window, and returns nothing of the data that it gets together with
damaged ones. Therefore this module follows the frames and blocks of a file (RFC 8878, section 3.1), checks
each window, and passes the blocks to Arrow one at a time.
"""

import io
import re
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from faceq.messages.one_line import one_line
from faceq.sources.unpack_error import CUT, UnpackError

_FRAME = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
MAGIC = re.compile(re.escape(_FRAME) + b"|" + _SKIPPABLE.pattern)
"""The first bytes of a file. Files of pzstd begin with a skippable frame."""

MAX_WINDOW = 128 << 20
"""Maximum window in bytes that Arrow's decoder accepts; that of `zstd --long`."""

_MAX_BLOCK = 128 << 10
_RLE, _RESERVED = 1, 3
"""Types of blocks: one byte that is repeated, and one that does not exist."""


def unpack(stream: BinaryIO, memory: int, size: int) -> Iterator[bytes]:
    """Yield the content of a file in pieces of `size` bytes; the last one may be shorter.

    Args:
        stream: the file, at its start.
        memory: maximum size of a window, bytes.
        size: what does not fill a piece before the file is cut off or damaged is lost.

    Raises:
        EOFError: the file is cut off.
        UnpackError: it is damaged, or has a larger window.
    """
    blocks = _Blocks(stream, memory)
    unpacked = pa.CompressedInputStream(pa.PythonFile(blocks, "r"), "zstd")
    try:
        while piece := unpacked.read(size):
            yield piece
    except Exception as error:
        if error is blocks.error or not isinstance(error, OSError):
            raise
        raise _damage(one_line(error).removeprefix("ZSTD decompress failed: ")) from None


class _Blocks(io.RawIOBase):
    """The frames of a file, read block by block.

    error: why the last read failed. Arrow raises it again.
    """

    def __init__(self, stream: BinaryIO, memory: int):
        self._parts = _parts(stream, memory)
        self._part = b""
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, never of two blocks: Arrow returns all of a block before it asks for the
        next one."""
        try:
            self._part = self._part or next(self._parts, b"")
        except Exception as error:
            self.error = error
            raise
        part, self._part = self._part[:size], self._part[size:]
        return part


def _parts(stream: BinaryIO, memory: int) -> Iterator[bytes]:
    """The header, each block and the checksum of each frame."""
    while start := stream.read(len(_FRAME)):
        if _SKIPPABLE.fullmatch(start):
            _skip(stream, int.from_bytes(_exactly(stream, 4), "little"))
            continue
        if start != _FRAME:
            raise UnpackError("the next bytes are not Zstandard data")
        header, has_checksum = _frame_header(stream, memory)
        yield start + header
        is_last = False
        while not is_last:
            header = _exactly(stream, 3)
            number = int.from_bytes(header, "little")
            is_last, kind, size = bool(number & 1), number >> 1 & 3, number >> 3
            if kind == _RESERVED or (kind != _RLE and size > _MAX_BLOCK):
                raise _damage("not a block")
            yield header + _exactly(stream, 1 if kind == _RLE else size)
        if has_checksum:
            yield _exactly(stream, 4)


def _frame_header(stream: BinaryIO, memory: int) -> tuple[bytes, bool]:
    """The header of a frame after its magic number, and whether a checksum follows the frame."""
    first = _exactly(stream, 1)
    flags = first[0]
    is_single, has_checksum = bool(flags & 0x20), bool(flags & 4)
    window_byte = b"" if is_single else _exactly(stream, 1)
    dictionary = _exactly(stream, (0, 1, 2, 4)[flags & 3])
    size = _exactly(stream, (1 if is_single else 0, 2, 4, 8)[flags >> 6])
    if is_single:
        # The size of the content is that of the window. Two bytes count from 256.
        window = int.from_bytes(size, "little") + (256 if len(size) == 2 else 0)
    else:
        base = 1 << 10 + (window_byte[0] >> 3)
        window = base + base // 8 * (window_byte[0] & 7)
    if window > memory:
        raise UnpackError(
            f"its Zstandard window of {window} bytes is more than limits.source_memory={memory}"
        )
    if window > MAX_WINDOW:
        raise UnpackError(
            f"its Zstandard window of {window} bytes is more than {MAX_WINDOW}: compress the file "
            "with --long=27 or less"
        )
    return first + window_byte + dictionary + size, has_checksum


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError(CUT)
    return data


def _skip(stream: BinaryIO, size: int) -> None:
    while size:
        size -= len(_exactly(stream, min(size, _MAX_BLOCK)))


def _damage(what: str) -> UnpackError:
    return UnpackError(f"damaged Zstandard data ({what})")
