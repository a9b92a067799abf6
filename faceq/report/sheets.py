"""Contact sheets of the longest clips: some frames of each, read from their video."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from faceq.query.rows import Rows
from faceq.query.sql import same_video
from faceq.report.embedded import data_uri, pictures_of
from faceq.report.names import video_name
from faceq.report.timelines import clock
from faceq.selection.clip_values import mean_scores
from faceq.sources.reread import COLUMNS
from faceq.storage.settings import S3Settings

SHEETS = 4
"""Maximum number of contact sheets."""

FRAMES = 6
"""Number of frames of a contact sheet."""

SIDE = 176
"""Longer side of a frame in the page, in pixels."""


@dataclass(frozen=True)
class Picture:
    """A frame in a contact sheet: its time, m:ss.s, and its image as a data URI."""

    time: str
    image: str
    width: int
    height: int


@dataclass(frozen=True)
class Sheet:
    """A clip with a contact sheet. start, end: m:ss.s. seconds: its length. serfiq, dbcnn: means; None
    without values. lost: number of chosen frames that can no longer be read."""

    folder: str
    name: str
    start: str
    end: str
    seconds: float
    serfiq: float | None
    dbcnn: float | None
    pictures: list[Picture]
    lost: int


def sheets(rows: Rows, videos: pa.Table, clips: pa.Table, s3: S3Settings) -> list[Sheet]:
    """Contact sheets of SHEETS of the longest clips, of different videos as far as there are any.

    Args:
        rows: the table.
        videos: the videos of the table, from `stretches`.
        clips: the clips of the table, from `stretches`.
        s3: settings of the file system.
    """
    chosen = clips.take(_longest(clips))
    if not len(chosen):
        return []
    few = videos.filter(pc.is_in(videos["video"], chosen["video"]))  # only their frames need to be read
    names = {video["video"]: video for video in few.to_pylist()}
    means = mean_scores(rows, rows.name_of(few), chosen).to_pylist()
    known = [
        {**names[clip["video"]], **clip, **mean} for clip, mean in zip(chosen.to_pylist(), means, strict=True)
    ]
    frames = rows.arrow(rows.sql(_frames(rows.name_of(pa.Table.from_pylist(known)))))
    clip_of, times = frames["clip"].to_pylist(), frames["timestamp_s"].to_pylist()
    pictures = dict(sorted((row, _picture(pixels, times[row])) for row, pixels in pictures_of(frames, s3)))
    made = []
    for number, clip in enumerate(known):
        of_clip = [picture for row, picture in pictures.items() if clip_of[row] == number]
        made.append(
            Sheet(
                *video_name(clip["source"], clip["member"]),
                clock(clip["start_s"], True),
                clock(clip["end_s"], True),
                clip["end_s"] - clip["start_s"],
                clip["serfiq_mean"],
                clip["dbcnn_mean"],
                of_clip,
                clip_of.count(number) - len(of_clip),
            )
        )
    return sorted(made, key=lambda sheet: -round(sheet.seconds, 1))


def _picture(pixels: np.ndarray, time: float) -> Picture:
    """A frame, (H, W, 3) uint8 RGB, reduced to SIDE."""
    small = Image.fromarray(pixels)
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return Picture(clock(time, True), data_uri(small), *small.size)


def _longest(clips: pa.Table) -> np.ndarray:
    """The places of the chosen clips, in the order of the table.

    First the longest clip of each video, then the second longest ones. Of clips that are equally long to a
    tenth of a second, the one that begins first in its video, because less must be read for it.
    """
    video, start = clips["video"].to_numpy(), clips["start_s"].to_numpy()
    length = np.round(clips["end_s"].to_numpy() - start, 1)
    order = np.lexsort((start, -length, video))
    sorted_videos = video[order]
    first = np.searchsorted(sorted_videos, sorted_videos)  # where the clips of each video begin
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - first
    return np.sort(np.lexsort((video, start, -length, rank))[:SHEETS])


def _frames(clips: str) -> str:
    """SQL: the readable frames closest to FRAMES times at equal distances in each clip, each only once."""
    of_frame = ", ".join(f"frames.{name}" for name in COLUMNS)
    fields = ", ".join(f"{name} := {name}" for name in COLUMNS)
    return f"""
    WITH inside AS (
        SELECT clip, part, start_s + part * (end_s - start_s) / {FRAMES - 1} AS wanted, {of_frame}
        FROM frames JOIN {clips} AS c
        ON {same_video("frames", "c")}
        CROSS JOIN range({FRAMES}) AS parts(part)
        WHERE timestamp_s IS NOT NULL AND frame_index BETWEEN c.start_frame AND c.end_frame
            AND status <> 'unreadable'
    ), nearest AS (
        SELECT clip, arg_min(struct_pack({fields}), (abs(timestamp_s - wanted), frame_index)) AS frame
        FROM inside GROUP BY clip, part
    )
    SELECT DISTINCT clip, {", ".join(f"frame.{name} AS {name}" for name in COLUMNS)}
    FROM nearest ORDER BY source, member, frame_index
    """
