"""The file object from which FFmpeg reads a video. It keeps errors and checks MP4 boxes in advance."""

import io
import re
from typing import BinaryIO

from faceq.sources.video.boxes import Boxes

_BEGINNINGS = {
    b"FLV\x01": re.compile(rb"FLV\x01[\x01\x04\x05]\0\0\0\x09\0{4}", re.DOTALL),
    b"\x1a\x45\xdf\xa3": re.compile(rb"\x1a\x45\xdf\xa3.{1,8}?\x42\x86\x81\x01", re.DOTALL),
    b"RIFF": re.compile(rb"RIFF.{4}AVI LIST.{4}hdrlavih", re.DOTALL),
    b"OggS": re.compile(rb"(?<=OggS\0)\x02"),  # the first page of a stream
}
"""The beginning of a file, by its first four bytes: long enough not to occur inside frames by chance."""

_OGG_PAGE = re.compile(rb"OggS\0[\0\1\4\5]")
"""A page of an Ogg file that is not the first of a stream."""

_HEADER = 32
"""An upper bound on the length of these headers, bytes."""

HEAD = 1 << 16
"""Number of first bytes that are cached, so that reading them again needs no further request."""


class WatchedFile:
    """A file for FFmpeg that stores errors in `fault` instead of raising them.

    For FFmpeg the file ends at an error. If the error was raised through FFmpeg it could get lost, because
    some demuxers treat it as the end of the video. The boxes of an MP4 are checked before FFmpeg gets them;
    exceeding the limit is a fault, too.

    If another file of the same kind is appended to this one, FFmpeg cannot read across the boundary. The file
    then ends there for FFmpeg, and `second` is the offset of the appended file, once it is known.
    """

    def __init__(self, file: BinaryIO, memory: int, start: int = 0):
        """memory: maximum bytes of an index. start: offset at which the video begins; offsets in this class
        are relative to it."""
        self._file = file
        self._start = start
        self._here = -1  # position of the underlying file, which `peek` moves
        self._place = 0  # position of the reader
        self._size: int | None = None
        self._kept = (0, b"")  # data that were read ahead: offset, bytes
        self._head = b""
        self.boxes = Boxes(self.peek, memory)
        self.fault: Exception | None = None
        self.second: int | None = None
        self._kind = b""
        self._tail = b""
        self._is_inside = False

    def raise_fault(self) -> None:
        """Raise the error that ended the file for FFmpeg, if there is one. Its cause holds S3's response."""
        if self.fault is not None:
            raise self.fault from self.fault.__cause__

    def read(self, size: int) -> bytes:
        if self.fault is not None:
            return b""
        try:
            data = self._at(self._place, size)
            if not self._keeps(self._place):
                self._kept = (self._place, data)
            self.boxes.look(self._place + len(data))
            self._look_for_second(data)
            if self._place == len(self._head) < HEAD:
                self._head += data
        except Exception as error:
            self.fault = error
            return b""
        if self.second is not None:
            data = data[: max(0, self.second - self._place)]
        self._place += len(data)
        return data

    def _look_for_second(self, data: bytes) -> None:
        if self._place == 0:
            self._kind = data[:4]
        if self.second is None and self._kind in _BEGINNINGS:
            text = self._tail + data
            before = self._place - len(self._tail)
            first = 1 - before  # skip the file's own beginning
            if self._kind == b"OggS" and not self._is_inside:
                page = _OGG_PAGE.search(text)
                self._is_inside, first = page is not None, page.end() if page else len(text)
            found = _BEGINNINGS[self._kind].search(text, max(0, first))
            if found:
                self.second = before + found.start() - (5 if self._kind == b"OggS" else 0)
            self._tail = text[-_HEADER:]
        elif self.boxes.second is not None:
            self.second = self.boxes.second

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            self._place = self.size() + offset
        else:
            self._place = offset + (self._place if whence == io.SEEK_CUR else 0)
        return self._place

    def tell(self) -> int:
        return self._place

    def size(self) -> int:
        """Bytes of the file."""
        if self._size is None:
            self._size = self._file.seek(0, io.SEEK_END) - self._start
            self._here = self._size
        return self._size

    def peek(self, offset: int, size: int) -> bytes:
        """Bytes at an offset, fewer at the end of the file, without moving the reader's position."""
        if offset + size <= len(self._head):
            return self._head[offset : offset + size]
        if not self._keeps(offset) or offset + size > self._kept[0] + len(self._kept[1]):
            self._kept = (offset, self._from_file(offset, size))
        return self._at(offset, size)

    def _at(self, offset: int, size: int) -> bytes:
        if self._keeps(offset):
            start = offset - self._kept[0]
            return self._kept[1][start : start + size]
        self._kept = (0, b"")  # free it: it may be large
        return self._from_file(offset, size)

    def _keeps(self, offset: int) -> bool:
        start, data = self._kept
        return start <= offset < start + len(data)

    def _from_file(self, offset: int, size: int) -> bytes:
        if self._here != offset:
            if offset >= self.size():
                return b""  # damaged files contain offsets that no file system can seek to
            self._file.seek(self._start + offset)
        data = self._file.read(size)
        self._here = offset + len(data)
        return data
