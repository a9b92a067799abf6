"""Sample faces for the report: choose some for each bin of a score and for both ends of each measure, read
their frames, and crop the faces."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from faceq.query.faces import FACE_POSITION
from faceq.query.rows import Rows
from faceq.query.sql import SINGLE_PICTURE
from faceq.report.embedded import data_uri, pictures_of
from faceq.sources.reread import COLUMNS
from faceq.storage.settings import S3Settings

FACE_SIDE = 88
"""Side of a face in the page, in pixels."""

BINS = 40
"""Number of bins on the scale of a score. Faces are chosen in every bin."""

FACES_PER_BIN = 3
FACES_PER_END = 4
"""Number of faces with the lowest values of a measure, and of those with the highest ones."""

_GROUPS, _GROUP_SECONDS = 64, 10
"""The faces at an end are from different groups, so that they are not neighbours in one video. The group of a
face depends on its file, in a video on its interval of _GROUP_SECONDS, and on its position among the faces of
its frame."""

BEYOND = (128, 128, 128)
"""RGB colour beyond the edges of a frame."""

_BINS_WITH_SHARDS = 10
_MARGIN = 1.35
_VALUES = ("serfiq", "dbcnn", "face_x", "face_y", "face_w", "face_h")


@dataclass(frozen=True)
class Face:
    """A face in the page: its scores (`dbcnn` is None below the threshold of the job), and its image as a
    data URI."""

    serfiq: float
    dbcnn: float | None
    picture: str


@dataclass(frozen=True)
class Ends:
    """Faces with the lowest and with the highest values of a measure, each with its value, the outermost
    first. Both are empty if all rows have the same value."""

    lowest: list[tuple[float, Face]]
    highest: list[tuple[float, Face]]


@dataclass(frozen=True)
class Faces:
    """The chosen faces by score, lowest first; those at both ends of each measure; the number of thumbnails;
    the number of shards and videos that were read for them; and the number of chosen faces that can no longer
    be read."""

    by_score: dict[str, list[Face]]
    by_measure: dict[str, Ends]
    shards: int
    lost: int

    @property
    def thumbnails(self) -> int:
        ends = (end for found in self.by_measure.values() for end in (found.lowest, found.highest))
        return sum(len(found) for found in self.by_score.values()) + sum(len(end) for end in ends)


def sample(rows: Rows, scales: dict[str, float], measures: Sequence[str], s3: S3Settings) -> Faces:
    """Choose faces along the scale of each score and at both ends of each measure, and read them. The choice
    is repeatable.

    A shard or a video must be read up to the wanted frame. Therefore at most about twenty of them are read:
    for each score, the source of one face in every tenth of the scale. Single images are not limited.

    Args:
        rows: the table, of frames or of faces. The face of a frame is its main face.
        scales: maximum value of each score, by the name of its column.
        measures: names of the columns of the measures.
        s3: settings of the file system.
    """
    shards = sorted({source for score, top in scales.items() for source in _shards(rows, score, top)})
    names = ", ".join(_sql_string(source) for source in shards)
    where = f"({SINGLE_PICTURE} OR source IN ({names}))" if shards else SINGLE_PICTURE
    ids = {score: _ids(rows, score, top, where) for score, top in scales.items()}
    ends = {measure: _ends(rows, measure, where) for measure in measures}
    of_ends = {number for found in ends.values() for end in found for _, number in end}
    wanted = sorted(of_ends.union(*ids.values()))
    if not wanted:
        return Faces({score: [] for score in scales}, {}, 0, 0)
    listed = ", ".join(str(number) for number in wanted)
    columns = ", ".join((*COLUMNS, *_VALUES, f"{rows.key} AS key"))
    chosen = rows.arrow(
        rows.sql(
            f"SELECT {columns} FROM {rows.view} WHERE {rows.key} IN ({listed}) ORDER BY source, frame_index"
        )
    )
    faces = _read(chosen, s3, centred=rows.of_faces)
    by_score = {}
    for score, chosen_ids in ids.items():
        found = [faces[number] for number in chosen_ids if number in faces]
        by_score[score] = sorted(found, key=operator.attrgetter(score))
    by_measure = {}
    for measure, both in ends.items():
        shown = [[(value, faces[number]) for value, number in end if number in faces] for end in both]
        by_measure[measure] = Ends(*shown)
    return Faces(by_score, by_measure, len(shards), len(wanted) - len(faces))


def _shards(rows: Rows, score: str, top: float) -> list[str]:
    """For each tenth of the scale of a score, one shard or video with a face there."""
    found = rows.sql(
        f"SELECT arg_min(source, hash({rows.key})) AS source FROM {rows.view} WHERE {score} IS NOT NULL "
        f"AND NOT {SINGLE_PICTURE} GROUP BY floor({score} / {top} * {_BINS_WITH_SHARDS})"
    )
    return rows.arrow(found)["source"].to_pylist()


def _ids(rows: Rows, score: str, top: float, where: str) -> list[int]:
    """Ids of FACES_PER_BIN rows in each bin of a score."""
    found = rows.sql(
        f"SELECT arg_min({rows.key}, hash({rows.key}), {FACES_PER_BIN}) AS ids FROM {rows.view} "
        f"WHERE {score} IS NOT NULL AND {where} GROUP BY floor({score} / {top} * {BINS})"
    )
    return [number for ids in rows.arrow(found)["ids"].to_pylist() for number in ids]


def _ends(rows: Rows, measure: str, where: str) -> tuple[list[tuple[float, int]], list[tuple[float, int]]]:
    """Value and id of the rows with the lowest and of those with the highest values of a measure."""
    ordered = f"({measure}, hash({rows.key}))"  # of rows with the same value, always the same ones
    parts = ["source", "member", f"floor(timestamp_s / {_GROUP_SECONDS})"]
    if rows.of_faces:
        parts.append(FACE_POSITION)
    group = f"hash({', '.join(parts)}) % {_GROUPS}"
    found = rows.arrow(
        rows.sql(
            f"SELECT min({measure}) AS low, arg_min({rows.key}, {ordered}) AS low_id, "
            f"max({measure}) AS high, arg_max({rows.key}, {ordered}) AS high_id "
            f"FROM {rows.view} WHERE {measure} IS NOT NULL AND {where} GROUP BY {group}"
        )
    ).to_pylist()
    lowest = sorted((group["low"], group["low_id"]) for group in found)
    highest = sorted(((group["high"], group["high_id"]) for group in found), reverse=True)
    if not found or lowest[0][0] == highest[0][0]:
        return [], []
    return lowest[:FACES_PER_END], highest[:FACES_PER_END]


def _sql_string(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _read(chosen: pa.Table, s3: S3Settings, centred: bool) -> dict[int, Face]:
    """The chosen faces by `key`. A frame with several of them is read once. centred: see `thumbnail`."""
    of_frame: dict[int, list[dict[str, Any]]] = {}
    for row in chosen.select(["frame_id", "key", *_VALUES]).to_pylist():
        of_frame.setdefault(row["frame_id"], []).append(row)
    first = pc.index_in(pa.array(list(of_frame), pa.int64()), chosen["frame_id"].combine_chunks())
    frames = chosen.take(first)
    ids = frames["frame_id"].to_pylist()
    faces = {}
    for number, picture in pictures_of(frames, s3):
        for row in of_frame[ids[number]]:
            cropped = thumbnail(picture, [row[f"face_{side}"] for side in "xywh"], centred=centred)
            faces[row["key"]] = Face(row["serfiq"], row["dbcnn"], cropped)
    return faces


def thumbnail(
    picture: np.ndarray, box: list[float], length: int = FACE_SIDE, *, centred: bool = False
) -> str:
    """The face with a margin, as the data URI of a square JPEG.

    Args:
        picture: (H, W, 3) uint8 RGB.
        box: x, y, w, h in pixels.
        length: side of the JPEG in pixels.
        centred: the face is in the middle, with grey beyond the edges of the frame. Otherwise the square is
            moved into the frame: at its edge, it may show more of a neighbour than of the face.
    """
    height, width = picture.shape[:2]
    x, y, w, h = box
    if centred:
        side = min(_MARGIN * max(w, h), max(width, height))
        return data_uri(_centred(Image.fromarray(picture), (x + w / 2, y + h / 2), side, length))
    side = min(_MARGIN * max(w, h), width, height)
    left = float(np.clip(x + w / 2 - side / 2, 0, width - side))
    top = float(np.clip(y + h / 2 - side / 2, 0, height - side))
    part = (left, top, left + side, top + side)
    small = Image.fromarray(picture).resize((length, length), Image.Resampling.LANCZOS, box=part)
    return data_uri(small)


def _centred(picture: Image.Image, middle: tuple[float, float], side: float, length: int) -> Image.Image:
    """The square of a side around a point of a picture, as an image of `length` pixels."""
    square = Image.new("RGB", (length, length), BEYOND)
    low = [max(0.0, at - side / 2) for at in middle]
    high = [min(float(most), at + side / 2) for at, most in zip(middle, picture.size, strict=True)]
    scale = length / side
    size = [max(1, round((end - start) * scale)) for start, end in zip(low, high, strict=True)]
    part = picture.resize(
        (size[0], size[1]), Image.Resampling.LANCZOS, box=(low[0], low[1], high[0], high[1])
    )
    left, top = (round((start - at + side / 2) * scale) for start, at in zip(low, middle, strict=True))
    square.paste(part, (left, top))
    return square
