"""What the page counts, frames or faces, and what it leaves out."""

from dataclasses import dataclass
from typing import Any

from faceq.query.rows import Rows
from faceq.query.sql import HAS_FACES
from faceq.table.schema import FACES_COLUMN


@dataclass(frozen=True)
class FaceScope:
    """The frames behind a page about faces.

    frames: number of frames with a face. without: number of the other frames, which the page leaves out.
    runs_of_one: number of runs without `faces: all`, of whose frames only the scored face counts.
    """

    frames: int
    without: int
    runs_of_one: int


def face_scope(rows: Rows, runs: list[dict[str, Any]]) -> FaceScope:
    """The frames behind the rows of faces of a table. runs: records of all runs."""
    counted = "SELECT count(*) AS n, count(face_x) AS with_face FROM frames"
    found = rows.arrow(rows.sql(counted)).to_pylist()[0]
    of_one = sum(run.get("faces") != "all" for run in runs)
    return FaceScope(found["with_face"], found["n"] - found["with_face"], of_one)


def further_faces(rows: Rows) -> int:
    """The number of faces in the lists `faces` of a table that are not the main face of their frame."""
    if FACES_COLUMN.name not in rows.stored:
        return 0
    counted = f"SELECT coalesce(sum(len({FACES_COLUMN.name}) - 1), 0)::BIGINT AS n FROM frames"
    where = f"WHERE len({FACES_COLUMN.name}) > 0 AND {HAS_FACES}"
    return int(rows.arrow(rows.sql(f"{counted} {where}"))["n"][0].as_py())
