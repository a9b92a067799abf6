"""Timestamps of a video's frames, even if the file's clock restarts."""

from fractions import Fraction

import av
import av.container
from av.video.stream import VideoStream

_MATROSKA_TICK = Fraction(1, 1000)
"""Matroska's time unit in seconds, independent of the frame rate. (A coarser unit in another format is the
duration of a frame.)"""

_WRAPPING = {"mpegts": 1 << 33, "mpeg": 1 << 33}
"""Formats whose timestamps wrap to 0 after this number of units (26.5 hours)."""

_DISORDER = 4
"""Maximum number of frames by which a timestamp may go back and still count as a frame out of order. If it
goes back further, the clock has restarted. Decoders that misjudge the order are wrong by one to three
frames."""


class Clock:
    """Computes the times of frames, in display order, relative to the first frame.

    The first frame is at 0, or at `begin`, whatever its timestamp in the file, because edited and streamed
    videos start anywhere. Times never decrease. If the file's timestamps go back by more than four frames (as
    in concatenated recordings), or jump ahead by more than half the range of a clock that wraps, the time
    advances by the duration of one frame.
    """

    def __init__(
        self, container: av.container.InputContainer, stream: VideoStream, begin: Fraction = Fraction(0)
    ):
        self.unit = stream.time_base or Fraction(1, 25)
        self.rounding = min(self.unit, _MATROSKA_TICK) / 2
        # An AVI has one timestamp per coded frame, in coded order. If frames are reordered, the decoder's
        # `pts` belong to other frames. `dts` keeps counting, and is late by the same decoder delay for all
        # frames.
        self._stamps = "dts" if container.format.name == "avi" else "pts"
        self._interval = max(1, round(1 / (stream.average_rate or 25) / self.unit))
        wrap = _WRAPPING.get(container.format.name)
        self._leap = wrap // 2 if wrap else None
        self._begin = begin
        self._shift: int | None = None  # from the file's timestamps to ours, in units
        self._latest = 0  # the file's latest timestamp since its clock last restarted
        self._shown = 0  # our time of the last frame, in units
        self._restarted = False

    def time(self, frame: av.VideoFrame) -> Fraction:
        """Seconds since the first frame. Call this once for each frame, in order."""
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
            self._restarted = True
        self._latest = max(self._latest, stamp)
        self._shown = max(self._shown, stamp + self._shift)
        time = self._shown * self.unit
        return self._begin + time if self._begin else time

    @property
    def origin(self) -> Fraction | None:
        """The file's timestamp of the first frame, in seconds. None if the last frame's time is not its
        timestamp minus this one: the clock has restarted, or the file begins later."""
        return None if self._shift is None or self._restarted or self._begin else -self._shift * self.unit

    @property
    def next(self) -> Fraction:
        """The time of a frame that would follow the last one."""
        return self._begin + (0 if self._shift is None else self._shown + self._interval) * self.unit

    def _starts_again(self, stamp: int) -> bool:
        step = stamp - self._latest
        return self.falls_back(step) or (self._leap is not None and step > self._leap)

    def falls_back(self, step: int) -> bool:
        """Whether a step between two timestamps of the file, in units, means that its clock restarted."""
        return step < -_DISORDER * self._interval

    def place(self, stamp: int | None) -> str:
        """The time of a coded frame, as text for a message, relative to the file's current clock."""
        time = self._begin + max(0, (stamp or 0) + (self._shift or 0)) * self.unit
        return f"{float(time):.2f} s"
