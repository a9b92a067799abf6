"""Reader for videos and animations: yields their frames in the same form as the readers of other sources."""

from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from faceq.sources import animation, video
from faceq.sources.decode import packed
from faceq.sources.frame import Frame
from faceq.sources.listing import Shard
from faceq.sources.parts import VideoPart
from faceq.sources.reading import OtherKindError, Reading, break_in, break_of, open_shard
from faceq.sources.sniff import ENOUGH, kind_of_bytes
from faceq.table.schema import frame_id


def read_video(shard: Shard, reading: Reading) -> Iterator[Frame]:
    """Yield the frames of one video, or of a part of it, in display order; or those of an animation."""
    read = 0
    try:
        with open_shard(shard, reading, other="picture" if reading.animated else None) as stream:
            for frame in _frames(shard, None, stream, reading):
                read = frame.frame_index + 1
                yield frame
    except Exception as error:
        yield break_of(shard, error, f"after {read} frames", reading)


def read_member(shard: Shard, member: str, stream: BinaryIO, reading: Reading) -> Iterator[Frame]:
    """Yield the frames of a video inside a shard, in display order. Damage is a frame with `frame_index` -1.

    Args:
        shard: the tar or Parquet file.
        member: the name of the video.
        stream: the content of the video, seekable.
        reading: how to read it.

    Raises:
        Exception: an error of the shard's storage, after the frames that were read before it.
    """
    read = 0
    try:
        for frame in _frames(shard, member, stream, reading):
            read = frame.frame_index + 1
            yield frame
    except Exception as error:
        yield break_in(shard, member, error, f"after {read} frames", reading)


def _frames(shard: Shard, member: str | None, stream: BinaryIO, reading: Reading) -> Iterator[Frame]:
    """The frames that the sampling settings select, up to the last one that is wanted; none if
    `reading.use_video` takes the video. Raises the errors of `video.read`."""
    last = reading.last_of(shard.source, member)
    if last < 0:
        return
    if reading.use_video is not None:
        reading.use_video(member, stream)
        return
    for frame in _chosen(shard, member, stream, reading):
        yield frame
        if frame.frame_index >= last:
            return


def _chosen(shard: Shard, member: str | None, stream: BinaryIO, reading: Reading) -> Iterator[Frame]:
    name = shard.source if member is None else f"{shard.source}: {member}"

    def note(text: str) -> None:
        reading.findings.notes.append(f"{name}: {text}")

    span = shard.span if isinstance(shard, VideoPart) else None
    is_wanted = video.sampling(reading.sampling, span.previous if span else None)

    def use(frame: video.VideoFrame | animation.AnimationFrame) -> Frame | None:
        return _frame(shard.source, member, frame, reading) if is_wanted(frame) else None

    memory = reading.limits.source_memory
    if reading.animated and member is None and kind_of_bytes(stream.read(ENOUGH)) == "picture":
        stream.seek(0)
        content = stream.read(reading.limits.frame_bytes + 1)
        if len(content) > reading.limits.frame_bytes or not animation.is_animated(content):
            raise OtherKindError("picture")
        reading.is_animation = True
        yield from filter(None, map(use, animation.read(content, memory)))
        return
    stream.seek(0)
    if span is not None:
        yield from filter(None, map(use, video.read_span(stream, span, memory, note)))
        return
    frames = video.read(stream, memory, note)
    if reading.finder is None:
        yield from filter(None, map(use, frames))
        return
    for frame, shot in video.numbered(frames, reading.finder, use):
        if frame is not None:
            yield replace(frame, shot=shot)


def _frame(
    source: str, member: str | None, frame: video.VideoFrame | animation.AnimationFrame, reading: Reading
) -> Frame:
    time = float(frame.time)
    if frame_id(source, member, frame.index) in reading.done:
        return Frame(source, member, frame.index, None, done=True, timestamp_s=time)
    image = None if frame.fault else packed.pack(frame.pixels())
    error = frame.fault or None
    return Frame(source, member, frame.index, image, error, timestamp_s=time, shot=frame.shot)
