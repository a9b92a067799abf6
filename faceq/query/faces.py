"""SQL for one row per face instead of one per frame."""

from collections.abc import Sequence

from faceq.table.schema import FACE, FACES_COLUMN

FACE_POSITION, IS_MAIN = "face", "main"
"""Columns of a row of a face: its position in the frame's `faces`, from 0, and whether it is the main
face."""

_BOX = ("face_x", "face_y", "face_w", "face_h")


def per_face(columns: Sequence[str], every_run: bool) -> str:
    """A statement over `{rows}`, which are rows of frames, that gives a row for each face.

    A row of a run without `faces: all` counts as its one scored face. Files of statuses without faces are
    not read.

    Args:
        columns: of the rows.
        every_run: all rows are of runs with `faces: all`. Then the columns of the main face need not be read.
    """
    of_frame = [name for name in columns if name not in (*FACE.names, FACES_COLUMN.name)]
    main = f"CASE WHEN face_x IS NOT NULL THEN [struct_pack({', '.join(_packed(columns))})] END"
    stored = FACES_COLUMN.name in columns
    faces = FACES_COLUMN.name if every_run and stored else f"coalesce(faces, {main})" if stored else main
    is_main = " AND ".join(f"found.{name} = main_{name}" for name in _BOX)
    return f"""
        SELECT {", ".join(of_frame)}, {FACE_POSITION}, {is_main} AS {IS_MAIN},
            {", ".join(f"found.{name} AS {name}" for name in FACE.names)}
        FROM (
            SELECT {", ".join(of_frame)}, {", ".join(f"{name} AS main_{name}" for name in _BOX)},
                unnest(of_frame) AS found, generate_subscripts(of_frame, 1) - 1 AS {FACE_POSITION}
            FROM (
                SELECT *, {faces} AS of_frame FROM {{rows}} WHERE status NOT IN ('unreadable', 'no_face')
            )
        )"""


def _packed(columns: Sequence[str]) -> list[str]:
    null = {"track": "NULL::INTEGER", "embedding": "NULL::FLOAT[]"}
    return [f"{name} := {name if name in columns else null[name]}" for name in FACE.names]
