"""Frames of a video, decoded one after the other, and as the lossless pictures in which they travel.

FFmpeg does the work, through PyAV, with one thread: tasks own parts of CPUs, and the same video gives
the same frames everywhere. A few decoded frames are in memory at a time, however long the video is.
"""

import contextlib
import io
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import av
import av.container
import numpy as np
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from faceq.config import Video

FORMATS = "mov,matroska,avi"
"""FFmpeg's demuxers that are let near a file, whatever its ending: MP4 and MOV, Matroska and WebM, AVI.
Among the others are playlists, which open the files and addresses that they name."""

MAX_PIXELS = 178_956_970
"""A video of larger frames is refused before one is decoded: Pillow, which reads them next, opens none."""

_MATROSKA_TICK = Fraction(1, 1000)
"""Matroska's unit of time, seconds, whatever the frame rate. (A coarser unit is a frame's own length.)"""


class DamagedError(Exception):
    """A video of which frames are missing. The message says which and why, for people."""


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One decoded frame.

    index: its place among all frames that could be decoded, in the order in which they are shown, from 0.
    time: seconds after frame 0. rounding: by how much (seconds) the file may have rounded the time.
    damaged: the decoder found errors in it and patched them over. matrix: the video's display matrix.
    """

    index: int
    time: Fraction
    rounding: Fraction
    damaged: bool
    decoded: av.VideoFrame
    matrix: np.ndarray | None

    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, turned and mirrored as the video asks players to do.

        Pixels that the video declares not to be square are not stretched.
        """
        rgb = self.decoded.reformat(format="rgb24", threads=1).to_ndarray()
        return rgb if self.matrix is None else upright(rgb, self.matrix)

    def encode(self) -> bytes:
        """The pixels as a PNG, without loss.

        Measured on a 3840x2160 frame out of an H.264 video, one core: 0.18 s and 6.2 MB, and 0.13 s to
        decode; by Pillow's encoder 0.40 s and 6.6 MB; lossless WebP 0.44 s and 4.1 MB; not compressed
        0.03 s and 24.9 MB, and find_face gathers 32 frames for a task.
        """
        pixels = np.ascontiguousarray(self.pixels())
        encoder = av.CodecContext.create("png", "w")
        encoder.height, encoder.width = pixels.shape[:2]
        encoder.pix_fmt = "rgb24"
        encoder.time_base = Fraction(1)
        encoder.thread_count = 1
        encoder.options = {"compression_level": "1", "pred": "up"}
        # Made from bare pixels, lest the display matrix come along as an orientation of the PNG.
        return b"".join(bytes(packet) for packet in encoder.encode(av.VideoFrame.from_numpy_buffer(pixels)))


