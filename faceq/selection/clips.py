"""Clips: stretches of one shot of a video whose frames, or whose faces of one person, fulfil a condition."""

import math
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from faceq.errors import UsageError
from faceq.query.rows import Rows
from faceq.query.sql import OF_VIDEO
from faceq.selection.clip_units import TRACK, VIDEO, same_unit, steps_of, units_of
from faceq.selection.clip_values import described
from faceq.selection.limited_rows import limited_rows
from faceq.storage.settings import S3Settings
from faceq.table.recommended import FILTER

_ROUNDING = 1e-6
"""Seconds by which sums of timestamps may be off."""


@dataclass(frozen=True)
class Lengths:
    """How long a clip is: at least and at most so many seconds, without gaps longer than `max_gap` seconds.

    A gap is a stretch of frames that fail the condition or are missing.
    """

    min_seconds: float = 3.0
    max_seconds: float = 15.0
    max_gap: float = 0.5

    def __post_init__(self) -> None:
        """Raises UsageError if no clip could be that long."""
        if not 0 <= self.min_seconds <= self.max_seconds:
            raise UsageError(
                f"clips: --min-seconds {self.min_seconds:g} must be between 0 and --max-seconds "
                f"{self.max_seconds:g}"
            )
        if not 0 <= self.max_gap < math.inf or self.max_seconds == math.inf:
            raise UsageError("clips: --max-gap and --max-seconds must be finite numbers, 0 or more")


def clips(
    uri: str,
    where: str | None = None,
    *,
    min_seconds: float = 3.0,
    max_seconds: float = 15.0,
    max_gap: float = 0.5,
    per: Literal["track"] | None = None,
    s3: S3Settings | None = None,
) -> pa.Table:
    """Find the clips of a result table: stretches of one shot whose frames fulfil a condition.

    A clip never crosses a shot. A gap of frames that fail or are missing is bridged if it is at most
    `max_gap` seconds long. A longer stretch than `max_seconds` becomes several clips. Times decide, not
    indices, so the frame rate may vary. Where only some frames of a video were scored, a clip ends at the
    outermost ones of them.

    Args:
        uri: folder or URI of a result table.
        where: an SQL condition that a frame must fulfil; None: the recommended filter.
        min_seconds: minimum time from the first to the last frame of a clip.
        max_seconds: maximum time from the first to the last frame of a clip.
        max_gap: maximum length of a gap that is bridged, seconds.
        per: `track`: clips of each face that is followed through a shot, so that the condition is one on
            faces. None: clips of frames.
        s3: settings for S3, if the usual AWS environment variables and profiles are not enough.

    Returns:
        One row per clip, sorted by source, member and time; with `per="track"`, by source, member, track and
        time. Columns: see "Clips" in the reference.

    Raises:
        UsageError: there is no such table, it has no frames of videos, or the condition is not valid.
        StorageError: the table cannot be read.
    """
    lengths = Lengths(min_seconds, max_seconds, max_gap)
    with clip_rows(uri, s3 or S3Settings(), per) as rows:
        return find(rows, where, lengths)


def clip_rows(uri: str, s3: S3Settings, per: str | None) -> Rows:
    """The rows of a table in which `find` looks for clips. Raises UsageError."""
    if per not in (None, "track"):
        raise UsageError(f"clips: per must be None or 'track', not {per!r}")
    return limited_rows(uri, s3, faces=per is not None, tracks=per is not None)


def find(rows: Rows, where: str | None, lengths: Lengths) -> pa.Table:
    """The clips of a table. See `clips`."""
    videos, found = stretches(rows, where, lengths)
    return described(rows, rows.name_of(videos), found)


def stretches(rows: Rows, where: str | None, lengths: Lengths) -> tuple[pa.Table, pa.Table]:
    """Where the clips of a table are, which takes much less time than their other columns.

    Returns:
        The videos of the table in their order, or, if the rows are of faces, their tracks: source, member,
        track, video (a number from 1). The clips, sorted by this number and by time: video, shot, start_s,
        end_s, start_frame, end_frame, good (number of frames that fulfil the condition). `described` adds
        the other columns.
    """
    videos = rows.arrow(rows.sql(units_of(rows)))
    if not len(videos):
        what = "faces in videos" if rows.of_faces else "frames of videos"
        raise UsageError(f"clips: {rows.table.uri} has no {what}")
    condition = where or FILTER
    rows.chosen(condition)  # rejects text that is not a complete condition, such as `true) or (true`
    return videos, rows.arrow(rows.sql(_stretches(rows, rows.name_of(videos), condition, lengths)))


def _stretches(rows: Rows, units: str, condition: str, lengths: Lengths) -> str:
    """SQL: the first and the last frame of each clip. units: name of the result of `units_of`.

    Only frames that fulfil the condition matter: two of them belong together unless a shot ends, or the time
    between them is longer than a gap and the usual distance of frames in this video. That distance is the
    median. `run` numbers the stretches of a video or track. A stretch that is too long is divided equally; if
    the parts would be too short, into parts of the maximum length, and the rest is dropped if it is too
    short.
    """
    names = ", ".join(TRACK if rows.of_faces else VIDEO)
    return f"""
WITH judged AS (
    SELECT {names}, shot, frame_index, timestamp_s, coalesce(({condition}\n), false) AS good
    FROM {rows.view} WHERE {OF_VIDEO}
), seen AS (
    SELECT video, shot, frame_index, timestamp_s, good
    FROM judged JOIN {units} AS v ON {same_unit(rows, "judged", "v")}
), paces AS ({steps_of(rows, units, "seen")}
), linked AS (
    SELECT *, lag(timestamp_s) OVER (PARTITION BY video, shot ORDER BY frame_index) AS previous
    FROM seen WHERE good
), runs AS (
    SELECT video, shot, frame_index, timestamp_s, coalesce(step, 0) AS step,
        sum((previous IS NULL OR timestamp_s - previous - step > {lengths.max_gap + _ROUNDING})::INTEGER)
            OVER (PARTITION BY video ORDER BY frame_index) AS run
    FROM linked JOIN paces USING (video)
), lengths AS (
    SELECT video, run, min(timestamp_s) AS begin, max(timestamp_s) - min(timestamp_s) AS length,
        greatest(1, ceil((length - {_ROUNDING}) / {lengths.max_seconds + _ROUNDING})) AS parts,
        CASE WHEN parts = 1 THEN length + 1
            WHEN length / parts - any_value(step) >= {lengths.min_seconds} THEN length / parts + {_ROUNDING}
            ELSE {lengths.max_seconds + _ROUNDING} END AS part_length
    FROM runs GROUP BY video, run HAVING length >= {lengths.min_seconds - _ROUNDING}
)
SELECT video, any_value(shot) AS shot, min(timestamp_s) AS start_s, max(timestamp_s) AS end_s,
    min(frame_index) AS start_frame, max(frame_index) AS end_frame, count(*) AS good
FROM runs JOIN lengths USING (video, run)
GROUP BY video, run, floor((timestamp_s - begin) / part_length)
HAVING end_s - start_s >= {lengths.min_seconds - _ROUNDING}
ORDER BY video, start_frame
"""
