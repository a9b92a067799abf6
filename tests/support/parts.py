"""Shards that are read in parts, as the read tasks of a job do, but in this process."""

from faceq.sources import Findings, read_shards
from faceq.sources.frame import Frame
from faceq.sources.listing import Shard
from faceq.sources.parts import parts_of
from faceq.sources.reading import Reading
from faceq.sources.tar_index import cuts, scan
from faceq.storage.settings import S3Settings
from faceq.table.finished_shards import Finished, Gathered
from faceq.table.schema import BREAK


def split(shard: Shard, size: int, s3: S3Settings | None = None, **how) -> list[Shard]:
    """The parts of a tar, from stretches of `size` bytes."""
    reading = Reading(s3 or S3Settings(), **how)
    stretches = [
        scan(shard, begin, min(begin + size, shard.size), reading) for begin in range(0, shard.size, size)
    ]
    return parts_of(shard, *cuts(shard, stretches, reading))


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
