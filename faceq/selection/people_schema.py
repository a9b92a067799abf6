"""The columns of lists of people."""

import pyarrow as pa

from faceq.table.column import Column

_NOBODY = "the face belongs to nobody: no other face is similar enough"

COLUMNS = (
    Column("frame_id", pa.int64(), "`frame_id` of the frame."),
    Column("source", pa.string(), "`source` of the frame."),
    Column("member", pa.string(), "`member` of the frame.", null="the frame is not inside a shard"),
    Column("frame_index", pa.int32(), "`frame_index` of the frame.", range="≥ 0"),
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
