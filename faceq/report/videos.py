"""The videos in the report: a timeline of those with the longest kept time, and contact sheets of the longest
clips.

DuckDB finds the clips and the bins, so that the rows of a video are never all in memory, and the size of the
section does not depend on their number.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from faceq.query.rows import Rows
from faceq.query.sql import OF_VIDEO, same_video
from faceq.report.names import video_name
from faceq.report.sheets import Sheet, sheets
from faceq.report.timelines import BINS, Bins, Timeline, clock, timeline
from faceq.selection.clips import Lengths, stretches
from faceq.storage.settings import S3Settings
from faceq.table.recommended import FILTER, MIN_SCORES

TIMELINES = 12
"""Maximum number of videos with a timeline."""

_TOPS = {"dbcnn": 100.0, "serfiq": 1.0}
"""Maximum value of the drawn scores, in the order of their panels."""

_SPELLED_OUT = 5
"""Number of kept stretches that the description for screen readers names."""


@dataclass(frozen=True)
class Video:
    """A video in the page. folder, name: its path, and its member in a shard. length: the time of its last
    frame, m:ss. shots: their number; 0 if the table has none. kept: length of its clips together, m:ss."""

    folder: str
    name: str
    length: str
    frames: int
    shots: int
    clips: int
    kept: str
    chart: Timeline


@dataclass(frozen=True)
class Videos:
    """The section. condition, lengths: what makes a clip. total: number of videos in the table. clips: number
    of their clips. kept: length of these clips together, m:ss. pictures: number of frames in the contact
    sheets. lost: number of those that can no longer be read."""

    condition: str
    lengths: Lengths
    total: int
    kept: str
    clips: int
    shown: list[Video]
    sheets: list[Sheet]

    @property
    def pictures(self) -> int:
        return sum(len(sheet.pictures) for sheet in self.sheets)

    @property
    def lost(self) -> int:
        return sum(sheet.lost for sheet in self.sheets)


def videos(rows: Rows, s3: S3Settings, with_pictures: bool) -> Videos | None:
    """The section about the videos of a table; None if it has no frames of videos.

    Args:
        rows: the table.
        s3: settings of the file system, for the sources.
        with_pictures: whether to make contact sheets, for which up to four videos are read.
    """
    if not len(rows.arrow(rows.chosen(OF_VIDEO, ["frame_index"], limit=1))):
        return None
    lengths = Lengths()
    known, clips = stretches(rows, FILTER, lengths)
    seconds = clips["end_s"].to_numpy() - clips["start_s"].to_numpy()
    kept = np.bincount(clips["video"].to_numpy() - 1, weights=seconds, minlength=len(known))
    chosen = known.take(np.lexsort((known["video"].to_numpy(), -kept))[:TIMELINES])
    return Videos(
        FILTER,
        lengths,
        len(known),
        _length(float(kept.sum())),
        len(clips),
        _shown(rows, chosen, clips),
        sheets(rows, known, clips, s3) if with_pictures else [],
    )


def _shown(rows: Rows, chosen: pa.Table, clips: pa.Table) -> list[Video]:
    """The videos of the timelines, in the order of `chosen` (source, member, video)."""
    seen = _seen(rows.name_of(chosen))
    about = {each["video"]: each for each in rows.arrow(rows.sql(_about(seen))).to_pylist()}
    grids = {video: _grid(each) for video, each in about.items()}
    widths = rows.name_of(pa.Table.from_pylist(list(grids.values())))
    bins = _by_video(rows.arrow(rows.sql(_bins(seen, widths))))
    cuts = _by_video(rows.arrow(rows.sql(_shots(seen))))
    kept = _by_video(clips.filter(pc.is_in(clips["video"], chosen["video"])))
    scales = {score: (top, MIN_SCORES[score]) for score, top in _TOPS.items()}
    found = []
    for row in chosen.to_pylist():
        video = row["video"]
        each = about[video]
        grid = grids[video]
        spans = [(clip["start_s"], clip["end_s"]) for clip in kept.get(video, [])]
        folder, name = video_name(row["source"], row["member"])
        chart = timeline(
            Bins(grid["start"], grid["width"], each["step"] or 0.0, bins[video]),
            each["high"],
            scales,
            [cut["begin"] for cut in cuts.get(video, [])][1:],
            spans,
            f"Timeline of {name}",
            _text(each, spans),
        )
        length, seconds = each["high"], sum(end - start for start, end in spans)
        counts = (each["frames"], each["shots"], len(spans))
        found.append(Video(folder, name, _length(length), *counts, _length(seconds), chart))
    return found


def _length(seconds: float) -> str:
    """m:ss, with a tenth of a second if it is short."""
    return clock(seconds, seconds < 10)


def _seen(chosen: str) -> str:
    """SQL: the frames of the chosen videos."""
    return f"""
    SELECT video, shot, frame_index, timestamp_s, serfiq, dbcnn FROM frames JOIN {chosen} AS v
    ON {same_video("frames", "v")}
    WHERE {OF_VIDEO}
    """


def _about(seen: str) -> str:
    """SQL: how many frames and shots each video has, when it begins and ends, and the usual time between two
    of its frames."""
    return f"""
    SELECT video, count(*) AS frames, count(DISTINCT shot) AS shots, min(timestamp_s) AS low,
        max(timestamp_s) AS high, median(step) AS step
    FROM (
        SELECT *, timestamp_s - lag(timestamp_s) OVER (PARTITION BY video ORDER BY frame_index) AS step
        FROM ({seen})
    ) GROUP BY video
    """


def _grid(about: dict[str, Any]) -> dict[str, Any]:
    """The centre of the first bin of a video, and the width of its bins: at least the distance of frames, so
    that a bin without a frame means that frames are missing."""
    length = about["high"] - about["low"]
    width = max(length / (BINS - 1), about["step"] or 0.0) or 1.0
    return {"video": about["video"], "start": about["low"], "width": width}


def _bins(seen: str, widths: str) -> str:
    """SQL: the scores of the frames in each bin."""
    values = ", ".join(
        f"avg({score}) AS {score}_mean, min({score}) AS {score}_low, max({score}) AS {score}_high"
        for score in _TOPS
    )
    return f"""
    SELECT video, floor((timestamp_s - start) / width + 0.5)::INTEGER AS bin, {values}
    FROM ({seen}) JOIN {widths} USING (video) GROUP BY ALL ORDER BY video, bin
    """


def _shots(seen: str) -> str:
    """SQL: when each shot begins."""
    return f"""
    SELECT video, min(timestamp_s) AS begin FROM ({seen}) WHERE shot IS NOT NULL
    GROUP BY video, shot ORDER BY video, begin
    """


def _by_video(found: pa.Table) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in found.to_pylist():
        groups.setdefault(row["video"], []).append(row)
    return groups


def _text(about: dict[str, Any], spans: list[tuple[float, float]]) -> str:
    """What a timeline shows, for screen readers."""
    said = f"dbcnn and serfiq over {clock(about['high'])} and {about['frames']:,} frames"
    if about["shots"] > 1:
        said += f" in {about['shots']:,} shots"
    if not spans:
        return f"{said}. Nothing is kept."
    named = ", ".join(f"{clock(start)} to {clock(end)}" for start, end in spans[:_SPELLED_OUT])
    more = len(spans) - _SPELLED_OUT
    return f"{said}. Kept: {named}{f', and {more:,} more' if more > 0 else ''}."
