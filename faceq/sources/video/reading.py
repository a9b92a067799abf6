"""Read the frames of a video file."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any, BinaryIO, Protocol

import av
import av.container
import numpy as np

from faceq.config import Limits, Video
from faceq.sources.video.clock import Clock
from faceq.sources.video.decoding import Decoding
from faceq.sources.video.endings import Tally, missing
from faceq.sources.video.errors import DamagedError
from faceq.sources.video.fields import Deinterlacer
from faceq.sources.video.file import WatchedFile
from faceq.sources.video.kinds import not_a_video
from faceq.sources.video.picture import VideoFrame
from faceq.sources.video.streams import choose

FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg"
"""The FFmpeg demuxers that may be used, whatever the file's extension. Others are excluded because they
include playlists, which open the files and URLs that they contain."""

_OPENING = {
    "format_whitelist": FORMATS,
    "protocol_whitelist": "none",  # a file must not make FFmpeg open other files
}


class Timed(Protocol):
    """A frame of a video or an animation; see VideoFrame for the meaning."""

    @property
    def index(self) -> int: ...

    @property
    def time(self) -> Fraction: ...

    @property
    def rounding(self) -> Fraction: ...


def sampling(settings: Video, previous: Fraction | None = None) -> Callable[[Timed], bool]:
    """A function that says whether the sampling settings select a frame. Call it for all frames of a video,
    in order. The selection depends only on the video.

    With `every` k: frames 0, k, 2k, … With `fps`: for each tick 0, 1/fps, 2/fps, … seconds, the first frame
    at or after it; no frame is selected twice. A time that the file may have rounded down from a tick counts
    as being at the tick.

    `previous`: the time of the frame before the first one, rounded up as above; None at the start of a video.
    """
    if settings.fps is None:
        step = settings.every or 1
        return lambda frame: frame.index % step == 0
    fps = Fraction(str(settings.fps))  # the decimal number as written: 0.3 is 3/10
    # Times do not decrease, so the last frame that was selected has the same tick as the last frame.
    tick = 0 if previous is None else math.floor(previous * fps) + 1

    def is_selected(frame: Timed) -> bool:
        nonlocal tick
        reached = (frame.time + frame.rounding) * fps
        if reached < tick:
            return False
        tick = math.floor(reached) + 1
        return True

    return is_selected


def read(
    file: BinaryIO,
    memory: int = Limits().source_memory,
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[VideoFrame]:
    """Yield all frames of a file's video stream that can be decoded, in display order.

    If several video files were concatenated, the frames of all of them are read, with continuous indices and
    times. Coded frames that the decoder refuses are skipped, as in players.

    Args:
        file: seekable, open for reading.
        memory: maximum bytes of the video's index.
        note: called with remarks about a video that is not damaged.

    Raises:
        DamagedError: after the last frame, if some are missing (refused by the decoder, or the file is cut
            off); immediately, if the file is not a video that can be decoded.
        Exception: an error that `file` raised, after the frames that were read before it.
    """
    faults = []
    index, time, start = 0, Fraction(0), 0
    while True:
        part = _Part(WatchedFile(file, memory, start), index, time)
        try:
            yield from part.frames(note)
        except DamagedError as error:
            where = f"in the file that is appended at byte {start}: " if start else ""
            faults.append(f"{where}{error}")
        if part.file.second is None:
            break
        index, time, start = part.index, part.time, start + part.file.second
    if faults:
        raise DamagedError("; ".join(faults))


class _Part:
    """A video file, or one of several that were concatenated.

    index, time: index and time of its first frame; after `frames`, of the frame that follows its last one.
    """

    def __init__(self, file: WatchedFile, index: int, time: Fraction):
        self.file = file
        self.index = index
        self.time = time

    def frames(self, note: Callable[[str], None]) -> Iterator[VideoFrame]:
        """Yield its frames. Raises the errors of `read`."""
        try:
            yield from self._frames(note)
        except DamagedError:
            # After a storage error the file looks cut off to FFmpeg: raise the storage error instead.
            if self.file.fault is None:
                raise
        self.file.raise_fault()

    def _frames(self, note: Callable[[str], None]) -> Iterator[VideoFrame]:
        with opened(self.file) as container:
            stream, others = choose(container, self.file)
            if others:
                note(others)
            tally = Tally()
            clock = Clock(container, stream, self.time)
            decoding = Decoding(container, stream, self.file, tally, clock)
            decoded = decoding.frames(decoding.packets())
            for frame in Deinterlacer(stream.codec_context).frames(_timed(decoded, clock, self.index)):
                yield frame
                self.index = frame.index + 1
            self.time = clock.next
            lacking = missing(container, stream, self.file, tally, clock)
        if lacking:
            raise DamagedError(lacking)


@contextlib.contextmanager
def opened(file: WatchedFile) -> Iterator[av.container.InputContainer]:
    """The file as FFmpeg opens it. Raises DamagedError if it is not a video."""
    try:
        container = av.open(file, "r", container_options=_OPENING, metadata_errors="replace")
    except (av.FFmpegError, UnicodeError):
        raise DamagedError(not_a_video(file.peek(0, 4096))) from None
    with container:
        # A cut-off MP4 may still open, with stray bytes interpreted as a data stream.
        if all(stream.type == "data" for stream in container.streams):
            raise DamagedError(not_a_video(file.peek(0, 4096)))
        yield container


def _timed(
    decoded: Iterable[tuple[av.VideoFrame, Fraction]], clock: Clock, first: int
) -> Iterator[VideoFrame]:
    matrix = None
    for index, (frame, aspect) in enumerate(decoded, first):
        # Read the side data of the first frame only: reading them creates a reference cycle, which keeps the
        # frame's pixels (12 MB at 4K) in memory until the garbage collector runs.
        matrix = display_matrix(frame) if index == first else matrix
        time = clock.time(frame)
        yield VideoFrame(
            index, time, clock.rounding, frame.is_corrupt, frame, aspect, matrix, origin=clock.origin
        )


def display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """(3, 3) int32: how to turn or mirror the frame, if the video says so."""
    found: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if found is None else np.frombuffer(found, np.int32).reshape(3, 3).copy()
