"""Divide a long video at key frames, and read a piece of it.

The index and the time of a frame depend on all frames before it: how many the decoder returned, and in
order. So each piece is first decoded without further use, by several tasks at the same time. A video is
divided only if every coded frame gives one frame, in the order of the timestamps: then the index of a frame
is the rank of its timestamp. Each piece is decoded beyond its end, and these frames are compared with the
first ones of the next piece: a decoder that starts there must return the same pixels.
"""

import bisect
import itertools
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import av
import av.container
from av.video.stream import VideoStream

from faceq.errors import FaceqError
from faceq.sources.spans import Key, Span
from faceq.sources.video.clock import Clock
from faceq.sources.video.decoding import Decoding
from faceq.sources.video.endings import Tally, missing
from faceq.sources.video.errors import DamagedError
from faceq.sources.video.file import WatchedFile
from faceq.sources.video.picture import VideoFrame
from faceq.sources.video.reading import display_matrix, opened
from faceq.sources.video.shots import Finder
from faceq.sources.video.streams import choose

COMPARED = 16
"""Number of frames that both decoders of a cut return, at least."""

_FORMATS = ("mp4", "matroska")
"""Containers with an index of their key frames, by a part of their names."""

_CODECS = {"h264", "hevc", "mpeg4", "vp9", "av1"}

_MARGIN_S = 2
"""Seconds by which to seek before a cut: some containers seek by decoding times, which are earlier."""

_NAL_START = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)
_IDR = 5


class UndividedError(FaceqError):
    """A video that one task must read as a whole; the message says why."""


@dataclass(frozen=True)
class Piece:
    """What decoding a piece of a video has shown.

    begin: its first coded frame. end: the first one of the next piece. None: there is none. frames: number of
    frames; first, last: timestamps of the first and the last one. looks: what the frames have in common.
    head, beyond: timestamps and checksums of the first frames of this piece, and of the next one. listed:
    number of coded frames of the whole video, if the container states it. unit, rounding: of `Clock`. index:
    of its first frame in the video, if all frames last equally long. marks: of its frames and those after it,
    by their position, as far as they do not depend on frames that were not decoded (see `Finder`).
    """

    begin: Key | None
    end: Key | None
    frames: int
    first: int
    last: int
    looks: tuple[Any, ...]
    head: list[tuple[int, int]]
    beyond: list[tuple[int, int]]
    listed: int | None
    unit: Fraction
    rounding: Fraction
    index: int
    marks: dict[int, Any]


def look(file: BinaryIO, number: int, pieces: int, memory: int, finder: Finder | None = None) -> Piece:
    """Decode a piece of a video, to find out whether the video can be divided.

    Args:
        file: the video, seekable.
        number: index of the piece. It begins at the first key frame after this share of the duration.
        pieces: number of pieces.
        memory: maximum bytes of the video's index.
        finder: marks the frames, so that `spans` can find shots; None: without shots.

    Raises:
        UndividedError: the video cannot be divided.
        DamagedError: it is not a video, or damaged.
        Exception: an error that `file` raised.
    """
    watched = WatchedFile(file, memory)
    with opened(watched) as container:
        stream, _ = choose(container, watched)
        _check_format(container, stream)
        piece = _Look(container, stream, watched, number, pieces).piece(finder)
    if watched.fault is not None:
        raise watched.fault
    if watched.second is not None:
        raise UndividedError("several files were joined in it")
    return piece


def _check_format(container: av.container.InputContainer, stream: VideoStream) -> None:
    name, codec = container.format.name, stream.codec_context.codec.canonical_name
    if not any(known in name for known in _FORMATS) or codec not in _CODECS:
        raise UndividedError(f"videos of this kind are not divided ({name.split(',')[0]}, {codec})")
    if "mp4" in name and stream.frames != len(stream.index_entries):
        raise UndividedError("it is a fragmented MP4, or its index is damaged")
    if stream.start_time is None or not _duration(container, stream):
        raise UndividedError("its duration is not known")


def _duration(container: av.container.InputContainer, stream: VideoStream) -> int:
    """In units of the stream; 0 if it is unknown."""
    if stream.duration:
        return int(stream.duration)
    unit = stream.time_base or Fraction(1)
    return int(Fraction(container.duration or 0, av.time_base) / unit)


