"""Reader for videos and animations: yields their frames in the same form as the readers of other sources."""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from faceq.sources import animation, video
from faceq.sources.decode import packed
from faceq.sources.frame import Frame
from faceq.sources.listing import Shard
from faceq.sources.parts import VideoPart
from faceq.sources.reading import OtherKindError, Reading, break_of, open_shard
from faceq.sources.sniff import ENOUGH, kind_of_bytes
from faceq.table.schema import frame_id


def read_video(shard: Shard, reading: Reading) -> Iterator[Frame]:
    """Yield the frames of one video, or of a part of it, in display order; or those of an animation."""
    read = 0

    def note(text: str) -> None:
        reading.findings.notes.append(f"{shard.source}: {text}")

    try:
        with open_shard(shard, reading, other="picture" if reading.animated else None) as stream:
            for frame in _chosen(shard, stream, reading, note):
                read = frame.index + 1
                yield _video_frame(shard, frame, reading)
    except Exception as error:
        yield break_of(shard, error, f"after {read} frames", reading)


def _chosen(
    shard: Shard, stream: BinaryIO, reading: Reading, note: Callable[[str], None]
) -> Iterator[video.VideoFrame] | Iterator[animation.AnimationFrame]:
    """The frames that the settings choose."""
    memory = reading.limits.source_memory
    if reading.animated and kind_of_bytes(stream.read(ENOUGH)) == "picture":
        stream.seek(0)
        content = stream.read(reading.limits.frame_bytes + 1)
        if len(content) > reading.limits.frame_bytes or not animation.is_animated(content):
            raise OtherKindError("picture")
        reading.is_animation = True
        return video.sample(animation.read(content, memory), reading.sampling)
    stream.seek(0)
    span = shard.span if isinstance(shard, VideoPart) else None
    if span is None:
        return video.sample(video.read(stream, memory, note), reading.sampling)
    return video.sample(video.read_span(stream, span, memory, note), reading.sampling, span.previous)


def _video_frame(shard: Shard, frame: video.VideoFrame | animation.AnimationFrame, reading: Reading) -> Frame:
    time = float(frame.time)
    if frame_id(shard.source, None, frame.index) in reading.done:
        return Frame(shard.source, None, frame.index, None, done=True, timestamp_s=time)
    if frame.fault:
        return Frame(shard.source, None, frame.index, None, error=frame.fault, timestamp_s=time)
    return Frame(shard.source, None, frame.index, packed.pack(frame.pixels()), timestamp_s=time)