def upright(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The picture as a display matrix shows it.

    Args:
        pixels: (H, W, 3).
        matrix: (3, 3) of fixed-point numbers; a row vector (x, y, 1) times it is where the point (x, y)
            goes. Quarter turns and mirrorings are done; other angles, which players do not know
            either, go to the nearest of them.

    Returns:
        A view of the pixels, (H, W, 3), or (W, H, 3) after a quarter turn.
    """
    (a, b), (c, d) = matrix[:2, :2].astype(np.int64)
    if abs(b) > abs(a):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


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


def read(file: BinaryIO) -> Iterator[VideoFrame]:
    """All frames of the first video stream in a file that can be decoded, in the order they are shown.

    Coded frames that the decoder refuses are passed over, as players do.

    Args:
        file: seekable, open for reading.

    Raises:
        DamagedError: after the last frame, if some are missing (refused, or the file is cut off); at
            once, if it is no video that can be decoded.
        Exception: what `file` itself raised, after the frames that were read before.
    """
    watched = _Watched(file)
    try:
        yield from _read(watched)
    except DamagedError as error:
        # What the storage did not give looks to FFmpeg like a file that is cut off.
        raise watched.fault or error from None
    if watched.fault is not None:
        raise watched.fault


class _Watched:
    """A file as FFmpeg reads it: what the storage raises is kept, and FFmpeg sees the file end there.

    Raised through FFmpeg it could get lost: some demuxers take an error for the end of the video.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self.fault: Exception | None = None

    def read(self, size: int) -> bytes:
        if self.fault is None:
            try:
                return self._file.read(size)
            except Exception as error:
                self.fault = error
        return b""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _read(file: _Watched) -> Iterator[VideoFrame]:
    with _opened(file) as container:
        stream = _video_stream(container)
        tally = _Tally()
        clock = _Clock(container, stream)
        matrix = None
        for index, decoded in enumerate(_decoded(container, stream, file, tally)):
            # Asked of the first frame alone: a frame whose side data was looked at is in a reference
            # cycle, and its pixels (12 MB at 4K) would stay until the garbage collector comes by.
            matrix = _display_matrix(decoded) if index == 0 else matrix
            time = clock.time(decoded)
            yield VideoFrame(index, time, clock.rounding, decoded.is_corrupt, decoded, matrix)
        missing = _missing(container, stream, tally, clock)
    if missing:
        raise DamagedError(missing)


@contextlib.contextmanager
def _opened(file: _Watched) -> Iterator[av.container.InputContainer]:
    try:
        container = av.open(
            file, "r", container_options={"format_whitelist": FORMATS}, metadata_errors="replace"
        )
    except (av.FFmpegError, UnicodeError):
        raise DamagedError(_not_a_video(file)) from None
    with container:
        # A cut-off MP4 may still open, with stray bytes for a stream of data.
        if all(stream.type == "data" for stream in container.streams):
            raise DamagedError(_not_a_video(file))
        yield container


def _not_a_video(file: _Watched) -> str:
    file.seek(0)
    head = file.read(12)
    if not head:
        return "the file is empty (0 bytes)"
    if head[4:8] == b"ftyp":
        return (
            "an MP4 or MOV file without its index (moov): it is cut off, or its writer was stopped: "
            "copy it again, or repair it with the program that made it"
        )
    return f"no video in MP4, MOV, Matroska, WebM or AVI, or cut off in its header (starts with {head[:8]!r})"


def _video_stream(container: av.container.InputContainer) -> VideoStream:
    """The first video stream that is no cover picture, with its decoder set up; others are not read."""
    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    found = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not found:
        kinds = ", ".join(sorted({stream.type for stream in container.streams}))
        raise DamagedError(f"no video stream in it, only: {kinds}")
    chosen, decoder = found[0], found[0].codec_context
    if decoder is None:
        raise DamagedError(
            "no decoder for its video codec: convert it, for example to H.264; copy it again if it is cut off"
        )
    if decoder.width * decoder.height > MAX_PIXELS:
        raise DamagedError(
            f"{decoder.width}x{decoder.height} pixels are more than the {MAX_PIXELS} that a frame may have"
        )
    decoder.thread_count = 1
    decoder.thread_type = "NONE"
    decoder.options = {"max_pixels": str(MAX_PIXELS)}  # frames may grow on the way
    for stream in container.streams:
        if stream is not chosen:
            stream.discard = Discard.all
    return chosen


def _display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    found: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if found is None else np.frombuffer(found, np.int32).reshape(3, 3).copy()


@dataclass
class _Tally:
    """What was met on the way: coded frames, those refused, the time (time base) of the first of them, the
    end of the last coded frame, and why reading stopped before the end, if it did."""

    coded: int = 0
    refused: int = 0
    first_refused: int | None = None
    end: int = 0
    stopped: str = ""


def _decoded(
    container: av.container.InputContainer, stream: VideoStream, file: _Watched, tally: _Tally
) -> Iterator[av.VideoFrame]:
    for packet in itertools.chain(_packets(container, stream, tally), [None]):
        if packet is not None and file.fault is not None:
            continue  # a part of a packet
        try:
            frames = stream.codec_context.decode(packet)
        except av.FFmpegError:
            tally.refused += packet is not None
            if tally.first_refused is None and packet is not None:
                tally.first_refused = _stamp(packet)
            continue
        yield from frames


def _packets(
    container: av.container.InputContainer, stream: VideoStream, tally: _Tally
) -> Iterator[av.Packet]:
    try:
        for packet in container.demux(stream):
            stamp = _stamp(packet)
            if not packet.size and stamp is None:
                continue  # PyAV's mark for the end
            tally.coded += 1
            tally.end = max(tally.end, (stamp or 0) + (packet.duration or 0))
            # An AVI says by an empty packet that a frame repeats; a decoder would take it for the end.
            if packet.size:
                yield packet
    except av.FFmpegError as error:
        tally.stopped = error.strerror or type(error).__name__


def _stamp(packet: av.Packet) -> int | None:
    return packet.dts if packet.pts is None else packet.pts


class _Clock:
    """Times of frames, in the order in which they are shown, after the first one.

    That one is at 0 whatever the file's own time of it: edited and streamed videos start anywhere.
    """

    def __init__(self, container: av.container.InputContainer, stream: VideoStream):
        self.unit = stream.time_base or Fraction(1, 25)
        self.rounding = min(self.unit, _MATROSKA_TICK) / 2
        # An AVI has one time per coded frame, in coded order: where frames are reordered, the decoder's
        # `pts` are those of others. `dts` counts on, late by the decoder's delay for all frames alike.
        self._stamps = "dts" if container.format.name == "avi" else "pts"
        self._interval = max(1, round(1 / (stream.average_rate or 25) / self.unit))
        self._start: int | None = None
        self._last = -self._interval

    def time(self, frame: av.VideoFrame) -> Fraction:
        stamp = getattr(frame, self._stamps)
        if stamp is None:
            stamp = self._last + (frame.duration or self._interval)
        self._last = stamp
        if self._start is None:
            self._start = stamp
        return (stamp - self._start) * self.unit

    def place(self, stamp: int | None) -> str:
        """A coded frame's time, for people."""
        return f"{float(max(0, (stamp or 0) - (self._start or 0)) * self.unit):.2f} s"


def _missing(
    container: av.container.InputContainer, stream: VideoStream, tally: _Tally, clock: _Clock
) -> str:
    """What of the video gave no frames, for people; empty if nothing is known to be missing."""
    found = []
    end = clock.place(tally.end)
    if tally.stopped:
        found.append(f"broken at {end}: {tally.stopped}: what comes after it is not read")
    else:
        short = _short_of(container, stream, tally, clock)
        if short:
            found.append(f"cut off at {end}: {short}: copy the file again")
    if tally.refused:
        where = clock.place(tally.first_refused)
        found.append(
            f"damaged: {tally.refused} of {tally.coded} coded frames cannot be decoded, the first at {where}"
        )
    if not tally.coded and not found:
        found.append("no frames in its video stream")
    return "; ".join(found)


def _short_of(
    container: av.container.InputContainer, stream: VideoStream, tally: _Tally, clock: _Clock
) -> str:
    """What the file says of its length, if it ended earlier: demuxers end quietly where a file is cut."""
    if "mp4" in container.format.name:
        listed = len(stream.index_entries)
        return f"{tally.coded} of {listed} coded frames are there" if tally.coded < listed else ""
    rate = stream.average_rate or 25
    if container.format.name == "avi":
        claimed = Fraction(stream.frames) / rate
    else:
        claimed = _tagged_duration(stream)
        if not claimed and len(container.streams) == 1:
            claimed = Fraction(container.duration or 0, av.time_base)
    # The last frames' durations are guesses where a file does not state them.
    allowance = max(Fraction(1, 10), 3 / Fraction(rate))
    return f"it says it lasts {float(claimed):.2f} s" if tally.end * clock.unit + allowance < claimed else ""


def _tagged_duration(stream: VideoStream) -> Fraction:
    """Seconds that a Matroska file's tags give the stream; 0 without them."""
    text = stream.metadata.get("DURATION", "")
    found = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", text.strip())
    return int(found[1]) * 3600 + int(found[2]) * 60 + Fraction(found[3]) if found else Fraction(0)
