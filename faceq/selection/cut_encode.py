"""Cut clips by decoding their video once and encoding the frames of each clip."""

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, cast

import av

from faceq.messages.one_line import one_line
from faceq.selection.clip_file import ClipFile
from faceq.selection.cut_clip import TOLERANCE, UNSEEN_INTERVAL, Clip, Cut, CutError, Done, StoppedError
from faceq.selection.cut_picture import cropped, shrink_factor, whole
from faceq.selection.cut_sound import Sound
from faceq.sources import video
from faceq.sources.member_files import another_reader

Create = Callable[[str], contextlib.AbstractContextManager[BinaryIO]]
"""Creates a file in the folder of the clips, by its name. It appears at the end of the block, and does not
appear if the block fails."""


_NO_PLACE = "the place of its sound is unknown: convert the video to MP4 and score it again"


@dataclass(frozen=True)
class Encoding:
    """How clips are encoded. create: makes their files. size: side of the crops in pixels. memory: maximum
    bytes of a video's index. stop: set when the work is to end early."""

    create: Create
    size: int
    memory: int
    stop: threading.Event


def encode(file: BinaryIO, clips: Sequence[Clip], how: Encoding, done: Done) -> None:
    """Cut the clips of one video, and report each to `done`.

    Args:
        file: the video, seekable.
        clips: sorted by their frames; they do not overlap.
        how: how to encode them.
        done: called once for each clip.

    Raises:
        StoppedError: the work was stopped.
    """
    with contextlib.closing(_Frames(file, how)) as frames:
        for clip in clips:
            try:
                if frames.error is not None:
                    raise frames.error
                cut = _cut(frames, clip, how)
            except StoppedError:
                raise
            except Exception as error:
                cut = Cut(clip.clip_id, error=one_line(error))
            done(cut)


def _cut(frames: "_Frames", clip: Clip, how: Encoding) -> Cut:
    first = frames.skip_to(clip.start_frame)
    _check(first, clip.start_s)
    interval = clip.interval or frames.interval
    name = f"{clip.clip_id}.mp4"
    picture = _Picture(clip, how.size)
    with how.create(name) as target:
        shown = picture.of(first)
        written = ClipFile(target, shown, interval, clip.start_s, clip.end_s)
        try:
            _add_sound(written, frames, first, clip, interval)
            written.add(shown, Fraction(0))
            last = first
            while last.index < clip.end_frame:
                last = frames.next(clip.end_frame)
                if frames.sound.exists and last.origin != first.origin:
                    raise CutError(f"the clock of the video restarts at frame {last.index}: {_NO_PLACE}")
                written.add(picture.of(last), last.time - first.time)
            _check(last, clip.end_s)
            written.close()
        except BaseException:
            written.discard()
            raise
    return Cut(clip.clip_id, name, float(first.time), float(last.time))


def _check(frame: video.VideoFrame, time: float) -> None:
    if abs(frame.time - Fraction(time)) > TOLERANCE:
        raise CutError(
            f"the video has changed since it was scored: frame {frame.index} is at {float(frame.time):.3f} "
            f"s, in the table at {time:.3f} s: score it again"
        )


def _add_sound(
    written: ClipFile, frames: "_Frames", first: video.VideoFrame, clip: Clip, interval: Fraction
) -> None:
    sound = frames.sound
    if not sound.exists:
        return
    if first.origin is None:
        raise CutError(f"the clock of the video restarts before this clip: {_NO_PLACE}")
    begin = first.time + first.origin
    last = begin + Fraction(clip.end_s) - Fraction(clip.start_s)
    samples = sound.samples(begin, last + interval, keep=last)
    written.add_sound(samples, sound.rate, sound.layout, sound.channels)


class _Picture:
    """Makes the pictures of one clip."""

    def __init__(self, clip: Clip, size: int):
        self._clip, self._size = clip, size
        self._shrink = shrink_factor(clip.face.usual_side, size) if clip.face else 1
        self._form: tuple[int, int] | None = None

    def of(self, frame: video.VideoFrame) -> av.VideoFrame:
        """The picture of a frame. Raises CutError if it cannot be used."""
        if frame.fault:
            raise CutError(f"frame {frame.index}: {frame.fault}")
        form = frame.size
        if self._form not in (None, form):
            raise CutError(f"the size of the video changes at frame {frame.index}")
        self._form = form
        if self._clip.face is None:
            return whole(frame)
        x, y, side = self._clip.face.at(float(frame.time))
        return cropped(frame, (x, y), side, self._size, self._shrink)


class _Frames:
    """The frames of a video, one after the other. interval: distance of the last two, in seconds. error: why
    there are no more."""

    def __init__(self, file: BinaryIO, how: Encoding):
        self._file, self._how = file, how
        frames = video.read(another_reader(file), how.memory)
        self._frames = cast(Generator[video.VideoFrame], frames)
        self._sound: Sound | None = None
        self._next = 0
        self._time = Fraction(0)
        self.interval = UNSEEN_INTERVAL
        self.error: Exception | None = None

    def skip_to(self, index: int) -> video.VideoFrame:
        """The frame `index`. Raises the error that ends the video before it."""
        while True:
            frame = self.next(index)
            if frame.index == index:
                return frame

    def next(self, wanted: int) -> video.VideoFrame:
        """The next frame; `wanted`: the frame that is needed."""
        if self._how.stop.is_set():
            raise StoppedError("stopped")
        try:
            frame = next(self._frames)
        except StopIteration:
            self.error = CutError(
                f"the video has changed since it was scored: it has {self._next} frames, but frame {wanted} "
                "is in the table: score it again"
            )
            raise self.error from None
        except Exception as error:
            self.error = error
            raise
        if frame.index and frame.time > self._time:
            self.interval = frame.time - self._time
        self._next, self._time = frame.index + 1, frame.time
        return frame

    @property
    def sound(self) -> Sound:
        """The sound of the video."""
        if self._sound is None:
            self._sound = Sound(self._file, self._how.memory)
        return self._sound

    def close(self) -> None:
        if self._sound is not None:
            self._sound.close()
        self._frames.close()
