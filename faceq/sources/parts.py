"""Parts of large shards: several read tasks read one shard at the same time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from faceq.sources.kinds import Kind
from faceq.sources.listing import Shard
from faceq.sources.spans import Span

PART_BYTES: dict[Kind, int] = {"tar": 512 << 20, "video": 32 << 20}
"""Minimum size of a part. A read task streams that much of a tar from S3 in five to ten seconds. A video at
5 Mbit/s has 1,300 frames in that many bytes, and a read task needs a minute to decode and encode them."""

MOST_PARTS = 256
"""Maximum number of parts of an input, roughly."""

LARGE = 4
"""A shard of more than this many parts is split. An input of 64 equal shards is therefore not split: it has
enough read tasks."""


@dataclass(frozen=True, slots=True)
class Part(Shard):
    """A part of a shard.

    size: bytes of the part. number: the index of the part; parts: how many there are. version: of the file
    that was divided (see `finished_shards.Finished`).
    """

    number: int = 0
    parts: int = 1
    version: str | None = None


@dataclass(frozen=True, slots=True)
class TarPart(Part):
    """The members that begin at byte `begin` or later, and before byte `end`; None: to the end of the tar."""

    begin: int = 0
    end: int | None = None


@dataclass(frozen=True, slots=True)
class VideoPart(Part):
    """The frames of a span."""

    span: Span | None = None


def part_bytes(shards: Iterable[Shard], kind: Kind) -> int:
    """The size of a part of an input, in bytes: PART_BYTES, or more for an input of many shards."""
    total = sum(shard.size or 0 for shard in shards if shard.kind != "picture")
    return max(PART_BYTES[kind], total // MOST_PARTS)


def is_large(shard: Shard, part: int) -> bool:
    """Whether a shard should be split into parts of `part` bytes. Its size must be known."""
    return shard.kind in PART_BYTES and (shard.size or 0) > LARGE * part


def tar_parts(shard: Shard, cuts: Sequence[int], version: str) -> list[Shard]:
    """The parts of a tar that begin at byte 0 and at each of `cuts`; the tar itself if there are none."""
    if not cuts:
        return [shard]
    begins, ends = [0, *cuts], [*cuts, None]
    found: list[Shard] = []
    for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        size = (shard.size or 0 if end is None else end) - begin
        same = _of(shard, size, number, len(begins), version)
        found.append(TarPart(**same, begin=begin, end=end))
    return found


def video_parts(shard: Shard, spans: Sequence[Span], version: str) -> list[Shard]:
    """The parts of a video, one for each span; the video itself if there are fewer than two."""
    if len(spans) < 2:
        return [shard]
    frames = sum(span.frames for span in spans)
    sizes = [(shard.size or 0) * span.frames // frames for span in spans]
    return [
        VideoPart(**_of(shard, size, number, len(spans), version), span=span)
        for number, (size, span) in enumerate(zip(sizes, spans, strict=True))
    ]


def _of(shard: Shard, size: int, number: int, parts: int, version: str) -> dict[str, Any]:
    """The fields of a `Part`."""
    same = {each.name: getattr(shard, each.name) for each in fields(Shard)}
    return {**same, "size": size, "number": number, "parts": parts, "version": version}
