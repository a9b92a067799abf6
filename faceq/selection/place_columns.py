"""The columns that say which frame or face a row of a list is about."""

import pyarrow as pa

from faceq.query.faces import FACE_ID, FACE_POSITION
from faceq.table.column import Column

NO_MEMBER = "the frame is not inside a shard"


def place_columns(faces: bool, what: str = "the frame", side: str = "") -> tuple[Column, ...]:
    """The columns of a list of frames or faces.

    Args:
        faces: the list is of faces.
        what: which frame or face it is, for people.
        side: what follows each name.
    """
    columns = (
        Column(f"frame_id{side}", pa.int64(), f"`frame_id` of {what}."),
        Column(f"source{side}", pa.string(), f"`source` of {what}."),
        Column(f"member{side}", pa.string(), f"`member` of {what}.", null=NO_MEMBER),
        Column(f"frame_index{side}", pa.int32(), f"`frame_index` of {what}.", range="≥ 0"),
    )
    if not faces:
        return columns
    return (
        *columns,
        Column(f"{FACE_ID}{side}", pa.int64(), f"`{FACE_ID}` of {what}.", range="≥ 0"),
        Column(f"{FACE_POSITION}{side}", pa.int32(), f"`{FACE_POSITION}` of {what}.", range="≥ 0"),
    )


def place_names(faces: bool) -> list[str]:
    """The names of these columns."""
    return [column.name for column in place_columns(faces)]