class _Look:
    """Decodes one piece and some frames after it."""

    def __init__(
        self,
        container: av.container.InputContainer,
        stream: VideoStream,
        file: WatchedFile,
        number: int,
        pieces: int,
    ):
        self._container, self._stream, self._file = container, stream, file
        self._is_first, self._is_last = number == 0, number == pieces - 1
        start, length = int(stream.start_time or 0), _duration(container, stream)
        self._from, self._to = (start + length * each // pieces for each in (number, number + 1))
        self._begin: Key | None = None
        self._end: Key | None = None
        self._stamps: list[int] = []  # of coded frames
        self._shown: list[int] = []  # timestamps of decoded frames
        self._sums: list[tuple[int, int]] = []
        self._beyond: list[tuple[int, int]] = []
        self._looks: set[tuple[Any, ...]] = set()
        self._matrix = b""
        self._tally, self._clock = Tally(), Clock(container, stream)
        self._is_cut_off = False  # not all frames after the piece were decoded

    def piece(self, finder: Finder | None) -> Piece:
        decoding = Decoding(self._container, self._stream, self._file, self._tally, self._clock)
        if not self._is_first:
            _seek(self._container, self._stream, self._from)
        beyond = max(COMPARED, finder.beyond if finder else 0)
        frames = self._noted(decoding.frames(self._selected(decoding.packets())), beyond)
        marks = self._marks(frames, finder) if finder else {}
        deque(frames, maxlen=0)
        self._check()
        shown, sums = self._shown, self._sums
        return Piece(
            begin=self._begin,
            end=self._end,
            frames=len(shown),
            first=shown[0] if shown else 0,
            last=shown[-1] if shown else 0,
            looks=(*next(iter(self._looks), ()), self._matrix),
            head=[*sums, *self._beyond][:COMPARED],
            beyond=self._beyond,
            listed=self._stream.frames or None,
            unit=self._clock.unit,
            rounding=self._clock.rounding,
            index=self._index(shown[0]) if shown else 0,
            marks=marks,
        )

    def _marks(self, frames: Iterator[av.VideoFrame], finder: Finder) -> dict[int, Any]:
        """The marks of the frames that do not depend on others."""
        start = next(frames, None)
        if start is None:
            return {}
        first = self._index(start.pts or 0)
        pictures = map(finder.shrinking(), itertools.chain([start], frames))
        marks = list(finder.marks(pictures, first))
        return {at: marks[at] for at in finder.certain(first, len(marks), self._is_cut_off)}

    def _index(self, stamp: int) -> int:
        """The index of the first frame of the piece, from its timestamp, if all frames last equally long."""
        if self._is_first:
            return 0
        rate = self._stream.average_rate or Fraction(25)
        index = (stamp - int(self._stream.start_time or 0)) * self._clock.unit * rate
        return max(1, round(index))

    def _noted(
        self, frames: Iterable[tuple[av.VideoFrame, Fraction]], beyond: int
    ) -> Iterator[av.VideoFrame]:
        """The frames of the piece and the first ones after it; what they show is noted on the way."""
        count = 0  # of frames after the piece
        for frame, aspect in frames:
            if frame.is_corrupt or frame.interlaced_frame or frame.pts is None:
                raise UndividedError("it has interlaced or damaged frames, or frames without a time")
            self._matrix = self._matrix if self._looks else _matrix(frame)
            self._looks.add(_look(frame, aspect))
            is_beyond = self._end is not None and frame.pts >= self._end.pts
            sums = self._beyond if is_beyond else self._sums
            if len(sums) < COMPARED:
                sums.append((frame.pts, _checksum(frame)))
            if not is_beyond:
                self._shown.append(frame.pts)
            yield frame
            count += is_beyond
            if count == beyond:
                self._is_cut_off = True
                return

    def _selected(self, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
        """The coded frames of the piece and those after it."""
        for packet in packets:
            key = _key(packet)
            if key is None:
                raise UndividedError("it has coded frames without a time")
            if self._begin is None and (self._is_first or self._is_cut(packet, key, self._from)):
                self._begin = key
            if self._begin is None:
                continue
            if self._end is None and not self._is_last and self._is_cut(packet, key, self._to):
                self._end = key
            if self._end is None:
                self._stamps.append(key.pts)
            elif key.pts < self._end.pts:
                raise UndividedError("frames that are shown before a key frame are stored after it")
            yield packet

    def _is_cut(self, packet: av.Packet, key: Key, least: int) -> bool:
        """Whether a piece begins here: at the first key frame at or after a time."""
        if not packet.is_keyframe or key.pts < least:
            return False
        if self._stream.codec_context.name == "h264" and not _is_idr(packet, self._stream):
            raise UndividedError("frames after a key frame may depend on frames before it")
        return True

    def _check(self) -> None:
        if self._shown != sorted(set(self._stamps)) or len(self._shown) != len(self._stamps):
            raise UndividedError("some coded frames do not give one frame each, in the order of their times")
        if len(self._looks) > 1:
            raise UndividedError("the size or the format of its frames changes")
        tally = self._tally
        if tally.refused or tally.empty or tally.encrypted or tally.stopped:
            raise DamagedError("damaged")
        if self._end is None:
            # `Tally` counts this piece only; `spans` compares the number of frames.
            tally.coded = max(tally.coded, self._stream.frames)
            self._file.boxes.look(self._file.size())
            lacking = missing(self._container, self._stream, self._file, tally, self._clock)
            if lacking:
                raise DamagedError(lacking)


def spans(pieces: Sequence[Piece], finder: Finder | None = None) -> list[Span]:
    """The spans of a video, in order, from what `look` has found in all its pieces, by the same `finder`.

    Raises:
        UndividedError: the pieces do not fit together.
    """
    for piece, after in itertools.pairwise(pieces):
        if piece.end != after.begin or piece.beyond != after.head:
            raise UndividedError("a decoder that starts at a key frame returns other frames")
    used = [piece for piece in pieces if piece.frames]
    if any(piece.looks != used[0].looks for piece in used):
        raise UndividedError("the size or the format of its frames changes")
    count = sum(piece.frames for piece in used)
    if used and used[0].listed not in (None, count):
        raise UndividedError("its number of frames differs from that in its index")
    shots = list(itertools.accumulate(map(int, finder.begin_shots(_joined(used, finder))))) if finder else []
    found: list[Span] = []
    index = 0
    previous = None
    for piece in used:
        assert piece.begin is not None
        end = None if piece.end is None else piece.end.pts
        own = range(index, index + piece.frames)
        shot = shots[index] if shots else None
        cuts = tuple(i for i in own[1:] if shots[i] > shots[i - 1]) if shots else ()
        found.append(Span(piece.begin, end, index, piece.frames, used[0].first, previous, shot, cuts))
        index += piece.frames
        previous = (piece.last - used[0].first) * piece.unit + piece.rounding
    return found


def _joined(pieces: Sequence[Piece], finder: Finder) -> Iterator[Any]:
    """The marks of all frames of a video. Those of the first frames of a piece depend on frames before them,
    so they come from a piece before it.

    Raises UndividedError if a piece did not know which frame of the video is its first one.
    """
    marks: dict[int, Any] = {}
    index = 0
    for piece in pieces:
        if finder.needs_index and piece.index != index:
            raise UndividedError("its frames do not all last equally long, which this `video.shots` needs")
        marks |= {index + at: mark for at, mark in piece.marks.items()}
        index += piece.frames
    return (marks[at] for at in range(index))


def read_span(
    file: BinaryIO, span: Span, memory: int, note: Callable[[str], None] = lambda text: None
) -> Iterator[VideoFrame]:
    """Yield the frames of a span, as `read` yields them for the whole video. The first span has its notes.

    Raises:
        DamagedError: after the last frame, if there are more or fewer frames than `look` has found.
        Exception: an error that `file` raised, after the frames that were read before it.
    """
    watched = WatchedFile(file, memory)
    count = 0
    with opened(watched) as container:
        stream, others = choose(container, watched)
        if others and span.previous is None:
            note(others)
        clock = Clock(container, stream)
        decoding = Decoding(container, stream, watched, Tally(), clock)
        if span.previous is not None:
            _seek(container, stream, span.begin.pts)
        packets = itertools.dropwhile(lambda packet: _key(packet) != span.begin, decoding.packets())
        matrix = None
        for frame, aspect in decoding.frames(packets):
            if frame.pts is None or (span.end is not None and frame.pts >= span.end):
                break
            matrix = matrix if count else display_matrix(frame)
            time = (frame.pts - span.origin) * clock.unit
            index = span.index + count
            shot = None if span.shot is None else span.shot + bisect.bisect_right(span.cuts, index)
            yield VideoFrame(index, time, clock.rounding, frame.is_corrupt, frame, aspect, matrix, shot)
            count += 1
    if watched.fault is not None:
        raise watched.fault
    if count != span.frames:
        raise DamagedError(f"{count} frames were decoded instead of {span.frames}: run the job again")


def _seek(container: av.container.InputContainer, stream: VideoStream, stamp: int) -> None:
    """Go to a key frame before a timestamp, or to the first one."""
    margin = int(_MARGIN_S / (stream.time_base or 1))
    container.seek(max(int(stream.start_time or 0), stamp - margin), stream=stream)


def _key(packet: av.Packet) -> Key | None:
    return None if packet.pts is None else Key(packet.pts, packet.size, packet.pos or 0)


def _is_idr(packet: av.Packet, stream: VideoStream) -> bool:
    """Whether an H.264 key frame is an IDR frame: no later frame refers to frames before it."""
    data, header = bytes(packet), stream.codec_context.extradata or b""
    if header[:1] != b"\1":
        return any(found[1][0] & 31 == _IDR for found in _NAL_START.finditer(data))
    width, at = (header[4] & 3) + 1, 0
    while at + width < len(data):
        if data[at + width] & 31 == _IDR:
            return True
        at += width + int.from_bytes(data[at : at + width], "big")
    return False


def _look(frame: av.VideoFrame, aspect: Fraction) -> tuple[Any, ...]:
    """What must be the same in all frames of a divided video."""
    kind = frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range
    return (*kind, aspect.numerator, aspect.denominator)


def _matrix(frame: av.VideoFrame) -> bytes:
    found = display_matrix(frame)
    return b"" if found is None else found.tobytes()


def _checksum(frame: av.VideoFrame) -> int:
    """Of the pixels. The ends of lines hold no pixels and may differ."""
    total = 0
    for plane in frame.planes:
        lines = memoryview(plane).cast("B")
        for line in range(plane.height):
            start = line * plane.line_size
            total = zlib.crc32(lines[start : start + plane.width], total)
    return total
