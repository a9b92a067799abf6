"""Times of a video's frames, also where its own clock starts again."""

from fractions import Fraction

import av
import av.container
from av.video.stream import VideoStream

_MATROSKA_TICK = Fraction(1, 1000)
"""Matroska's unit of time, seconds, whatever the frame rate. (A coarser unit is a frame's own length.)"""

_WRAPPING = {"mpegts": 1 << 33, "mpeg": 1 << 33}
"""Formats whose times start at 0 again after so many units (26.5 hours)."""

_DISORDER = 4
"""A time that lies behind by so many frames or fewer is a frame out of order, by more it is a clock that
started again. Decoders that misjudge the order are wrong by one to three frames."""


class Clock:
    """Times of frames, in the order in which they are shown, after the first one.

    That one is at 0, or at `begin`, whatever the file's own time of it: edited and streamed videos start
    anywhere. Times never decrease. Where the file's own times fall back by more than four frames, as in
    recordings that were joined byte by byte, or jump ahead by more than half of what a wrapping clock can
    count, the time goes on by one frame's length.
    """

    def __init__(
        self, container: av.container.InputContainer, stream: VideoStream, begin: Fraction = Fraction(0)
    ):
        self.unit = stream.time_base or Fraction(1, 25)
        self.rounding = min(self.unit, _MATROSKA_TICK) / 2
        # An AVI has one time per coded frame, in coded order: where frames are reordered, the decoder's
        # `pts` are those of others. `dts` counts on, late by the decoder's delay for all frames alike.
        self._stamps = "dts" if container.format.name == "avi" else "pts"
        self._interval = max(1, round(1 / (stream.average_rate or 25) / self.unit))
        wrap = _WRAPPING.get(container.format.name)
        self._leap = wrap // 2 if wrap else None
        self._begin = begin
        self._shift: int | None = None  # from the file's times to ours, units
        self._latest = 0  # of the file's times since its clock last started
        self._shown = 0  # our time of the last frame, units

    def time(self, frame: av.VideoFrame) -> Fraction:
        """Seconds after the first frame; to be asked of each frame once, in order."""
        stamp = getattr(frame, self._stamps)
        if self._shift is None:
            self._latest = stamp or 0
            self._shift = -self._latest
            return self._begin
        if stamp is None:
            stamp = self._latest + (frame.duration or self._interval)
        if self._starts_again(stamp):
            self._shift = self._shown + self._interval - stamp
            self._latest = stamp
        self._latest = max(self._latest, stamp)
        self._shown = max(self._shown, stamp + self._shift)
        time = self._shown * self.unit
        return self._begin + time if self._begin else time

    @property
    def next(self) -> Fraction:
        """When a frame after the last one would be shown."""
        return self._begin + (0 if self._shift is None else self._shown + self._interval) * self.unit

    def _starts_again(self, stamp: int) -> bool:
        step = stamp - self._latest
        return self.falls_back(step) or (self._leap is not None and step > self._leap)

    def falls_back(self, step: int) -> bool:
        """Whether a step of so many units, from one time of the file to the next, is a clock that started
        again."""
        return step < -_DISORDER * self._interval

    def place(self, stamp: int | None) -> str:
        """A coded frame's time by the file's clock as it runs now, for people."""
        time = self._begin + max(0, (stamp or 0) + (self._shift or 0)) * self.unit
        return f"{float(time):.2f} s"
