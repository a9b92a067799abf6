"""The rows of faces: one for each face of a table instead of one for each frame."""

import re
from collections.abc import Sequence

import pyarrow as pa

from faceq.query.sql import HAS_FACES
from faceq.table.column import Column
from faceq.table.schema import FACE, FACES_COLUMN

FACE_VIEW = "faces"
"""Name of the rows of faces in SQL statements."""

FACE_COLUMNS = (
    Column(
        "face_id",
        pa.int64(),
        "Identifies the face: its frame and, to the pixel, its box. So a face has the same number in each "
        "table of the same frames that has this face. It is the last 8 bytes, as a little-endian number, "
        "divided by 2, of the MD5 hash of `frame_id` and the rounded `face_x`, `face_y`, `face_w` and "
        "`face_h`, with `/` between them. If the face has no box, `face` takes its place.",
        range="≥ 0",
    ),
    Column("face", pa.int32(), "Position of the face in `faces` of its frame.", range="≥ 0"),
    Column("main", pa.bool_(), "Whether the columns of the frame describe this face."),
)
"""The columns that rows of faces have, and rows of frames do not."""

FACE_ID, FACE_POSITION, IS_MAIN = (column.name for column in FACE_COLUMNS)

TRACK = "track"

BOX = ("face_x", "face_y", "face_w", "face_h")
"""The columns of the box of a face."""


def per_face(frames: str, columns: Sequence[str], every_run: bool) -> str:
    """A SELECT statement that gives a row for each face of rows of frames.

    A row of a run without `faces: all` counts as its one scored face. Files of statuses without faces are
    not read.

    Args:
        frames: name of the rows in SQL.
        columns: of the rows.
        every_run: all rows are of runs with `faces: all`. Then the columns of the main face need not be read.
    """
    of_frame = [name for name in columns if name not in (*FACE.names, FACES_COLUMN.name)]
    main = f"CASE WHEN face_x IS NOT NULL THEN [struct_pack({', '.join(_packed(columns))})] END"
    stored = FACES_COLUMN.name in columns
    faces = FACES_COLUMN.name if every_run and stored else f"coalesce(faces, {main})" if stored else main
    box = " || '/' || ".join(f"round(found.{name})::INTEGER" for name in BOX)
    is_main = " AND ".join(f"found.{name} = main_{name}" for name in BOX)
    return f"""
        SELECT {", ".join(of_frame)},
            (md5_number_lower(frame_id || '/' || coalesce({box}, {FACE_POSITION}::VARCHAR)) >> 1)::BIGINT AS
            {FACE_ID}, {FACE_POSITION}, {is_main} AS {IS_MAIN},
            {", ".join(f"found.{name} AS {name}" for name in FACE.names)}
        FROM (
            SELECT {", ".join(of_frame)}, {", ".join(f"{name} AS main_{name}" for name in BOX)},
                unnest(of_frame) AS found,
                (generate_subscripts(of_frame, 1) - 1)::INTEGER AS {FACE_POSITION}
            FROM (
                SELECT *, {faces} AS of_frame FROM {frames} WHERE {HAS_FACES}
            )
        )"""


def needs_tracks(*texts: str | None) -> bool:
    """Whether SQL texts name the column `track`. None stands for all columns."""
    return any(text is None or re.search(rf"\b{TRACK}\b", text, re.IGNORECASE) for text in texts)


def statement_needs_tracks(statement: str) -> bool:
    """Whether a whole SQL statement may use the column `track`: it names it, or uses columns without their
    names, by `*`, `COLUMNS(…)` or a FROM without SELECT. A product counts as a `*`."""
    text = re.sub(r"\bcount\s*\(\s*\*\s*\)", "", statement, flags=re.IGNORECASE)
    unnamed = re.search(r"\*|\bcolumns\s*\(", text, re.IGNORECASE)
    return needs_tracks(text) or unnamed is not None or not re.search(r"\bselect\b", text, re.IGNORECASE)


def with_tracks(faces: str, numbers: str) -> str:
    """A SELECT statement: rows of faces with their tracks.

    Args:
        faces: the statement of `per_face`.
        numbers: name of the tracks in SQL: frame_id, face, track.
    """
    return f"""
        SELECT f.* REPLACE (n.{TRACK} AS {TRACK})
        FROM ({faces}) AS f LEFT JOIN {numbers} AS n USING (frame_id, {FACE_POSITION})"""


def _packed(columns: Sequence[str]) -> list[str]:
    null = {"track": "NULL::INTEGER", "embedding": "NULL::FLOAT[]"}
    return [f"{name} := {name if name in columns else null[name]}" for name in FACE.names]
