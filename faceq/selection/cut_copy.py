"""Cut clips by copying coded frames: fast and without loss, but only from a key frame on."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import BinaryIO

import av
import av.container
from av.audio.stream import AudioStream
from av.stream import Discard
from av.video.stream import VideoStream

from faceq.messages.one_line import one_line
from faceq.selection.clip_file import write_note
from faceq.selection.cut_clip import TOLERANCE, UNSEEN_INTERVAL, Clip, Cut, CutError, Done, StoppedError
from faceq.selection.cut_encode import Create
from faceq.sources import video
from faceq.sources.member_files import another_reader
from faceq.sources.video.file import WatchedFile
from faceq.sources.video.reading import opened
from faceq.sources.video.streams import choose

_ENCODE = "use --cut-mode encode"
_CONTAINERS = ("mp4", "matroska")
ENDINGS = ("mp4", "mkv")
"""Endings of the files of copied clips, by preference."""

_FIRST_STEP = 5
"""Seconds by which to seek further back if there was no key frame; more than doubled each time."""

_LEAD = 1
"""Seconds by which to seek further back than needed, because indices are in the order of decoding; and by
which sound may come later in a file than the pictures."""


def copy(
    file: BinaryIO, clips: Sequence[Clip], create: Create, memory: int, stop: threading.Event, done: Done
) -> None:
    """Cut the clips of one video, and report each to `done`.

    A clip begins at the last key frame at or before its start. Frames after its end are in it if others need
    them. Where it begins and ends in fact is reported.

    Args:
        file: the video, seekable.
        clips: the clips.
        create: makes their files.
        memory: maximum bytes of the video's index.
        stop: set when the work is to end early.
        done: called once for each clip.

    Raises:
        StoppedError: the work was stopped.
    """
    with contextlib.ExitStack() as stack:
        source: _Source | Exception
        try:
            source = stack.enter_context(_source(file, memory))
        except Exception as error:
            source = error
        for clip in clips:
            if stop.is_set():
                raise StoppedError("stopped")
            try:
                if isinstance(source, Exception):
                    raise source
                cut = _cut(source, clip, create)
            except Exception as error:
                cut = Cut(clip.clip_id, error=one_line(error))
            done(cut)


class _Source:
    """An opened video. origin: its timestamp of frame 0, in seconds."""

    def __init__(self, container: av.container.InputContainer, file: WatchedFile, origin: Fraction):
        self.container, self.file, self.origin = container, file, origin
        self.video: VideoStream = choose(container, file).stream
        audio = container.streams.best("audio")
        self.audio = audio if isinstance(audio, AudioStream) else None
        if self.audio is not None:
            self.audio.discard = Discard.default
        self.unit = self.video.time_base or Fraction(1, 1000)
        if container.format.name == "avi" and self.video.codec_context.has_b_frames:
            raise CutError(f"an AVI does not state when each frame is shown: {_ENCODE}")

    def packets(self, begin: Fraction, sound: bool = False) -> Iterator[av.Packet]:
        """Yield the packets from a key frame before `begin` (seconds), or the start of the file, on."""
        try:
            self.container.seek(int((begin - _LEAD) / self.unit), stream=self.video)
        except av.FFmpegError:
            raise CutError(
                f"the file has no index, so it can only be read from its start: {_ENCODE}"
            ) from None
        wanted = [self.video, self.audio] if sound and self.audio is not None else [self.video]
        try:
            for packet in self.container.demux(*wanted):
                self.file.raise_fault()
                if not packet.size:
                    continue  # PyAV marks the end with empty packets
                if packet.pts is None:
                    raise CutError(f"the file does not state when each packet is shown: {_ENCODE}")
                yield packet
        except IndexError:
            return  # at the end, PyAV fails if streams were added during demuxing

    def key_frame(self, start: Fraction) -> int:
        """The timestamp of the last key frame at or before `start` (seconds), in units."""
        back = Fraction(0)
        while True:
            found: list[int] = []
            for packet in self.packets(start - back):
                if _is_past(packet, start):
                    break
                if packet.is_keyframe and _shown(packet) * self.unit <= start:
                    found.append(_shown(packet))
            if found:
                return max(found)
            if start - back < self.origin:
                raise CutError(f"there is no key frame before it: {_ENCODE}")
            back = 2 * back + _FIRST_STEP

    def stamps(self, key: int, start: Fraction, end: Fraction) -> dict[int, int]:
        """The frames from a key frame on that are needed for all up to `end`: their timestamps in the order
        of decoding, and when to decode them, in units."""
        coded: list[int] = []
        latest, needed = end, 0
        for packet in self.packets(key * self.unit):
            if _is_past(packet, latest):
                break
            if _shown(packet) < key:
                continue  # before the key frame, or not decodable without what is before it
            coded.append(_shown(packet))
            if coded[-1] * self.unit <= latest:
                needed = len(coded)
                latest = max(end, max(coded) * self.unit)  # leave no gap before a frame that others need
        coded = coded[:needed]
        for time in (start, end):
            nearest = min((abs(stamp * self.unit - time) for stamp in coded), default=None)
            if nearest is None or nearest > TOLERANCE:
                raise CutError(
                    "the video has changed since it was scored, or its clock restarts: no frame is at "
                    f"{float(time - self.origin):.3f} s: score it again, or {_ENCODE}"
                )
        # Matroska does not store when to decode frames, but each must be decoded before it is shown.
        ordered = sorted(coded)
        delay = max(late - stamp for late, stamp in zip(ordered, coded, strict=True))
        return {stamp: late - delay for late, stamp in zip(ordered, coded, strict=True)}


def _shown(packet: av.Packet) -> int:
    assert packet.pts is not None
    return packet.pts


def _is_past(packet: av.Packet, time: Fraction) -> bool:
    """Whether this packet and all that follow are shown after a time, in seconds."""
    return packet.dts is not None and packet.dts * packet.time_base > time


@contextlib.contextmanager
def _source(file: BinaryIO, memory: int) -> Iterator[_Source]:
    first = next(video.read(another_reader(file), memory), None)
    if first is None or first.origin is None:
        raise CutError(f"the file does not state when each frame is shown: {_ENCODE}")
    watched = WatchedFile(another_reader(file), memory)
    with opened(watched) as container:
        yield _Source(container, watched, first.origin)


def _cut(source: _Source, clip: Clip, create: Create) -> Cut:
    start, end = (_nearest(source, time) for time in (clip.start_s, clip.end_s))
    key = source.key_frame(start)
    stamps = source.stamps(key, start, end)
    begins, ends = (float(stamp * source.unit - source.origin) for stamp in (key, max(stamps)))
    fault = ""
    for ending, container in zip(ENDINGS, _CONTAINERS, strict=True):
        name = f"{clip.clip_id}.{ending}"
        try:
            with create(name) as target, av.open(target, "w", container) as output:
                write_note(output, begins, ends)
                _write(source, output, stamps, clip.interval or UNSEEN_INTERVAL)
            return Cut(clip.clip_id, name, begins, ends)
        except _UnsupportedError as error:
            fault = str(error)
    raise CutError(f"{fault}: {_ENCODE}")


def _nearest(source: _Source, time: float) -> Fraction:
    """The timestamp of a time in the video, in seconds, as the file rounds it."""
    return round((source.origin + Fraction(time)) / source.unit) * source.unit


class _UnsupportedError(CutError):
    """The container does not support the codec."""


def _write(
    source: _Source, output: av.container.OutputContainer, stamps: dict[int, int], interval: Fraction
) -> None:
    streams = [stream for stream in (source.video, source.audio) if stream is not None]
    try:
        copies = {s.index: output.add_stream_from_template(s, opaque=True) for s in streams}
        output.start_encoding()
    except (ValueError, av.FFmpegError) as error:
        raise _UnsupportedError(f"neither MP4 nor Matroska can hold it ({one_line(error)})") from None
    begin, end = min(stamps) * source.unit, max(stamps) * source.unit + interval
    for packet in source.packets(begin, sound=True):
        if _is_past(packet, end + _LEAD):
            return
        stamp, shift = _shown(packet), round(begin / packet.time_base)
        if packet.stream is source.video:
            if stamp not in stamps:
                continue
            packet.dts = stamps[stamp] - shift
        elif begin < (stamp + (packet.duration or 0)) * packet.time_base and stamp * packet.time_base < end:
            packet.dts = stamp - shift
        else:
            continue
        packet.pts = stamp - shift
        packet.stream = copies[packet.stream.index]
        output.mux(packet)
