"""Parts of large shards: several read tasks read one shard at the same time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from faceq.sources.listing import Shard

PART_BYTES = 512 << 20
"""Minimum size of a part. A read task streams this from S3 in five to ten seconds."""

MOST_PARTS = 256
"""Maximum number of parts of an input, roughly."""

LARGE = 4
"""A shard of more than this many parts is split. An input of 64 equal shards is therefore not split: so many
read tasks deliver more frames than any job can score."""


@dataclass(frozen=True, slots=True)
class Part(Shard):
    """A part of a tar: the members that begin at byte `begin` or later, and before byte `end`.

    size: bytes of the part. end: None for the last part. number: the index of the part; parts: how many there
    are. version: of the file for which the parts were determined (see `finished_shards.Finished`).
    """

    begin: int = 0
    end: int | None = None
    number: int = 0
    parts: int = 1
    version: str | None = None


def part_bytes(shards: Iterable[Shard]) -> int:
    """The size of a part of an input, in bytes: PART_BYTES, or more for an input of many shards."""
    return max(PART_BYTES, sum(shard.size or 0 for shard in shards if shard.kind != "picture") // MOST_PARTS)


def is_large(shard: Shard, part: int) -> bool:
    """Whether a shard should be split into parts of `part` bytes. The size must be known."""
    return shard.kind == "tar" and (shard.size or 0) > LARGE * part


def parts_of(shard: Shard, cuts: Sequence[int], version: str) -> list[Shard]:
    """The parts of a shard that begin at byte 0 and at each of `cuts`."""
    begins = [0, *cuts]
    ends = [*cuts, None]
    return [
        Part(
            source=shard.source,
            path=shard.path,
            kind=shard.kind,
            size=(shard.size or 0 if end is None else end) - begin,
            seen=shard.seen,
            known=shard.known,
            tag=shard.tag,
            begin=begin,
            end=end,
            number=number,
            parts=len(begins),
            version=version,
        )
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True))
    ]
