"""Check the pages of a Parquet file before Arrow unpacks them: a few bytes can unpack to gigabytes.

A page's header states its unpacked size. The footer does not state it for single pages, and it may be wrong.
"""

import os
from dataclasses import dataclass
from typing import Any, BinaryIO

from faceq.errors import FaceqError
from faceq.sources.magic import foreign
from faceq.sources.reading import UnsupportedError
from faceq.sources.sniff import ENOUGH

_MAGIC = b"PAR1"
_TAIL = 64 << 10
_DICTIONARY_PAGE = 2
_DELTA_BYTE_ARRAY = 7
LEVELS = 16
"""Bytes that Arrow takes for one value in a list, in addition to the value itself."""

_COPIES = 8
"""Maximum number of copies of a page that Arrow keeps if the page is a single value. Measured: 7."""

COPIES_OF_LIST = 5
"""Number of copies of the values of a list of binary values that Arrow keeps. Measured: 5."""

_USUAL_RATIO = 10
"""Compression ratio that is always accepted: a page of 1,024 large images legitimately has gigabytes."""

BYTES_OF_FOOTER = 64
"""Maximum bytes in memory per byte of a footer. Measured: 8, for row groups with one column."""


class FewerRowsError(FaceqError):
    """A batch might exceed the limit; a batch of `rows` rows does not."""

    def __init__(self, rows: int):
        super().__init__(rows)
        self.rows = rows


