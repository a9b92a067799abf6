"""The faces of frames between the stages, with `faces: all`.

A row stays a frame: its faces are a list in the column `faces`, with the same fields as the columns of a row
that has one face. A stage scores them in a table of faces, so that faces, not frames, fill its mini-batches.
The faces of a frame are never in two tables, so no rows have to be brought together again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from faceq.config import MainFace
from faceq.sources.frame import READ_SCHEMA
from faceq.table.schema import FACE, FACES_COLUMN, scatter_column, type_of

FACES = FACES_COLUMN.name

IS_MAIN = "is_main"
"""Field of a face between the stages: whether it is the face that `faces: largest` would score."""

FACES_AT_ONCE = 256
"""Maximum number of faces that a stage gets together, like `faceq.stages.scorer.AT_ONCE` frames: a stage
needs seven times the memory of their crops."""


def with_faces(
    batch: pa.Table, faces: Sequence[Sequence[Mapping[str, Any]]], names: Sequence[str]
) -> pa.Table:
    """The frames with a column of their faces.

    Args:
        batch: the frames.
        faces: of each frame; values by name, with IS_MAIN. None are left out.
        names: of the values.
    """
    flat = [face for of_frame in faces for face in of_frame]
    arrays = [pa.array([face.get(name) for face in flat], type_of(name)) for name in names]
    arrays.append(pa.array([face[IS_MAIN] for face in flat], pa.bool_()))
    lengths = np.array([len(of_frame) for of_frame in faces], np.int32)
    return batch.append_column(FACES, _lists(pa.StructArray.from_arrays(arrays, [*names, IS_MAIN]), lengths))


def per_face(stage: Callable[[pa.Table], pa.Table], batch: pa.Table) -> pa.Table:
    """The rows after a stage, which is called with a table whose rows are faces: the frames themselves, or,
    if they have lists of faces, all of these.

    A frame becomes unreadable if all of its faces are.
    """
    if FACES not in batch.column_names:
        return stage(batch)
    before, lengths = _faces(batch)
    starts = range(0, max(1, len(before)), FACES_AT_ONCE)
    faces = pa.concat_tables([stage(before.slice(start, FACES_AT_ONCE)) for start in starts])
    batch = batch.drop_columns([FACES])
    unreadable = np.array([status == "unreadable" for status in faces["status"].to_pylist()], bool)
    frames = np.repeat(np.arange(len(batch)), lengths)
    lost = (lengths > 0) & (np.bincount(frames[~unreadable], minlength=len(batch)) == 0)
    for row in np.flatnonzero(lost):
        first = int(np.flatnonzero(frames == row)[0])
        batch = without_values(batch, np.array([row]), faces["error"][first].as_py())
    if lost.any():
        faces, lengths = faces.filter(pa.array(~lost[frames])), np.where(lost, 0, lengths)
    arrays = [faces[name].combine_chunks() for name in faces.column_names]
    return batch.append_column(FACES, _lists(pa.StructArray.from_arrays(arrays, faces.column_names), lengths))


def with_main_face(batch: pa.Table, main: MainFace) -> pa.Table:
    """Give frames with lists of scored faces the columns of their main face, and FACES its type in the result
    table. Frames without such lists stay unchanged.

    `main`: as the setting. A frame has the status of its main face; if that is unreadable, so is the frame.
    """
    if FACES not in batch.column_names:
        return batch
    faces, lengths = _faces(batch)
    batch = batch.drop_columns([FACES])
    rows, starts = np.flatnonzero(lengths), np.cumsum(lengths) - lengths
    known = faces.select([name for name in _DECIDING if name in faces.column_names]).to_pylist()
    chosen = []
    for row in rows:
        of_frame = known[starts[row] : starts[row] + lengths[row]]
        size = (batch["width"][int(row)].as_py(), batch["height"][int(row)].as_py())
        chosen.append(starts[row] + main_face(of_frame, main, size))
    main_faces = faces.take(pa.array(np.array(chosen, np.int64)))
    for name in [*FACE.names, "error"]:
        if name in faces.column_names:
            batch = scatter_column(batch, name, rows, main_faces[name].to_pylist())
    statuses, errors = (main_faces[name].to_pylist() for name in ("status", "error"))
    for row, status, error in zip(rows, statuses, errors, strict=True):
        if status == "unreadable":
            batch = without_values(batch, np.array([row]), error)
    has_list = np.array([status != "unreadable" for status in batch["status"].to_pylist()], bool)
    kept = faces.filter(pa.array(np.repeat(has_list, lengths)))
    missing = pa.nulls(len(kept))
    arrays = [
        (kept[field.name].combine_chunks() if field.name in kept.column_names else missing).cast(field.type)
        for field in FACE
    ]
    structs = pa.StructArray.from_arrays(arrays, fields=list(FACE))
    column = _lists(structs, np.where(has_list, lengths, 0), ~has_list)
    return batch.append_column(FACES_COLUMN.field, column)


_DECIDING = ("status", "face_x", "face_y", "face_w", "face_h", "serfiq", "dbcnn", IS_MAIN)


def main_face(faces: Sequence[Mapping[str, Any]], main: MainFace, size: tuple[int, int]) -> int:
    """The position of the main face of a frame of a size (width, height); at equal ranks the first one.

    Faces that are too small come after all others, and those that are unreadable last. With `largest`, an
    unreadable face is the main one if no other is: a face that is unreadable no longer says what it was.
    """

    def rank(face: Mapping[str, Any]) -> tuple[float, ...]:
        if face["status"] == "unreadable":
            return (2.0,)
        small = float(face["status"] == "face_too_small")
        if main == "best":
            scores = (face.get(name) for name in ("serfiq", "dbcnn"))
            return (small, *(np.inf if score is None else -score for score in scores))
        if main == "largest":
            return (0.0 if face[IS_MAIN] else 3.0,)
        x, y = face["face_x"] + face["face_w"] / 2, face["face_y"] + face["face_h"] / 2
        return small, float(np.hypot(x - size[0] / 2, y - size[1] / 2))

    return min(range(len(faces)), key=lambda position: rank(faces[position]))


def without_values(batch: pa.Table, rows: np.ndarray, error: str) -> pa.Table:
    """Mark the frames at `rows` (int64) as unreadable. Only their identity and the error are kept."""
    if not len(rows):
        return batch
    for name in batch.column_names:
        if name not in READ_SCHEMA.names:
            batch = scatter_column(batch, name, rows, [None] * len(rows))
    batch = scatter_column(batch, "status", rows, ["unreadable"] * len(rows))
    return scatter_column(batch, "error", rows, [error] * len(rows))


def _faces(batch: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """All faces of frames as one table, and the number of faces of each frame (len(batch),)."""
    lists = batch[FACES].combine_chunks()
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return pa.Table.from_struct_array(lists.flatten()), lengths


def _lists(faces: pa.StructArray, lengths: np.ndarray, null: np.ndarray | None = None) -> pa.ListArray:
    """The faces of each frame: a list of the given length (int), or null where `null` is true."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, faces, mask=None if null is None else pa.array(null))
