"""Encoded frames on their way from the readers to the stages, and tables of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from faceq.table.schema import SCHEMA, frame_id

BATCH_FRAMES = 32
"""Maximum number of frames in a batch."""

_BATCH_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Sidecars:
    """The sidecars of a frame of a tar.

    files: what follows the key in their names, such as `txt`, and their content. lost: number of sidecars
    that are too large to be kept.
    """

    files: tuple[tuple[str, bytes], ...] = ()
    lost: int = 0


NO_SIDECARS = Sidecars()


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, or, with frame_index -1, the point from which a source cannot be read.

    image: encoded bytes; None if the frame could not be read (then `error` says why) or is already
    `done`. timestamp_s: seconds since the first frame of its video. refused: the storage returned no data, as
    opposed to damaged data. unseen: the storage has nothing by that name, and the input was never listed (for
    example, it comes from a manifest). extra: what came with the frame, a JSON object. shot: number of its
    shot in its video. sidecars: the files that came with it, if they were asked for.
    """

    source: str
    member: str | None
    frame_index: int
    image: bytes | None
    error: str | None = None
    refused: bool = False
    unseen: bool = False
    done: bool = False
    timestamp_s: float | None = None
    extra: str | None = None
    shot: int | None = None
    sidecars: Sidecars = NO_SIDECARS

    @property
    def id(self) -> int:
        return frame_id(self.source, self.member, self.frame_index)


_READ_COLUMNS = (
    "frame_id",
    "source",
    "member",
    "frame_index",
    "timestamp_s",
    "status",
    "error",
    "extra",
    "shot",
)
READ_SCHEMA = pa.schema(
    [pa.field(name, SCHEMA.field(name).type) for name in _READ_COLUMNS] + [pa.field("image", pa.binary())]
)
"""Columns of a frame when it enters the stages: its identity, and its encoded bytes or its error."""


def in_batches(frames: Iterable[Frame], most: int = BATCH_FRAMES) -> Iterator[list[Frame]]:
    """Group frames into lists. A list ends at `most` frames or at 8 MiB of encoded bytes."""
    waiting: list[Frame] = []
    size = 0
    for frame in frames:
        waiting.append(frame)
        size += len(frame.image or b"")
        if len(waiting) >= most or size >= _BATCH_BYTES:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting


def to_table(frames: Iterable[Frame]) -> pa.Table:
    """Convert frames to a table with READ_SCHEMA, leaving out those that are `done`."""
    rows: list[dict[str, Any]] = [
        {
            "frame_id": frame.id,
            "source": frame.source,
            "member": frame.member,
            "frame_index": frame.frame_index,
            "timestamp_s": frame.timestamp_s,
            "status": "unreadable" if frame.image is None else None,
            "error": frame.error,
            "extra": frame.extra,
            "shot": frame.shot,
            "image": frame.image,
        }
        for frame in frames
        if not frame.done
    ]
    return pa.Table.from_pylist(rows, schema=READ_SCHEMA)
