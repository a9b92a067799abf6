"""The columns of lists of near-duplicates."""

import pyarrow as pa

from faceq.table.column import Column

_NO_MEMBER = "the frame is not inside a shard"
_DISTANCE = "Number of different bits of the hashes, or 1 - cosine of the embeddings"


def _frame(side: str, which: str) -> tuple[Column, ...]:
    return (
        Column(f"frame_id_{side}", pa.int64(), f"`frame_id` of {which}."),
        Column(f"source_{side}", pa.string(), f"`source` of {which}."),
        Column(f"member_{side}", pa.string(), f"`member` of {which}.", null=_NO_MEMBER),
        Column(f"frame_index_{side}", pa.int32(), f"`frame_index` of {which}.", range="≥ 0"),
    )


PAIR_COLUMNS = (
    *_frame("a", "the better frame: the one with the higher `dbcnn`, then `serfiq`"),
    *_frame("b", "the other frame"),
    Column("distance", pa.float32(), f"{_DISTANCE}.", range="≥ 0"),
)

GROUP_COLUMNS = (
    Column("frame_id", pa.int64(), "`frame_id` of the frame."),
    Column("source", pa.string(), "`source` of the frame."),
    Column("member", pa.string(), "`member` of the frame.", null=_NO_MEMBER),
    Column("frame_index", pa.int32(), "`frame_index` of the frame.", range="≥ 0"),
    Column("group", pa.int64(), "Number of its group. Group 0 has the most frames.", range="≥ 0"),
    Column("frames", pa.int32(), "Number of frames of the group.", range="≥ 2"),
    Column(
        "representative",
        pa.int64(),
        "`frame_id` of the best frame of the group: the one with the highest `dbcnn`, then `serfiq`. In "
        "its own row, it is equal to `frame_id`.",
    ),
    Column("distance", pa.float32(), f"{_DISTANCE}, to the representative.", range="≥ 0"),
)
