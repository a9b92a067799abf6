"""A clip as a file: H.264 and AAC in MP4."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import BinaryIO

import av
import av.container
import numpy as np
from av.audio.stream import AudioStream

from faceq.selection.cut_picture import COLOURS

UNIT = Fraction(1, 90_000)
"""The unit of time of the clips, in seconds. The distances of frames at usual rates are multiples of it."""

_CRF = "18"
"""Quality of x264: hardly a difference is visible."""

_AHEAD = 1
"""Seconds by which the sound is written ahead of the frames."""

_BITS = 96_000
"""Bits per second and channel of the sound, at most 6 per sample."""


class ClipFile:
    """Writes the frames and the sound of a clip into a file. The video begins at 0."""

    def __init__(self, file: BinaryIO, first: av.VideoFrame, interval: Fraction, start: float, end: float):
        """first: the first frame; all have the same size and colours. interval: usual distance of the frames,
        in seconds. start, end: see `write_note`."""
        self._container = av.open(file, "w", "mp4")
        write_note(self._container, start, end)
        rate = (1 / interval).limit_denominator(1001)
        stream = self._container.add_stream("libx264", rate=rate or 1, options={"crf": _CRF})
        encoder = stream.codec_context
        encoder.width, encoder.height, encoder.pix_fmt = first.width, first.height, "yuv420p"
        encoder.time_base = UNIT
        encoder.thread_count = 1  # with more, the result depends on their number
        for name in COLOURS:
            setattr(encoder, name, getattr(first, name))
        self._video = stream
        self._sound: Iterator[av.Packet] = iter(())
        self._heard = Fraction(-1)  # time of the last packet of the sound
        self._step = max(1, round(interval / UNIT))
        self._last = -1

    def add_sound(self, samples: Iterable[np.ndarray], rate: int, layout: str, channels: int) -> None:
        """Add the sound: (channels, N) float32 samples, in pieces, from the first frame on. They are taken as
        the frames come, so that both are close together in the file, and few are in memory."""
        stream = self._container.add_stream("aac", rate=rate)
        encoder = stream.codec_context
        encoder.layout = layout
        encoder.bit_rate = channels * min(_BITS, 6 * rate)
        self._sound = _packets(samples, stream, rate, layout)

    def add(self, frame: av.VideoFrame, time: Fraction) -> None:
        """Add a frame that is shown `time` seconds after the first one; a unit later if the time repeats."""
        self._last = frame.pts = max(round(time / UNIT), self._last + 1)
        frame.time_base = UNIT
        self._mux_sound(time + _AHEAD)
        self._mux(self._video.encode(frame))

    def close(self) -> None:
        """Finish the file."""
        self._mux_sound(None)
        self._mux(self._video.encode(None))
        self._container.close()

    def discard(self) -> None:
        """Give up."""
        self._sound = iter(())
        with contextlib.suppress(av.FFmpegError, OSError, ValueError):
            self._container.close()

    def _mux_sound(self, until: Fraction | None) -> None:
        """Add the sound up to a time, in seconds; None: to its end."""
        while until is None or self._heard < until:
            packet = next(self._sound, None)
            if packet is None:
                return
            self._heard = (packet.pts or 0) * packet.time_base
            self._container.mux(packet)

    def _mux(self, packets: Iterable[av.Packet]) -> None:
        for packet in packets:
            packet.duration = self._step  # how long the last frame lasts: players know it of the others
            self._container.mux(packet)


def write_note(container: av.container.OutputContainer, start: float, end: float) -> None:
    """Record in the file of a clip when its first and its last frame are shown in the video, seconds."""
    container.metadata["comment"] = json.dumps({"start_s": start, "end_s": end})


def note_in(path: str) -> tuple[float, float] | None:
    """What `write_note` has recorded in the file of a clip; None if it is not a complete file of a clip."""
    try:
        with av.open(path) as container:
            tags = {key.lower(): value for key, value in container.metadata.items()}
        note = json.loads(tags["comment"])
        return note["start_s"], note["end_s"]
    except (av.FFmpegError, OSError, KeyError, TypeError, ValueError):
        return None


def _packets(
    samples: Iterable[np.ndarray], stream: AudioStream, rate: int, layout: str
) -> Iterator[av.Packet]:
    """Encode samples."""
    done = 0
    for piece in samples:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, done, Fraction(1, rate)
        done += piece.shape[1]
        yield from stream.encode(frame)
    yield from stream.encode(None)
