"""Cut clips out of their videos, and write them into a folder."""

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

import numpy as np
import pyarrow as pa

from faceq.config import Limits
from faceq.errors import UsageError
from faceq.query.export import export
from faceq.query.rows import Rows
from faceq.query.sql import OF_VIDEO
from faceq.runtime.device import usable_cpus
from faceq.runtime.parallel import in_threads
from faceq.selection.clip_schema import CUT
from faceq.selection.cut_clip import Clip, Cut
from faceq.selection.cut_copy import copy
from faceq.selection.cut_encode import Encoding, encode
from faceq.selection.cut_folder import LIST, CutFolder
from faceq.selection.face_path import path_of
from faceq.sources import use_videos
from faceq.sources.local import ChangedError
from faceq.storage.settings import S3Settings

_LAYOUT = "clips 1"
"""Number of the names and formats in the folder."""

SIZES = range(16, 4097, 2)
"""Possible sides of a crop in pixels: H.264 needs even ones."""

_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Way:
    """How clips are cut. mode: encode the frames again, or copy them from a key frame on. crop: "face" to cut
    out a square of `size` pixels that follows the face, None for the whole frame."""

    mode: Literal["encode", "copy"] = "encode"
    crop: Literal["face"] | None = None
    size: int = 512

    def __post_init__(self) -> None:
        """Raises UsageError if this is not possible."""
        if self.crop and self.mode == "copy":
            raise UsageError("clips: --crop needs --cut-mode encode")
        if self.size not in SIZES:
            raise UsageError(
                f"clips: --crop-size {self.size} must be an even number from {SIZES[0]} to {SIZES[-1]}"
            )


def cut(
    rows: Rows,
    clips: pa.Table,
    folder: str,
    way: Way,
    selection: dict[str, object],
    s3: S3Settings,
    progress: Callable[[int], None] = lambda done: None,
) -> pa.Table:
    """Cut clips out of their videos into `<clip_id>.mp4` (`.mkv` if MP4 cannot hold the codec), and list them
    in `clips.parquet`.

    Each video is decoded once, whatever the number of its clips; where clips of several tracks overlap, once
    for each of them. Several sources are read at the same time, one per CPU. A file appears when it is
    complete; those that exist are kept. A video that cannot be cut does not stop the others.

    Args:
        rows: the table of the clips.
        clips: from `clips.find`.
        folder: a new or empty local folder, or one with the same clips, which is completed.
        way: how to cut them.
        selection: what the clips were chosen by. Clips of another selection are not added to the folder.
        s3: settings for the sources.
        progress: called with the number of further clips that are finished.

    Returns:
        The clips with the columns of `clip_schema.CUT`.

    Raises:
        UsageError: the folder contains something else, or another process writes into it.
        StorageError: the folder cannot be written to.
    """
    place = CutFolder(folder)
    wanted = {"layout": _LAYOUT, "table": rows.table.uri, **selection, **vars(way)}
    with place.translate_errors():
        place.check(wanted)
    with place.exclusive():
        with place.translate_errors():
            place.claim(wanted)
        found = _Work(place, way, s3, progress).all_of(rows, clips)
        listed = clips
        cuts = [found[clip_id] for clip_id in clips["clip_id"].to_pylist()]
        for column in CUT:
            name = column.name.removeprefix("file_")
            values = [getattr(one, name) for one in cuts]
            listed = listed.append_column(column.field, pa.array(values, column.type))
        export(rows, rows.sql(f"FROM {rows.name_of(listed)}"), os.path.join(place.path, LIST), s3)
    return listed


