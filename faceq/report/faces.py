"""Sample faces for the report: some for each stretch of a score, read back from their sources, cut out."""

import base64
import io
import operator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from PIL import Image

from faceq.query.rows import SINGLE_PICTURE, Rows
from faceq.sources.decode.image import UnreadableError, decode
from faceq.sources.reread import COLUMNS, frames_of
from faceq.storage.settings import S3Settings

FACE_SIDE = 88
"""Side of a face in the page, pixels."""

STRETCHES = 40
"""Parts of a score's scale that get faces of their own."""

FACES_PER_STRETCH = 3
_STRETCHES_WITH_SHARDS = 10
_MARGIN = 1.35
_JPEG_QUALITY = 75
_VALUES = ("serfiq", "dbcnn", "face_x", "face_y", "face_w", "face_h")


@dataclass(frozen=True)
class Face:
    """A face for the page: its scores (`dbcnn` None below the job's threshold), and the picture as a data
    URI."""

    serfiq: float
    dbcnn: float | None
    picture: str


@dataclass(frozen=True)
class Faces:
    """Faces by the score that they were chosen for, lowest first; how many shards and videos were read for
    them, and how many chosen faces could not be read any more."""

    by_score: dict[str, list[Face]]
    shards: int
    lost: int


def sample(rows: Rows, scales: dict[str, float], s3: S3Settings) -> Faces:
    """Choose faces along each score's scale, the same ones each time, and read them.

    A shard or a video has to be read up to the frame that is wanted, so no more than some twenty are: for
    each score those of one face for every tenth of its scale. Single pictures may be any.

    Args:
        rows: the table.
        scales: highest value of each score, by its column's name.
        s3: settings of the file system.
    """
    shards = sorted({source for score, top in scales.items() for source in _shards(rows, score, top)})
    near = ", ".join(_text(source) for source in shards)
    where = f"({SINGLE_PICTURE} OR source IN ({near}))" if shards else SINGLE_PICTURE
    ids = {score: _ids(rows, score, top, where) for score, top in scales.items()}
    wanted = sorted({number for chosen in ids.values() for number in chosen})
    if not wanted:
        return Faces({score: [] for score in scales}, 0, 0)
    listed = ", ".join(str(number) for number in wanted)
    columns = ", ".join((*COLUMNS, *_VALUES))
    chosen = rows.arrow(
        rows.sql(f"SELECT {columns} FROM frames WHERE frame_id IN ({listed}) ORDER BY source, frame_index")
    )
    faces = _read(chosen, s3)
    by_score = {}
    for score, chosen_ids in ids.items():
        there = [faces[number] for number in chosen_ids if number in faces]
        by_score[score] = sorted(there, key=operator.attrgetter(score))
    return Faces(by_score, len(shards), len(wanted) - len(faces))


def _shards(rows: Rows, score: str, top: float) -> list[str]:
    """Shards and videos with faces in each tenth of a score."""
    found = rows.sql(
        f"SELECT arg_min(source, hash(frame_id)) AS source FROM frames WHERE {score} IS NOT NULL "
        f"AND NOT {SINGLE_PICTURE} GROUP BY floor({score} / {top} * {_STRETCHES_WITH_SHARDS})"
    )
    return rows.arrow(found)["source"].to_pylist()


def _ids(rows: Rows, score: str, top: float, where: str) -> list[int]:
    """Frames in each stretch of a score."""
    found = rows.sql(
        f"SELECT arg_min(frame_id, hash(frame_id), {FACES_PER_STRETCH}) AS ids FROM frames "
        f"WHERE {score} IS NOT NULL AND {where} GROUP BY floor({score} / {top} * {STRETCHES})"
    )
    return [number for ids in rows.arrow(found)["ids"].to_pylist() for number in ids]


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _read(chosen: pa.Table, s3: S3Settings) -> dict[int, Face]:
    values = chosen.select(["frame_id", *_VALUES]).to_pylist()
    faces = {}
    for number, frame in frames_of(chosen, s3):
        if frame.image is None:
            continue
        row = values[number]
        try:
            picture = decode(frame.image, Image.MAX_IMAGE_PIXELS or 1 << 28)
        except UnreadableError:
            continue  # another picture has taken its place
        cut = _cut_out(picture, [row[f"face_{side}"] for side in "xywh"])
        faces[row["frame_id"]] = Face(row["serfiq"], row["dbcnn"], cut)
    return faces


def _cut_out(picture: np.ndarray, box: list[float]) -> str:
    """The face with some margin, as a data URI.

    Args:
        picture: (H, W, 3) uint8 RGB.
        box: x, y, w, h in pixels.
    """
    height, width = picture.shape[:2]
    x, y, w, h = box
    side = min(_MARGIN * max(w, h), width, height)
    left = float(np.clip(x + w / 2 - side / 2, 0, width - side))
    top = float(np.clip(y + h / 2 - side / 2, 0, height - side))
    part = (left, top, left + side, top + side)
    small = Image.fromarray(picture).resize((FACE_SIDE, FACE_SIDE), Image.Resampling.LANCZOS, box=part)
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()
