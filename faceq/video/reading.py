"""From a video's file to its frames."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import av
import av.container
import numpy as np

from faceq.config import Limits, Video
from faceq.video.clock import Clock
from faceq.video.decoding import Decoding
from faceq.video.endings import Tally, missing
from faceq.video.errors import DamagedError
from faceq.video.fields import Deinterlacer
from faceq.video.file import WatchedFile
from faceq.video.kinds import not_a_video
from faceq.video.picture import VideoFrame
from faceq.video.streams import choose

FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg"
"""FFmpeg's demuxers that are let near a file, whatever its ending. Among the others are playlists, which
open the files and addresses that they name."""

_OPENING = {
    "format_whitelist": FORMATS,
    "protocol_whitelist": "none",  # a file that names another one does not get it
    "use_odml": "0",  # an AVI's index of indices could list the same frames again and again
}


def sample(frames: Iterable[VideoFrame], settings: Video) -> Iterator[VideoFrame]:
    """Those of a video's frames that the settings ask for; which ones, the video alone decides.

    With `every` k: frames 0, k, 2k, … With `fps`: for each tick 0, 1/fps, 2/fps, … seconds the first frame
    at or after it, but no frame twice. A time that the file has rounded down from a tick is at the tick.
    """
    if settings.fps is None:
        step = settings.every or 1
        yield from (frame for frame in frames if frame.index % step == 0)
        return
    fps = Fraction(str(settings.fps))  # as it was written: 0.3 is 3/10
    tick = 0
    for frame in frames:
        reached = (frame.time + frame.rounding) * fps
        if reached >= tick:
            yield frame
            tick = math.floor(reached) + 1


def read(
    file: BinaryIO,
    memory: int = Limits().source_memory,
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[VideoFrame]:
    """All frames of a file's video stream that can be decoded, in the order they are shown.

    Coded frames that the decoder refuses are passed over, as players do.

    Args:
        file: seekable, open for reading.
        memory: bytes that the video's index may take.
        note: told what a person should know of the video, though nothing in it is broken.

    Raises:
        DamagedError: after the last frame, if some are missing (refused, or the file is cut off); at
            once, if it is no video that can be decoded.
        Exception: what `file` itself raised, after the frames that were read before.
    """
    watched = WatchedFile(file, memory)
    try:
        yield from _read(watched, note)
    except DamagedError as error:
        # What the storage did not give looks to FFmpeg like a file that is cut off.
        raise watched.fault or error from None
    if watched.fault is not None:
        raise watched.fault


def _read(file: WatchedFile, note: Callable[[str], None]) -> Iterator[VideoFrame]:
    with _opened(file) as container:
        stream, others = choose(container, file)
        if others:
            note(others)
        tally = Tally()
        clock = Clock(container, stream)
        decoded = Decoding(container, stream, file, tally, clock).frames()
        yield from Deinterlacer(stream.codec_context).frames(_timed(decoded, clock))
        lacking = missing(container, stream, file, tally, clock)
    if lacking:
        raise DamagedError(lacking)


@contextlib.contextmanager
def _opened(file: WatchedFile) -> Iterator[av.container.InputContainer]:
    try:
        container = av.open(file, "r", container_options=_OPENING, metadata_errors="replace")
    except (av.FFmpegError, UnicodeError):
        raise DamagedError(not_a_video(file.peek(0, 4096))) from None
    with container:
        # A cut-off MP4 may still open, with stray bytes for a stream of data.
        if all(stream.type == "data" for stream in container.streams):
            raise DamagedError(not_a_video(file.peek(0, 4096)))
        yield container


def _timed(decoded: Iterable[tuple[av.VideoFrame, Fraction]], clock: Clock) -> Iterator[VideoFrame]:
    matrix = None
    for index, (frame, aspect) in enumerate(decoded):
        # Asked of the first frame alone: a frame whose side data was looked at is in a reference
        # cycle, and its pixels (12 MB at 4K) would stay until the garbage collector comes by.
        matrix = _display_matrix(frame) if index == 0 else matrix
        yield VideoFrame(index, clock.time(frame), clock.rounding, frame.is_corrupt, frame, aspect, matrix)


def _display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    found: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if found is None else np.frombuffer(found, np.int32).reshape(3, 3).copy()
