"""The sound of a video, cut to the time ranges of its clips."""

import contextlib
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
from av.audio.stream import AudioStream
from av.stream import Discard

from faceq.messages.one_line import one_line
from faceq.selection.cut_clip import CutError
from faceq.sources.member_files import another_reader
from faceq.sources.video.file import WatchedFile
from faceq.sources.video.reading import opened

RATES = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000}
"""Sampling rates of AAC. Others become 48 kHz."""

_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
"""Channel layouts of AAC, by the number of channels. Others become stereo."""

_JITTER = Fraction(1, 100)
"""Seconds by which a timestamp may be off from the end of the samples before it: Matroska rounds to
milliseconds. A larger gap is filled with silence, a larger overlap is dropped."""


class Sound:
    """Reads the sound of a video from front to back. Few decoded samples are in memory at a time.

    It reads the file at a place of its own. exists: whether the video has sound. rate: samples per second.
    layout: name of the channel layout. channels: their number.
    """

    def __init__(self, file: BinaryIO, memory: int):
        """Raises CutError if the sound cannot be decoded, and DamagedError if the file is not a video."""
        self._opened = contextlib.ExitStack()
        self._file = WatchedFile(another_reader(file), memory)
        container = self._opened.enter_context(opened(self._file))
        stream = container.streams.best("audio")
        self._stream = stream if isinstance(stream, AudioStream) else None
        self.exists = self._stream is not None
        if self._stream is None:
            return
        for other in container.streams:
            if other is not self._stream:
                other.discard = Discard.all
        decoder = self._stream.codec_context
        if decoder is None:
            self.close()
            raise CutError("no decoder for its sound: convert it, for example to AAC")
        decoder.thread_count = 1
        self.rate = decoder.sample_rate if decoder.sample_rate in RATES else 48000
        self.layout = _LAYOUTS.get(decoder.layout.nb_channels, "stereo")
        self.channels = av.AudioLayout(self.layout).nb_channels
        self._pieces = self._decoded(container)
        self._kept: deque[tuple[Fraction, np.ndarray]] = deque()
        self._faults: list[tuple[Fraction, str]] = []
        self._end = Fraction(0)

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def samples(self, begin: Fraction, end: Fraction, keep: Fraction) -> Iterator[np.ndarray]:
        """Yield the samples of a time range, (channels, N) float32, together exactly as many as fit into it.

        What the file lacks is silence.

        Args:
            begin, end: timestamps of the file, seconds. The range must not begin before the last `keep`.
            keep: from here on, samples remain available for the next range.

        Raises:
            CutError: the sound is damaged there.
        """
        total = round((end - begin) * self.rate)
        done = 0
        for start, piece in self._from(begin, end, keep):
            at = round((start - begin) * self.rate)
            if done and abs(at - done) <= _JITTER * self.rate:
                at = done
            if at > done:
                yield from self._silence(min(at, total) - done)
                done = min(at, total)
            part = piece[:, done - at : total - at]
            if part.shape[1]:
                yield part
                done += part.shape[1]
        yield from self._silence(total - done)
        for place, reason in self._faults:
            if begin <= place < end:
                raise CutError(f"its sound is damaged at {float(place):.2f} s of the file: {reason}")

    def _from(self, begin: Fraction, end: Fraction, keep: Fraction) -> Iterator[tuple[Fraction, np.ndarray]]:
        """Decoded pieces from the one that contains `begin` to the one that contains `end`."""
        kept, self._kept = self._kept, deque()
        try:
            # Not a `for` loop: its end would close the generator of the pieces.
            while item := kept.popleft() if kept else next(self._pieces, None):
                start, piece = item
                finish = start + Fraction(piece.shape[1], self.rate)
                if finish > keep:
                    self._kept.append(item)
                if finish > begin:
                    yield item
                if finish >= end:
                    break
        finally:
            self._kept.extend(kept)

    def _silence(self, count: int) -> Iterator[np.ndarray]:
        while count > 0:
            size = min(count, self.rate)
            yield np.zeros((self.channels, size), np.float32)
            count -= size

    def _decoded(self, container: av.container.InputContainer) -> Iterator[tuple[Fraction, np.ndarray]]:
        """Yield decoded pieces and their timestamps in the file, in seconds."""
        assert self._stream is not None
        form: object = None
        resampler: av.AudioResampler | None = None
        for frame in self._frames(container):
            if resampler is None or form != _form(frame):
                form = _form(frame)
                resampler = av.AudioResampler("fltp", self.layout, self.rate)
            for ready in resampler.resample(frame):
                if ready.pts is not None and ready.time_base:
                    self._end = ready.pts * ready.time_base
                piece = ready.to_ndarray()
                yield self._end, piece
                self._end += Fraction(piece.shape[1], self.rate)

    def _frames(self, container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
        assert self._stream is not None
        decoder = self._stream.codec_context
        packets = container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, IndexError) as error:
                self._faults.append((self._end, one_line(error)))
                return
            self._file.raise_fault()
            if packet is None:
                return
            try:
                yield from decoder.decode(packet)
            except av.EOFError:
                return
            except av.FFmpegError as error:
                stamp = packet.pts if packet.dts is None else packet.dts
                place = self._end if stamp is None else stamp * packet.time_base
                self._faults.append((place, one_line(error)))


def _form(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate
