"""A clip that is to be cut out of its video, and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from faceq.errors import FaceqError
from faceq.selection.face_path import FacePath

TOLERANCE = Fraction(1, 10_000)
"""Seconds by which the time of a frame may differ from that in the table."""

UNSEEN_INTERVAL = Fraction(1, 25)
"""Seconds that the only frame of a video lasts."""


class CutError(FaceqError):
    """A clip cannot be cut; the message says why."""


class StoppedError(FaceqError):
    """Another part of the command failed, or the user stopped it."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip: see the columns of clips. face: where its face is; None if the whole frame is wanted."""

    clip_id: str
    source: str
    member: str | None
    start_s: float
    end_s: float
    start_frame: int
    end_frame: int
    face: FacePath | None = None

    @property
    def interval(self) -> Fraction | None:
        """The mean distance of its frames, in seconds; None if it has only one, or all have the same time."""
        frames = self.end_frame - self.start_frame
        length = Fraction(self.end_s) - Fraction(self.start_s)
        return (length / frames).limit_denominator(1_000_000) if frames and length > 0 else None


@dataclass(frozen=True, slots=True)
class Cut:
    """What came of a clip. file: name of the file; start_s, end_s: times of its first and its last frame in
    the video, in seconds. error: why it was not written."""

    clip_id: str
    file: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    error: str | None = None


Done = Callable[[Cut], None]
"""Called with what came of each clip."""
