"""A video's file as FFmpeg reads it: watched, so that no error is lost and no claim is believed unseen."""

import io
import re
from typing import BinaryIO

from faceq.video.boxes import Boxes

_FLV = re.compile(rb"FLV\x01[\x01\x04\x05]\0\0\0\x09\0{4}", re.DOTALL)
"""An FLV file's first bytes."""

_FLV_BYTES = 13


class WatchedFile:
    """What the storage raises is kept, and FFmpeg sees the file end there.

    Raised through FFmpeg it could get lost: some demuxers take an error for the end of the video. The boxes
    of an MP4 are looked at before FFmpeg gets them; a claim beyond the limit is a fault too. Where another
    MP4 or FLV was joined to the file (at `second`, if so), FFmpeg would lose its way: the file ends there.
    """

    def __init__(self, file: BinaryIO, memory: int):
        """memory: bytes that an index may take."""
        self._file = file
        self._here = file.tell()  # of the file, which `peek` moves
        self._place = self._here  # of the reader
        self._kept = (0, b"")  # what has been read ahead: its offset, its bytes
        self.boxes = Boxes(self.peek, memory)
        self.fault: Exception | None = None
        self.second: int | None = None
        self._is_flv = False
        self._tail = b""

    def read(self, size: int) -> bytes:
        if self.fault is not None:
            return b""
        try:
            data = self._at(self._place, size)
            if not self._keeps(self._place):
                self._kept = (self._place, data)
            self.boxes.look(self._place + len(data))
            self._look_for_second(data)
        except Exception as error:
            self.fault = error
            return b""
        if self.second is not None:
            data = data[: max(0, self.second - self._place)]
        self._place += len(data)
        return data

    def _look_for_second(self, data: bytes) -> None:
        if self._place == 0:
            self._is_flv = _FLV.match(data) is not None
        if self._is_flv:
            text = self._tail + data
            for found in _FLV.finditer(text):
                place = self._place - len(self._tail) + found.start()
                if place > 0 and self.second is None:
                    self.second = place
            self._tail = text[1 - _FLV_BYTES :]
        elif self.boxes.second is not None:
            self.second = self.boxes.second

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            self._place = self._here = self._file.seek(offset, whence)
        else:
            self._place = offset + (self._place if whence == io.SEEK_CUR else 0)
        return self._place

    def tell(self) -> int:
        return self._place

    def size(self) -> int:
        """Bytes of the file."""
        self._here = self._file.seek(0, io.SEEK_END)
        return self._here

    def peek(self, offset: int, size: int) -> bytes:
        """Bytes from there, fewer where the file ends; the reader stays where it is."""
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
            self._file.seek(offset)
        data = self._file.read(size)
        self._here = offset + len(data)
        return data
