"""Check the boxes of an MP4 or MOV file before FFmpeg reads them, to limit the memory of FFmpeg's index.

When FFmpeg opens such a file it builds a list of all coded frames. The file's tables are run-length coded: a
few bytes can stand for millions of entries. In the other supported formats, each entry in memory also exists
in the file.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from faceq.sources.boxes import children
from faceq.sources.video.errors import DamagedError

SAMPLE_BYTES = 40
"""Bytes that FFmpeg takes for one coded frame in the index. Measured: 24 to 37."""

FRAGMENT_BYTES = 80
"""Bytes that FFmpeg takes for each track of each fragment. Measured: 72."""

PIXEL_BYTES = 3
"""Bytes that FFmpeg takes for each pixel of each video stream while it probes the streams."""

_FOLDERS = {
    *(b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"mvex", b"dinf"),
    *(b"udta", b"tref", b"gmhd", b"tapt", b"wave", b"sinf", b"schi", b"strd"),
}
"""Boxes in which FFmpeg looks for further boxes."""


@dataclass
class _Track:
    """The information in a track's boxes. Durations are in the track's time unit, 1 / `scale` seconds."""

    number: int = 0
    kind: bytes = b""
    codec: bytes = b""
    scale: int = 1
    pixels: int = 0
    samples: int = 0
    length: int = 0
    even: bool = False
    chunks: int = 0
    runs: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int64))
    keys: np.ndarray | None = None
    edits: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))

    def note(self, kind: bytes, content: bytes) -> None:
        """Store the information from one of the track's boxes."""
        match kind:
            case b"tkhd":
                self.number = _scale(content)
            case b"mdhd":
                self.scale = _scale(content)
            case b"hdlr":
                self.kind = self.kind or content[8:12]
            case b"stsd":
                self.codec = content[12:16]
                width, height = content[40:42], content[42:44]
                self.pixels = int.from_bytes(width, "big") * int.from_bytes(height, "big")
            case b"stsz" | b"stz2":
                self.samples = max(self.samples, int.from_bytes(content[8:12], "big"))
            case b"stts":
                table = _table(content, 2)
                self.samples = max(self.samples, int(table[:, 0].sum()))
                self.length = int((table[:, 0] * table[:, 1]).sum())
                self.even = len(table) == 1 and table[0, 1] == 1
            case b"ctts":
                self.samples = max(self.samples, int(_table(content, 2)[:, 0].sum()))
            case b"stsc":
                self.runs = _table(content, 3)
            case b"stco" | b"co64":
                self.chunks = (len(content) - 8) // (4 if kind == b"stco" else 8)
            case b"stss":
                self.keys = _table(content, 1)[:, 0]
            case b"elst":
                self.edits = _edits(content)

    def entries(self, movie_scale: int) -> int:
        """The number of entries in FFmpeg's index of this track."""
        if self.kind == b"soun" and self.even:
            return self._pieces()  # FFmpeg cuts chunks of uncompressed sound into pieces of 1024 samples
        if not len(self.edits) or not self.samples:
            return self.samples
        # Each edit copies the entries of the frames that it shows, and of those that must be decoded first,
        # from the last key frame on.
        shown = self.edits[:, 0] * self.scale / max(1, movie_scale) / max(1, self.length)
        shown[self.edits[:, 0] <= 0] = 1
        apart = 1 if self.keys is None else int(np.diff([0, *self.keys, self.samples + 1]).max())
        copies = np.minimum(self.samples, shown * self.samples + apart)
        return self.samples + int(copies[self.edits[:, 1] >= 0].sum())

    def _pieces(self) -> int:
        ends = np.append(self.runs[1:, 0], self.chunks + 1)
        chunks = np.clip(ends - self.runs[:, 0], 0, self.chunks)
        return int((chunks * -(-self.runs[:, 1] // 1024)).sum())


class Boxes:
    """Checks the top-level boxes of a file as far as FFmpeg has read."""

    def __init__(self, peek: Callable[[int, int], bytes], limit: int):
        """peek: returns bytes of the file by offset and size. limit: maximum bytes of the index in memory."""
        self.codecs: dict[int, str] = {}
        self.second: int | None = None
        self._peek = peek
        self._limit = limit
        self._next = 0
        self._tracks: list[_Track] = []
        self._movie_scale = 1
        self._samples = 0
        self._fragments = 0
        self._seen: set[bytes] = set()

    def look(self, end: int) -> None:
        """Check all boxes that begin before `end`, the offset up to which FFmpeg is about to read.

        Raises:
            DamagedError: the index would take more memory than the limit.
        """
        while self._next < end and self.second is None:
            kind, start, size = self._header(self._next)
            if kind == b"ftyp" and self._seen & {b"moov", b"moof"}:
                self.second = self._next  # another file was appended to this one
                return
            self._seen.add(kind)
            self._weigh_box(kind, start, size)
            self._next = start + size

    def _header(self, place: int) -> tuple[bytes, int, int]:
        """Kind of the box at `place`, and offset and size of its content; infinite if it is not a box."""
        head = self._peek(place, 16)
        if len(head) < 8:
            return b"", place, 1 << 62
        size, kind = struct.unpack(">I4s", head[:8])
        if size == 1 and len(head) == 16:
            return kind, place + 16, max(0, struct.unpack(">Q", head[8:])[0] - 16)
        return kind, place + 8, size - 8 if size >= 8 else 1 << 62

    def _weigh_box(self, kind: bytes, start: int, size: int) -> None:
        if kind in {b"free", b"hoov"} and self._peek(start, 8)[4:] in {b"mvhd", b"cmov"}:
            kind = b"moov"  # a renamed old `moov`, which FFmpeg reads if there is no other
        if kind in _FOLDERS:
            content = self._peek(start, min(size, self._limit + 1))
            self._check_limit(len(content))
            self._walk(kind, content, 0, len(content))
        elif kind == b"sidx":
            head = self._peek(start, 64)
            place = 20 if head[:1] == b"\0" else 28
            self._fragments += int.from_bytes(head[place + 2 : place + 4], "big")
        self._check_limit(self._claimed())

    def _claimed(self) -> int:
        entries = self._samples + sum(track.entries(self._movie_scale) for track in self._tracks)
        size = entries * SAMPLE_BYTES + self._fragments * len(self._tracks) * FRAGMENT_BYTES
        videos = [track.pixels for track in self._tracks if track.kind == b"vide"]
        return size + (sum(videos) * PIXEL_BYTES if len(videos) > 1 else 0)

    def _check_limit(self, size: int) -> None:
        if size > self._limit:
            raise DamagedError(
                f"opening it would take about {size} bytes of memory, more than limits.source_memory="
                f"{self._limit}: copy the file again if it is damaged, or raise the limit"
            )

    def _walk(self, kind: bytes, data: bytes, start: int, end: int) -> None:
        if kind == b"trak":
            self._tracks.append(_Track())
        self._fragments += kind == b"moof"
        for child, first, last in children(data, start, end):
            if child in _FOLDERS:
                self._walk(child, data, first, last)
            elif child == b"cmov":
                self._walk_compressed(data[first:last])
            else:
                self._note(child, data[first:last])
        if kind == b"trak":
            track = self._tracks[-1]
            self.codecs[track.number] = track.codec.decode("latin-1")

    def _walk_compressed(self, data: bytes) -> None:
        """Walk a compressed `moov` box, as written by old QuickTime programs."""
        for child, first, last in children(data, 0, len(data)):
            if child == b"cmvd":
                self._check_limit(int.from_bytes(data[first : first + 4], "big"))
                unpacker = zlib.decompressobj()
                try:
                    content = unpacker.decompress(data[first + 4 : last], self._limit)
                except zlib.error:
                    return
                self._walk(b"", content, 0, len(content))

    def _note(self, kind: bytes, content: bytes) -> None:
        if kind == b"trun":
            self._samples += int.from_bytes(content[4:8], "big")
        elif kind == b"mvhd":
            self._movie_scale = _scale(content)
        elif self._tracks:
            self._tracks[-1].note(kind, content)


def _scale(content: bytes) -> int:
    """The number after the two times at the start of a box, whose length depends on the box's version. It is
    the time scale in `mdhd` and `mvhd`, and the track's number in `tkhd`."""
    return int.from_bytes(content[20:24] if content[:1] == b"\1" else content[12:16], "big")


def _table(content: bytes, columns: int) -> np.ndarray:
    """(N, columns) int64: a box's table of 32-bit numbers, without rows beyond the end of the box."""
    rows = min(int.from_bytes(content[4:8], "big"), max(0, len(content) - 8) // (4 * columns))
    numbers = np.frombuffer(content, ">u4", rows * columns, 8 if rows else 0)
    return numbers.reshape(rows, columns).astype(np.int64)


def _edits(content: bytes) -> np.ndarray:
    """(N, 2) int64: duration and start of each edit; the start is -1 if the edit shows nothing."""
    if content[:1] != b"\1":
        edits = _table(content, 3)[:, :2]
        edits[edits[:, 1] == 0xFFFFFFFF, 1] = -1
        return edits
    numbers = _table(content, 5)
    return numbers[:, [0, 2]] << 32 | numbers[:, [1, 3]]
