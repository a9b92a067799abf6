"""The columns of lists of people."""

import pyarrow as pa

from faceq.selection.place_columns import place_columns
from faceq.table.column import Column

_NOBODY = "the face belongs to nobody: no other face is similar enough"

_OF_A_FACE = (
    Column(
        "cluster",
        pa.int32(),
        "Number of the person. Person 0 has the most faces. A number is valid in one list only.",
        range="≥ 0",
        null=_NOBODY,
    ),
    Column("faces", pa.int32(), "Number of faces of the person.", range="≥ 2", null=_NOBODY),
    Column(
        "cosine",
        pa.float32(),
        "Mean cosine between the embedding and those of the person's other faces. If it is low, the face may "
        "show somebody else.",
        range="-1 to 1",
        null=_NOBODY,
    ),
)


def people_columns(faces: bool) -> tuple[Column, ...]:
    """The columns of a list of people. faces: of all faces, not of those that the columns of frames
    describe."""
    return (*place_columns(faces, "the face" if faces else "the frame"), *_OF_A_FACE)


COLUMNS = people_columns(faces=False)
"""The columns of a list of the faces that the columns of frames describe."""