class _Work:
    """Cuts clips in several threads: FFmpeg and OpenCV release the GIL."""

    def __init__(self, place: CutFolder, way: Way, s3: S3Settings, progress: Callable[[int], None]):
        self._place, self._way, self._s3, self._progress = place, way, s3, progress
        self._stop = threading.Event()

    def all_of(self, rows: Rows, clips: pa.Table) -> dict[str, Cut]:
        """What came of each clip, by its id."""
        found: dict[str, Cut] = {}
        sources = self._sources(rows, clips, found)
        for cuts in in_threads(self._source, sources, usable_cpus(), self._stop):
            found |= cuts
        return found

    def _sources(self, rows: Rows, clips: pa.Table, found: dict[str, Cut]) -> Iterator[list[Clip]]:
        """The clips that are missing, in groups of one source. The others are added to `found`."""
        wanted = _with_faces(rows, clips) if self._way.crop else map(_clip, clips.to_pylist())
        for _, group in itertools.groupby(wanted, key=lambda clip: clip.source):
            missing = []
            for clip in group:
                existing = self._place.existing(clip.clip_id)
                if existing is None and (clip.face is not None or not self._way.crop):
                    missing.append(clip)
                else:
                    error = "no frame of the clip has a face"
                    found[clip.clip_id] = existing or Cut(clip.clip_id, error=error)
                    self._progress(1)
            if missing:
                yield missing

    def _source(self, clips: list[Clip]) -> dict[str, Cut]:
        """Cut the clips of one source."""
        found: dict[str, Cut] = {}
        members: dict[str | None, list[Clip]] = {}
        for clip in clips:
            members.setdefault(clip.member, []).append(clip)

        def done(one: Cut) -> None:
            found[one.clip_id] = one
            self._progress(1)

        def use(member: str | None, file: BinaryIO) -> None:
            memory = Limits().source_memory
            if self._way.mode == "copy":
                copy(file, members[member], self._place.create, memory, self._stop, done)
            else:
                how = Encoding(self._place.create, self._way.size, memory, self._stop)
                for lane in lanes(members[member]):
                    encode(file, lane, how, done)

        last = {member: max(clip.end_frame for clip in group) for member, group in members.items()}
        reasons = use_videos(clips[0].source, last, use, self._s3)
        changed = reasons.get(None) == str(ChangedError())
        for clip in clips:
            error = reasons.get(clip.member, reasons.get(None))
            one = found.get(clip.clip_id)
            if one is None:
                done(Cut(clip.clip_id, error=error or "there is no such video in its source any more"))
            elif changed and one.file:
                with contextlib.suppress(OSError):
                    self._place.remove(one.file)
                found[clip.clip_id] = Cut(clip.clip_id, error=reasons[None])
        return found


def lanes(clips: Sequence[Clip]) -> list[list[Clip]]:
    """The clips of one video in groups within which they do not overlap, each sorted by frames."""
    found: list[list[Clip]] = []
    for clip in sorted(clips, key=lambda clip: (clip.start_frame, clip.end_frame, clip.clip_id)):
        free = next((lane for lane in found if lane[-1].end_frame < clip.start_frame), None)
        if free is None:
            found.append([clip])
        else:
            free.append(clip)
    return found


def _clip(row: dict[str, object]) -> Clip:
    names = ("clip_id", "source", "member", "start_s", "end_s", "start_frame", "end_frame")
    return Clip(*(row[name] for name in names))  # type: ignore[arg-type]


def _with_faces(rows: Rows, clips: pa.Table) -> Iterator[Clip]:
    """The clips with the paths of their faces. The rows of one clip are in memory."""
    numbered = clips.append_column("clip", pa.array(range(len(clips)), pa.int64()))
    faces = rows.batches(rows.sql(_faces(rows, rows.name_of(numbered))), _ROWS_AT_ONCE)
    each = itertools.groupby(
        (row for batch in faces for row in zip(*(c.to_pylist() for c in batch.columns), strict=True)),
        key=lambda row: row[0],
    )
    number, group = next(each, (None, None))
    for index, row in enumerate(clips.to_pylist()):
        clip = _clip(row)
        if index == number and group is not None:
            values = np.array(list(group), np.float64)
            path = path_of(clip.start_s, clip.end_s, values[:, 1], values[:, 2:])
            clip = replace(clip, face=path)
            number, group = next(each, (None, None))
        yield clip


def _faces(rows: Rows, clips: str) -> str:
    """SQL: the face boxes of the clips. The last clip of a video or track that begins before a frame is the
    only one that can contain it."""
    track = " || '/' || track" if rows.of_faces else ""
    place = f"coalesce('of ' || member, ''){track} AS place"
    return f"""
    SELECT c.clip, f.timestamp_s, f.face_x, f.face_y, f.face_w, f.face_h
    FROM (
        SELECT *, {place} FROM {rows.view} WHERE {OF_VIDEO} AND face_w > 0 AND face_h > 0
    ) AS f ASOF JOIN (SELECT *, {place} FROM {clips}) AS c
    ON f.source = c.source AND f.place = c.place AND f.frame_index >= c.start_frame
    WHERE f.frame_index <= c.end_frame ORDER BY c.clip, f.frame_index
    """
