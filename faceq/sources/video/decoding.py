"""Decode coded frames, keep track of their pixel aspect ratios, and count missing frames."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import av.container
from av.video.stream import VideoStream

from faceq.sources.video.clock import Clock
from faceq.sources.video.endings import Tally
from faceq.sources.video.file import WatchedFile
from faceq.sources.video.picture import valid_aspect


class _Coded:
    """Information about a coded frame that is known once it is decoded: its pixel aspect ratio, if it states
    one. It travels with the frame through the decoder, which may buffer several frames."""

    aspect: Fraction | None = None


class Decoding:
    """Decodes one stream, from the first coded frame to the last."""

    def __init__(
        self,
        container: av.container.InputContainer,
        stream: VideoStream,
        file: WatchedFile,
        tally: Tally,
        clock: Clock,
    ):
        self._container = container
        self._stream = stream
        self._decoder = stream.codec_context
        self._file = file
        self._tally = tally
        self._clock = clock
        self._stated = stream.sample_aspect_ratio
        # If the container and the frames state different ratios at the start, the container's counts, as in
        # FFmpeg.
        self._is_fixed = self._stated != self._decoder.sample_aspect_ratio
        self._last: int | None = None

    def frames(self, packets: Iterable[av.Packet]) -> Iterator[tuple[av.VideoFrame, Fraction]]:
        """Yield decoded frames and their pixel aspect ratios, in display order. `packets`: from `packets`."""
        for packet in packets:
            if self._file.fault is not None:
                continue  # the packet is incomplete
            if self._begins_recording(packet):
                yield from self._rest()
                self._decoder.flush_buffers()
            yield from self._decode(packet)
        yield from self._rest()

    def _decode(self, packet: av.Packet) -> Iterator[tuple[av.VideoFrame, Fraction]]:
        packet.opaque = coded = _Coded()
        try:
            frames = self._decoder.decode(packet)
        except av.FFmpegError:
            self._tally.refuse(self._clock.place(_stamp(packet)))
            return
        coded.aspect = self._decoder.sample_aspect_ratio
        if frames:
            self._tally.give()
        else:
            self._tally.give_nothing(self._clock.place(_stamp(packet)))
        for frame in frames:
            yield frame, self._aspect(frame)

    def _rest(self) -> Iterator[tuple[av.VideoFrame, Fraction]]:
        """The frames that the decoder still buffers because their order was not certain yet."""
        try:
            frames = self._decoder.decode(None)
        except av.FFmpegError:
            return
        for frame in frames:
            yield frame, self._aspect(frame)

    def _aspect(self, frame: av.VideoFrame) -> Fraction:
        coded: Any = frame.opaque
        own = None if self._is_fixed or coded is None else coded.aspect
        return valid_aspect(own or self._stated)

    def _begins_recording(self, packet: av.Packet) -> bool:
        """Whether another recording begins here: the file's clock goes back at a key frame. The frames of the
        previous recording that the decoder still buffers would otherwise get lost."""
        last, stamp = self._last, _stamp(packet)
        self._last = stamp if packet.dts is None else packet.dts
        if last is None or stamp is None or not packet.is_keyframe:
            return False
        return self._clock.falls_back(stamp - last)

    def packets(self) -> Iterator[av.Packet]:
        """Yield the coded frames of the stream, in the order of the file."""
        tally = self._tally
        try:
            for packet in self._container.demux(self._stream):
                stamp = _stamp(packet)
                if not packet.size and stamp is None:
                    return  # PyAV marks the end with an empty packet
                tally.coded += 1
                tally.end = max(tally.end, (stamp or 0) + (packet.duration or 0))
                tally.place = max(tally.place, packet.pos or 0)
                if packet.has_sidedata("encryption_info"):
                    tally.encrypted += 1
                # In an AVI, an empty packet repeats a frame; the decoder would treat it as the end.
                elif packet.size:
                    yield packet
        except av.FFmpegError as error:
            tally.stopped = error.strerror or type(error).__name__
        except IndexError:
            return  # at the end, PyAV fails if streams were added during demuxing


def _stamp(packet: av.Packet) -> int | None:
    return packet.dts if packet.pts is None else packet.pts
