"""Unpack compressed files as a stream: gzip, bzip2, xz and Zstandard.

A file may consist of several streams, as parallel compressors and `cat` write them.
"""

import bz2
import contextlib
import gzip
import io
import itertools
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Literal, cast

from faceq.messages.one_line import one_line
from faceq.sources import zstd
from faceq.sources.unpack_error import CUT, UnpackError

Compression = Literal["gzip", "bzip2", "xz", "Zstandard"]

_MAGIC: dict[Compression, re.Pattern[bytes]] = {
    "gzip": re.compile(rb"\x1f\x8b"),
    # A tar begins with a name, which may begin with "BZh", but hardly with the mark of a block as well.
    "bzip2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "Zstandard": zstd.MAGIC,
}
MAGIC_BYTES = 10
"""Number of first bytes that `compression_of` needs."""

FIRST_BYTES = 1 << 20
"""Number of first bytes that `first_unpacked` needs: a block of bzip2 has up to 900 kB."""

DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, UnpackError)
"""Errors of reading a file that is damaged or cut off."""

_CHUNK = 64 << 10
"""Bytes that are read at a time, and maximum number of bytes that are handed on."""

_PIECE = tarfile.BLOCKSIZE
"""Bytes that a decoder unpacks in one call. It returns nothing of a call that meets damage. With pieces of
one block of a tar, no member is lost that is complete before the damage. A call takes less than 2 µs."""


def compression_of(start: bytes) -> Compression | None:
    """How a file is compressed, from its first MAGIC_BYTES bytes; None if it is not."""
    return next((name for name, magic in _MAGIC.items() if magic.match(start)), None)


def unpacked(stream: BinaryIO, compression: Compression, memory: int, add: Callable[[int], None]) -> BinaryIO:
    """The content of a compressed file. Reading it raises DAMAGE. It can be sought forward and to its start.

    Args:
        stream: the file, at its start.
        compression: its format.
        memory: maximum size of the decoder's window (dictionary), bytes. The file states that size.
        add: is called with each number of bytes that were unpacked, and may raise an error. It is not called
            for gzip, which cannot expand a file by more than `reading.DEFLATE_RATIO`.
    """
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    return cast(BinaryIO, io.BufferedReader(_Content(stream, compression, memory, add), _CHUNK))


def first_unpacked(start: bytes, compression: Compression, most: int) -> bytes:
    """The first bytes of a file's content, at most `most`; fewer if the file is damaged.

    Args:
        start: the first FIRST_BYTES bytes of the file, or all.
    """
    found = b""
    with contextlib.suppress(*DAMAGE):
        if compression == "gzip":
            return zlib.decompressobj(wbits=31).decompress(start, most)
        for chunk in _chunks(io.BytesIO(start), compression, zstd.MAX_WINDOW):
            found += chunk
            if len(found) >= most:
                break
    return found[:most]


class _Content(io.RawIOBase):
    """The content of a file, without a buffer."""

    def __init__(self, stream: BinaryIO, compression: Compression, memory: int, add: Callable[[int], None]):
        self._stream, self._compression, self._memory, self._add = stream, compression, memory, add
        self._start()

    def _start(self) -> None:
        self._chunks = _chunks(self._stream, self._compression, self._memory)
        self._chunk, self._at = memoryview(b""), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._chunk:
            self._chunk = memoryview(next(self._chunks, b""))
            self._add(len(self._chunk))
        count = min(len(buffer), len(self._chunk))
        buffer[:count] = self._chunk[:count]
        self._chunk = self._chunk[count:]
        self._at += count
        return count

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("seeks from the start only")
        if offset < self._at:
            self._stream.seek(0)
            self._start()
        while self._at < offset and self.read(min(_CHUNK, offset - self._at)):
            pass
        return self._at


def _chunks(stream: BinaryIO, compression: Compression, memory: int) -> Iterator[bytes]:
    """The content of a file, in chunks of 1 to _CHUNK bytes. Damage is raised after what comes before it."""
    pieces = (
        zstd.unpack(stream, memory, _PIECE)
        if compression == "Zstandard"
        else _of_streams(stream, compression, memory)
    )
    error: Exception | None = None
    while error is None:
        chunk: list[bytes] = []
        try:
            for piece in itertools.islice(pieces, _CHUNK // _PIECE):
                chunk.append(piece)  # one by one: the next one may raise
        except Exception as raised:
            error = raised
        if chunk:
            yield b"".join(chunk)
        elif error is None:
            return
    raise error


def _of_streams(stream: BinaryIO, compression: Compression, memory: int) -> Iterator[bytes]:
    """The content of a bzip2 or xz file, in pieces that end at multiples of _PIECE or before.

    Python's BZ2File and LZMAFile ignore whatever follows a stream and is not another one, such as a damaged
    one, and have no limit on memory.
    """
    data, left = stream.read(_CHUNK), _PIECE
    while data:
        data += stream.read(max(0, MAGIC_BYTES - len(data)))
        if compression_of(data) != compression:
            raise UnpackError(f"the next bytes are not {compression} data")
        decoder = _decoder(compression, memory)
        while not decoder.eof:
            if decoder.needs_input and not (data := data or stream.read(_CHUNK)):
                raise EOFError(CUT)
            try:
                piece, data = decoder.decompress(data, left), b""
            except (lzma.LZMAError, OSError, ValueError) as error:
                raise UnpackError(_reason(compression, error, memory)) from None
            if piece:
                yield piece
                left = left - len(piece) or _PIECE
        data = _after_padding(decoder.unused_data, stream)


def _decoder(compression: Compression, memory: int) -> Any:
    return bz2.BZ2Decompressor() if compression == "bzip2" else lzma.LZMADecompressor(lzma.FORMAT_XZ, memory)


def _reason(compression: Compression, error: Exception, memory: int) -> str:
    if "Memory usage limit" in str(error):
        return f"its {compression} dictionary needs more memory than limits.source_memory={memory}"
    return f"damaged {compression} data ({one_line(error)})"


def _after_padding(data: bytes, stream: BinaryIO) -> bytes:
    """`data` without zero bytes at its start, or else the next such bytes of the file; empty at its end."""
    while not (data := data.lstrip(b"\0")):
        if not (data := stream.read(_CHUNK)):
            return b""
    return data
