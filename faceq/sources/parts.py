"""Parts of large shards: several read tasks read one shard at the same time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from faceq.errors import FaceqError
from faceq.sources.kinds import Kind
from faceq.sources.listing import Shard
from faceq.sources.spans import Span

PART_BYTES: dict[Kind, int] = {"tar": 512 << 20, "record": 512 << 20, "video": 32 << 20}
"""Minimum size of a part. A read task streams that much of a tar or RecordIO file from S3 in five
to ten seconds. A video at 5 Mbit/s has 1,300 frames in that many bytes, and a read task needs a minute to
decode and encode them."""

MOST_PARTS = 256
"""Maximum number of parts of an input, roughly."""

LARGE = 4
"""A shard of more than this many parts is split. An input of 64 equal shards is therefore not split: it has
enough read tasks."""


class UnsplitError(FaceqError):
    """A shard that one task must read as a whole; the message says why."""


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
class RecordPart(Part):
    """The records that begin at byte `begin` or later, and before byte `end`; None: to the end of the file.

    index: the bytes of the index that list them, None if the file has no index. index_version: of the index.
    first: see `record.first_identity`.
    """

    begin: int = 0
    end: int | None = None
    index: tuple[int, int | None] | None = None
    index_version: str | None = None
    first: float | None = None


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
    return [TarPart(**each) for each in _by_bytes(shard, cuts, version)]


def record_parts(
    shard: Shard,
    cuts: Sequence[int],
    version: str,
    lines: Sequence[int] = (),
    index_version: str | None = None,
    first: float | None = None,
) -> list[Shard]:
    """The parts of a RecordIO file that begin at byte 0 and at each of `cuts`; the file if there are none.

    Args:
        shard: the file.
        cuts: bytes at which records begin.
        version: of the file.
        lines: the bytes of its index that list these records; empty if it has none.
        index_version: of the index.
        first: see `record.first_identity`.
    """
    if not cuts:
        return [shard]
    ranges = zip([0, *lines], [*lines, None], strict=True) if lines else [None] * (len(cuts) + 1)
    return [
        RecordPart(**each, index=index, index_version=index_version, first=first)
        for each, index in zip(_by_bytes(shard, cuts, version), ranges, strict=True)
    ]


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


def _by_bytes(shard: Shard, cuts: Sequence[int], version: str) -> list[dict[str, Any]]:
    """The fields of parts that begin at byte 0 and at each of `cuts`."""
    begins, ends = [0, *cuts], [*cuts, None]
    return [
        {
            **_of(shard, (shard.size or 0 if end is None else end) - begin, number, len(begins), version),
            "begin": begin,
            "end": end,
        }
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True))
    ]


def _of(shard: Shard, size: int, number: int, parts: int, version: str) -> dict[str, Any]:
    """The fields of a `Part`."""
    same = {each.name: getattr(shard, each.name) for each in fields(Shard)}
    return {**same, "size": size, "number": number, "parts": parts, "version": version}
