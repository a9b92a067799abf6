"""Read RecordIO files, the container of MXNet, record by record.

Source of the layout: dmlc-core's `recordio.h`. A record is the magic number, a word with a flag (3 bits) and
a length (29 bits), and the data, padded to a multiple of four bytes. Where the data has the magic number at a
multiple of four bytes, the writer leaves it out and begins a new piece. So the number is never inside a
piece, and a reader that has lost its way finds the next record by it.
"""

import itertools
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAGIC = struct.pack("<I", 0xCED7230A)

_HEAD = struct.Struct("<4sI")
_LENGTH_BITS = 29
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
"""Flags of a piece: all of a record, or which piece of it."""

_OPENING, _LATER = (_WHOLE, _FIRST), (_MIDDLE, _LAST)

_MOST_PIECES = 1 << 16
"""Maximum number of pieces of a record: in an image, the magic number is rare."""

KEPT = 24
"""Number of first bytes that are kept of a record which is too long: the header of an image record."""

_CHUNK = 1 << 20

_MOST_CHECKED = 1000
"""Maximum number of places inside a piece that are checked for a record that begins there."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record, or a stretch of the file that is none.

    offset, end: the bytes of the file that it takes. data: its content; the first KEPT bytes if it is too
    long; empty if it is damaged. size: bytes of its content. fault: why it cannot be read. is_rest: it is
    what follows the last record that can be read.
    """

    offset: int
    end: int
    data: bytes
    size: int
    fault: str | None = None
    is_rest: bool = False


class Records:
    """The records of a file.

    size: bytes of the file.

    Args:
        stream: the file. Nothing else may read it while `follow` runs.
        most: maximum number of bytes of a record that are read.
    """

    def __init__(self, stream: BinaryIO, most: int):
        self.size = stream.seek(0, os.SEEK_END)
        self._stream = stream
        self._most = most

    def follow(self, start: int, end: int | None = None) -> Iterator[Record]:
        """The records that begin at byte `start` or later and before byte `end`, in order.

        Stretches that hold no record are yielded as records with a `fault`. After one, reading continues at
        the next record.
        """
        stop = self.size if end is None else min(end, self.size)
        head = self._read(start, _HEAD.size)
        while start < stop:
            record, head = self._record(start, head)
            yield record
            start = record.end

    def next_record(self, start: int, stop: int) -> int | None:
        """The first byte from `start` to `stop` at which a record begins."""
        return self._next_head(start + -start % 4, stop)

    def at(self, offset: int) -> Record:
        """The record that begins at byte `offset`; one with a `fault` if none does."""
        head = self._read(offset, _HEAD.size)
        flag, _ = _parsed(head)
        if flag not in _OPENING:
            return Record(offset, offset, b"", 0, "no record begins there")
        record, _ = self._record(offset, head)
        return record

    def _record(self, at: int, head: bytes) -> tuple[Record, bytes]:
        """The record at byte `at`, whose first bytes are `head`, and the first bytes after it."""
        pieces: list[bytes] = []
        size, end = 0, at
        while True:
            begin = end
            flag, length = _parsed(head)
            end = begin + _HEAD.size + _padded(length)
            if flag not in (_LATER if pieces else _OPENING) or end > self.size or len(pieces) == _MOST_PIECES:
                return self._fault(at)
            if size + length <= self._most:
                body = self._stream.read(end - begin)  # the next head is as long as this one
                piece, head = body[:length], body[_padded(length) :]
                if len(piece) < length:  # the file has shrunk
                    return self._fault(at)
            elif self._next_head(begin + _HEAD.size, end) is None:
                piece = self._read(begin + _HEAD.size, min(length, KEPT))
                head = self._read(end, _HEAD.size)
            else:
                return self._fault(at)
            if MAGIC in piece and self._hides_record(piece, begin + _HEAD.size, end):
                return self._fault(at)
            pieces.append(piece)
            size += length
            if flag in (_WHOLE, _LAST):
                break
            size += len(MAGIC)
        # What follows is no record: the length of this one may be wrong.
        if head and not head.startswith(MAGIC) and self._next_head(at + 4, end) is not None:
            return self._fault(at)
        if head and not head.startswith(MAGIC):
            head = self._read(end, _HEAD.size)
        data = MAGIC.join(pieces) if size <= self._most else pieces[0][:KEPT]
        return Record(at, end, data, size), head

    def _fault(self, at: int) -> tuple[Record, bytes]:
        """The stretch from byte `at` to the next record, and the first bytes of that."""
        end = self._next_head(at + 4, self.size)
        if end is None:
            return Record(at, self.size, b"", 0, "the file is cut off or damaged", is_rest=True), b""
        return Record(at, end, b"", 0, "its bytes are damaged"), self._read(end, _HEAD.size)

    def _hides_record(self, piece: bytes, start: int, end: int) -> bool:
        """Whether a record begins inside a piece, which means that the length of the piece is wrong.

        Some writers do not leave out the magic number: then it is not followed by a length that leads to
        another record.
        """
        is_inside = False
        for place in itertools.islice(_places(piece), _MOST_CHECKED):
            flag, length = _parsed(piece[place : place + _HEAD.size])
            after = start + place + _HEAD.size + _padded(length)
            if flag in _OPENING and (after == self.size or self._read(after, len(MAGIC)) == MAGIC):
                is_inside = True
                break
        self._stream.seek(end + _HEAD.size)
        return is_inside

    def _next_head(self, start: int, stop: int) -> int | None:
        """The first multiple of four bytes from `start` to `stop` at which a record begins."""
        for at in range(start, stop, _CHUNK):
            block = self._read(at, min(_CHUNK + _HEAD.size - 4, self.size - at))
            for place in _places(block):
                flag, _ = _parsed(block[place : place + _HEAD.size])
                if flag in _OPENING and at + place < stop:
                    return at + place
        return None

    def _read(self, offset: int, size: int) -> bytes:
        self._stream.seek(offset)
        return self._stream.read(size) if size > 0 else b""


def _places(data: bytes) -> Iterator[int]:
    """The multiples of four bytes at which data has the magic number."""
    place = data.find(MAGIC)
    while place >= 0:
        if place % 4 == 0:
            yield place
        place = data.find(MAGIC, place + 1)


def _parsed(head: bytes) -> tuple[int, int]:
    """Flag and length of a piece; the flag is -1 if these bytes begin none."""
    if len(head) < _HEAD.size or not head.startswith(MAGIC):
        return -1, 0
    _, word = _HEAD.unpack(head)
    return word >> _LENGTH_BITS, word & ((1 << _LENGTH_BITS) - 1)


def _padded(length: int) -> int:
    return length + 3 & ~3
