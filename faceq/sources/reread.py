"""Read the frames of a table's rows from their sources again."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa

from faceq.sources import read_again
from faceq.sources.decode import packed
from faceq.sources.frame import Frame
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK, frame_id

COLUMNS = ("frame_id", "source", "member", "frame_index", "timestamp_s")
"""The columns that locate a row's frame."""


def frames_of(
    rows: pa.Table, s3: S3Settings, keep_sidecars: bool = False, as_files: bool = True
) -> Iterator[tuple[int, Frame]]:
    """Yield each row's frame, in the order in which they are read.

    A source is read only up to the last frame that is needed, and so is each video in a shard. Single images
    are read several at a time. A frame of several rows is read once.

    Args:
        rows: a table with COLUMNS, without rows for breaks. Rows of one source need not be adjacent. Those of
            faces may have the same frame.
        s3: settings of the file system.
        keep_sidecars: also read the sidecars of tars.
        as_files: encode frames of videos as PNGs. Otherwise only `faceq.sources.decode` can read them.

    Yields:
        The row's number and its frame. A frame that can no longer be read has an error and no image. Rows of
        one frame follow each other, with the same object.
    """
    row_of: dict[int, dict[str, Any]] = {}
    numbers: dict[int, list[int]] = {}
    for number, row in enumerate(rows.select(COLUMNS).to_pylist()):
        row_of[row["frame_id"]] = row
        numbers.setdefault(row["frame_id"], []).append(number)
    last = last_frames(rows)
    together: dict[str, set[int]] = {}
    alone: dict[str, set[int]] = {}
    for key, row in row_of.items():
        picture = row["member"] is None and row["timestamp_s"] is None
        (together if picture else alone).setdefault(row["source"], set()).add(key)
    # An animation of which only the first frame is in the table has no times.
    timed = {row["source"] for row in row_of.values() if row["timestamp_s"] is not None}
    readings = [{source: ids} for source, ids in alone.items()]
    for reading in [together, *readings] if together else readings:
        missing = set().union(*reading.values())
        places = {(row_of[key]["source"], row_of[key]["member"]) for key in missing}
        places |= {(source, None) for source in reading}
        breaks = {frame_id(source, member, BREAK) for source, member in places}
        reasons: dict[str | None, str] = {}
        wanted = {source: last[source] for source in reading}
        animated = not timed.isdisjoint(reading)
        for frame in read_again(wanted, missing | breaks, s3, keep_sidecars, animated):
            if frame.id in missing:
                missing.discard(frame.id)
                given = _as_file(frame) if as_files else frame
                yield from ((number, given) for number in numbers[frame.id])
            elif frame.error is not None:
                reasons[frame.member] = frame.error
            if not missing:
                break
        for key in missing:
            row = row_of[key]
            of_source = reasons.get(None, "it no longer exists in its source")
            error = reasons.get(row["member"], of_source)
            lost = Frame(row["source"], row["member"], row["frame_index"], None, error=error)
            yield from ((number, lost) for number in numbers[key])


def last_frames(rows: pa.Table) -> dict[str, dict[str | None, int]]:
    """By source and member, the largest `frame_index` of the rows."""
    found: dict[str, dict[str | None, int]] = {}
    for row in rows.select(["source", "member", "frame_index"]).to_pylist():
        members = found.setdefault(row["source"], {})
        members[row["member"]] = max(row["frame_index"], members.get(row["member"], 0))
    return found


def _as_file(frame: Frame) -> Frame:
    """The frame with an image that other programs can open."""
    if frame.image is None or not packed.is_packed(frame.image):
        return frame
    from faceq.sources.video.picture import png  # noqa: PLC0415 - PyAV takes a while to import

    return replace(frame, image=png(packed.unpack(frame.image)))
