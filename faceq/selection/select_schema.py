"""The columns that a selection adds to those of the table."""

import pyarrow as pa

from faceq.table.column import Column

COLUMNS = (
    Column(
        "group",
        pa.string(),
        "Its group: the source (`SOURCE: MEMBER` of a video inside a shard), the shot (`SOURCE: shot N`), "
        "the track (`SOURCE: track N`), the value in `extra`, or the number of the cluster.",
        null="there is no `--per`: the whole table is one group",
    ),
    Column(
        "rank",
        pa.int32(),
        "Its place in the order in which the frames of its group were chosen. Without `--balance`, this is "
        "the order of their scores.",
        range="≥ 1",
    ),
    Column(
        "bin",
        pa.string(),
        "Its bin, such as `yaw -15 to 15, pitch from 15`.",
        null="there is no `--balance`",
    ),
)
"""They follow the columns of the table, and `embedding` if the table has it."""
