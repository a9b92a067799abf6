"""A video's file as FFmpeg reads it: watched, so that no error is lost and no claim is believed unseen."""

import io
import re
from typing import BinaryIO

from faceq.sources.video.boxes import Boxes

_BEGINNINGS = {
    b"FLV\x01": re.compile(rb"FLV\x01[\x01\x04\x05]\0\0\0\x09\0{4}", re.DOTALL),
    b"\x1a\x45\xdf\xa3": re.compile(rb"\x1a\x45\xdf\xa3.{1,8}?\x42\x86\x81\x01", re.DOTALL),
    b"RIFF": re.compile(rb"RIFF.{4}AVI LIST.{4}hdrlavih", re.DOTALL),
    b"OggS": re.compile(rb"(?<=OggS\0)\x02"),  # a page that begins a stream
}
"""How files of a kind begin, by their first four bytes: whole headers, which frames do not hold by chance."""

_OGG_PAGE = re.compile(rb"OggS\0[\0\1\4\5]")
"""A page of an Ogg file that does not begin a stream."""

_HEADER = 32
"""Bytes of the longest of these headers, and more."""

HEAD = 1 << 16
"""Bytes from the beginning of a file that are kept, so that a look at them later is no request more."""


class WatchedFile:
    """What the storage raises is kept, and FFmpeg sees the file end there.

    Raised through FFmpeg it could get lost: some demuxers take an error for the end of the video. The boxes
    of an MP4 are looked at before FFmpeg gets them; a claim beyond the limit is a fault too.

    Where another file of the same kind was joined to this one, byte by byte, FFmpeg would lose its way: for
    it the file ends there. `second` is the place, once it is known.
    """

    def __init__(self, file: BinaryIO, memory: int, start: int = 0):
        """memory: bytes that an index may take. start: where in the file the video begins, which is
        place 0 here."""
        self._file = file
        self._start = start
        self._here = -1  # place of the file, which `peek` moves
        self._place = 0  # of the reader
        self._size: int | None = None
        self._kept = (0, b"")  # what has been read ahead: its offset, its bytes
        self._head = b""
        self.boxes = Boxes(self.peek, memory)
        self.fault: Exception | None = None
        self.second: int | None = None
        self._kind = b""
        self._tail = b""
        self._is_inside = False

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
            first = 1 - before  # the file's own beginning is none
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
        """Bytes from there, fewer where the file ends; the reader stays where it is."""
        if offset + size <= len(self._head):
            return self._head[offset : offset + size]
        if not self._keeps(offset) or offset + size > self._kept[0] + len(self._kept[1]):
            self._kept = (offset, self._from_file(offset, size))
        return self._at(offset, size)

    def _at(self, offset: int, size: int) -> bytes:
        if self._keeps(offset):
            start = offset - self._kept[0]
            return self._kept[1][start : start + size]
        self._kept = (0, b"")  # may be large
        return self._from_file(offset, size)

    def _keeps(self, offset: int) -> bool:
        start, data = self._kept
        return start <= offset < start + len(data)

    def _from_file(self, offset: int, size: int) -> bytes:
        if self._here != offset:
            if offset >= self.size():
                return b""  # damaged files name places that no system can go to
            self._file.seek(self._start + offset)
        data = self._file.read(size)
        self._here = offset + len(data)
        return data
