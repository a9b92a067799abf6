"""Reader for videos: yields their frames in the same form as the readers of other sources."""

from collections.abc import Iterator

from faceq.sources import video
from faceq.sources.frame import Frame
from faceq.sources.listing import Shard
from faceq.sources.parts import VideoPart
from faceq.sources.reading import Reading, break_of, open_shard
from faceq.table.schema import frame_id


def read_video(shard: Shard, reading: Reading) -> Iterator[Frame]:
    """Yield the frames of one video, or of a part of it, in display order."""
    read = 0

    def note(text: str) -> None:
        reading.findings.notes.append(f"{shard.source}: {text}")

    try:
        with open_shard(shard, reading) as stream:
            memory = reading.limits.source_memory
            span = shard.span if isinstance(shard, VideoPart) else None
            if span is None:
                chosen = video.sample(video.read(stream, memory, note), reading.sampling)
            else:
                frames = video.read_span(stream, span, memory, note)
                chosen = video.sample(frames, reading.sampling, span.previous)
            for frame in chosen:
                read = frame.index + 1
                yield _video_frame(shard, frame, reading)
    except Exception as error:
        yield break_of(shard, error, f"after {read} frames", reading)


def _video_frame(shard: Shard, frame: video.VideoFrame, reading: Reading) -> Frame:
    time = float(frame.time)
    if frame_id(shard.source, None, frame.index) in reading.done:
        return Frame(shard.source, None, frame.index, None, done=True, timestamp_s=time)
    if frame.fault:
        return Frame(shard.source, None, frame.index, None, error=frame.fault, timestamp_s=time)
    return Frame(shard.source, None, frame.index, frame.encode(), timestamp_s=time)