class GuardedFile:
    """The file object from which Arrow reads a Parquet file. `read` raises ValueError before Arrow unpacks
    more than `source_memory` allows.

    Args:
        stream: the file.
        source_memory: maximum bytes of one page, of the repetitions of a value in one batch, and of the
            footer.

    Raises:
        UnsupportedError: it is not a Parquet file.
        ValueError: its footer is too large.
    """

    closed = False

    def __init__(self, stream: BinaryIO, source_memory: int):
        self._stream = stream
        self._most = source_memory
        self._chunks: list[_Chunk] = []
        self._new_chunk: tuple[int, int, int, bool] | None = None
        self._at = 0
        self._size = stream.seek(0, os.SEEK_END)
        self._tail_at = max(0, self._size - _TAIL)
        stream.seek(self._tail_at)
        self._tail = stream.read(self._size - self._tail_at)
        self.footer_size = self._check_footer()

    def _check_footer(self) -> int:
        end = self._tail[-8:]
        if end[4:] == b"PARE":
            raise UnsupportedError("this is an encrypted Parquet file: decrypt it first")
        if end[4:] != _MAGIC:
            self._stream.seek(0)
            what = foreign(self._stream.read(ENOUGH), "a Parquet file")
            if what:
                raise UnsupportedError(f"this is {what}")
            return 0  # the file is cut off: Arrow reports it
        size = int.from_bytes(end[:4], "little")
        if min(size, self._size) * BYTES_OF_FOOTER > self._most:
            raise ValueError(
                f"its footer of {size} bytes needs more memory than limits.source_memory={self._most} allows"
            )
        return size

    def watch(self, rows: int, value_bytes: int, in_lists: bool) -> None:
        """Start checking pages: from now on Arrow reads the columns of a row group.

        Args:
            rows: rows per batch.
            value_bytes: maximum bytes of one value in a list; 0 if no column is a list.
            in_lists: the large values are in lists, so that those of one row may be in many pages.
        """
        # Column offsets are detected here: Arrow's metadata have them, but reading damaged metadata can crash
        # the process.
        self._chunks = []
        self._new_chunk = (rows, self._most, value_bytes, in_lists)

    def batch_is_out(self) -> None:
        """Tell the guard that the last batch, with its lists, is no longer in memory."""
        for chunk in self._chunks:
            chunk.values, chunk.unpacked = 0, None

    def read(self, size: int = -1) -> bytes:
        """Like `read` of a file."""
        at = self._at
        if size < 0:
            size = self._size - at
        if at >= self._tail_at:
            data = self._tail[at - self._tail_at : at - self._tail_at + size]
        else:
            if self._stream.tell() != at:
                self._stream.seek(at)
            data = self._stream.read(size)
        self._at = at + len(data)
        if self._new_chunk and data:
            chunk = next((each for each in self._chunks if at <= each.missing < self._at), None)
            if chunk is None:
                chunk = _Chunk(at, *self._new_chunk)
                self._chunks.append(chunk)
            chunk.check(at, data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Like `seek` of a file."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """Like `tell` of a file."""
        return self._at

    def close(self) -> None:
        """Do nothing: whoever opened the stream closes it."""


@dataclass
class _Chunk:
    """A column of a row group, which Arrow reads from front to back.

    at: offset of the next page header. begun: the part of that header that was read so far. rows: rows per
    batch. most: maximum bytes in memory. value_bytes: maximum bytes of one value in a list; 0 if the column
    is not a list. in_lists: see `GuardedFile.watch`. values: number of values in lists since the last batch.
    unpacked: bytes of the pages since the last batch but the first of them, which may have values of other
    rows; None: there is no page yet.
    """

    at: int
    rows: int
    most: int
    value_bytes: int
    in_lists: bool
    begun: bytes = b""
    values: int = 0
    unpacked: int | None = None

    @property
    def missing(self) -> int:
        """Offset of the first byte of the next page header that has not been read."""
        return self.at + len(self.begun)

    def check(self, at: int, data: bytes) -> None:
        """Check the pages whose headers end in `data`. It was read at offset `at` and contains `missing`."""
        known = memoryview(self.begun + data[self.missing - at :] if self.begun else data)
        first = self.at if self.begun else at
        while self.at < first + len(known):
            try:
                header, size = _struct(known, self.at - first)
                _check_header(header)
            except IndexError:
                self.begun = bytes(known[self.at - first :])
                return
            except ValueError:
                self.at = first + len(known)  # not a page: Arrow reports it if it expects one
                break
            self._check_page(header)
            self.at = first + size + max(0, header.get(3, 0))
        self.begun = b""

    def _check_page(self, header: dict[int, Any]) -> None:
        unpacked, packed = header.get(2, 0), header.get(3, 0)
        if _COPIES * (unpacked - _USUAL_RATIO * packed) > self.most:
            raise ValueError(
                f"a page of {packed} bytes unpacks to {unpacked} bytes, of which Arrow may keep {_COPIES} "
                f"copies: that is more than limits.source_memory={self.most}"
            )
        page = header.get(5) or header.get(8) or {}
        encoding = page.get(4 if 8 in header else 2)
        repeats = header.get(1) == _DICTIONARY_PAGE or encoding == _DELTA_BYTE_ARRAY
        if repeats and self.rows > 1 and self.rows * unpacked > self.most:
            raise FewerRowsError(max(1, self.most // unpacked))
        self.values += page.get(1, 0)
        self.unpacked = 0 if self.unpacked is None else self.unpacked + unpacked
        is_long = self.in_lists and COPIES_OF_LIST * self.unpacked > self.most
        if self.rows > 1 and (is_long or self.values * self.value_bytes > self.most):
            raise FewerRowsError(1)
        if self.values * self.value_bytes > self.most:
            raise ValueError(
                f"a list of at least {self.values} values in one row takes more memory than "
                f"limits.source_memory={self.most} allows"
            )


def _check_header(header: dict[int, Any]) -> None:
    """Raises ValueError for what Arrow does not accept as the header of a page either: zeros, for example,
    when the bytes begin inside a large value."""
    are_numbers = all(isinstance(header.get(field), int) for field in (1, 2, 3))
    if not are_numbers or not all(isinstance(header.get(field, {}), dict) for field in (5, 7, 8)):
        raise ValueError("not the header of a page")


def _struct(data: memoryview, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Parse a struct in Thrift's compact protocol. Returns its values by field id, and the offset of its end.

    Raises IndexError if the data end too early, ValueError if they are not such a struct.
    """
    fields: dict[int, Any] = {}
    field = 0
    if depth > 8:
        raise ValueError("too deep")
    while True:
        head = data[at]
        at += 1
        if not head:
            return fields, at
        if head >> 4:
            field += head >> 4
        else:
            field, at = _number(data, at)
        fields[field], at = _value(data, at, head & 15, depth)


def _value(data: memoryview, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _number(data, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        size, at = _varint(data, at)
        return None, at + size
    if kind == 12:
        return _struct(data, at, depth + 1)
    raise ValueError("not a field of a page header")


def _number(data: memoryview, at: int) -> tuple[int, int]:
    number, at = _varint(data, at)
    return (number >> 1) ^ -(number & 1), at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, at
        if shift > 63:
            raise ValueError("number too long")
