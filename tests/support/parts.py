"""Shards that are read in parts, as the read tasks of a job do, but in this process."""

import os

from faceq.config import Limits
from faceq.job.gathered import Gathered
from faceq.sources import Findings, read_shards, record_parts
from faceq.sources.frame import Frame
from faceq.sources.listing import Shard
from faceq.sources.local import LocalFile
from faceq.sources.parts import tar_parts, video_parts
from faceq.sources.reading import Reading, version_of
from faceq.sources.tar_index import cuts, scan
from faceq.sources.video.pieces import look, spans
from faceq.sources.video.shots import find_by
from faceq.storage.settings import S3Settings
from faceq.table.finished_shards import Finished
from faceq.table.schema import BREAK


def split(shard: Shard, size: int, s3: S3Settings | None = None, **how) -> list[Shard]:
    """The parts of a tar, from stretches of `size` bytes."""
    reading = Reading(s3 or S3Settings(), **how)
    stretches = [
        scan(shard, begin, min(begin + size, shard.size), reading) for begin in range(0, shard.size, size)
    ]
    return tar_parts(shard, *cuts(shard, stretches, reading))


def split_records(shard: Shard, size: int, s3: S3Settings | None = None, **how) -> list[Shard]:
    """The parts of a RecordIO file, from stretches of `size` bytes."""
    reading = Reading(s3 or S3Settings(), **how)
    stretches = [
        record_parts.scan(shard, begin, min(begin + size, shard.size), reading)
        for begin in range(0, shard.size, size)
    ]
    return record_parts.divide(shard, stretches, size, reading)


def split_video(shard: Shard, count: int, shots: str = "content", **limits) -> list[Shard]:
    """The parts of a video that is looked at in `count` pieces."""
    memory = Limits(**limits).source_memory
    finder, pieces = find_by(shots), []
    for number in range(count):
        with LocalFile(shard.path) as file:
            pieces.append(look(file, number, count, memory, finder))
    return video_parts(shard, spans(pieces, finder), version_of(os.stat(shard.path)))


def read_parts(
    parts: list[Shard], s3: S3Settings | None = None, **how
) -> tuple[list[Frame], Findings, list[Finished]]:
    """The frames of all parts, without repeated breaks; what was found besides them; the finished shards."""
    findings, gathered = Findings(), Gathered()
    frames: list[Frame] = []
    for part in reversed(parts):  # in any order
        found = list(read_shards([part], s3 or S3Settings(), findings=findings, **how))
        frames[:0] = found
    gathered.add(findings.finished)
    breaks = [frame for frame in frames if frame.frame_index == BREAK]
    return [f for f in frames if f.frame_index != BREAK] + breaks[-1:], findings, gathered.since(0)
