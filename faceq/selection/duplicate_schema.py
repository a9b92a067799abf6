"""The columns of lists of near-duplicates."""

import pyarrow as pa

from faceq.selection.place_columns import place_columns
from faceq.table.column import Column

_DISTANCE = "Number of different bits of the hashes, or 1 - cosine of the embeddings"


def pair_columns(faces: bool) -> tuple[Column, ...]:
    """The columns of pairs of frames or of faces."""
    noun = "face" if faces else "frame"
    better = f"the better {noun}: the one with the higher `dbcnn`, then `serfiq`"
    return (
        *place_columns(faces, better, "_a"),
        *place_columns(faces, f"the other {noun}", "_b"),
        Column("distance", pa.float32(), f"{_DISTANCE}.", range="≥ 0"),
    )


def group_columns(faces: bool) -> tuple[Column, ...]:
    """The columns of groups of frames or of faces."""
    noun = "face" if faces else "frame"
    return (
        *place_columns(faces, f"the {noun}"),
        Column("group", pa.int64(), f"Number of its group. Group 0 has the most {noun}s.", range="≥ 0"),
        Column(f"{noun}s", pa.int32(), f"Number of {noun}s of the group.", range="≥ 2"),
        Column(
            "representative",
            pa.int64(),
            f"`{noun}_id` of the best {noun} of the group: the one with the highest `dbcnn`, then `serfiq`. "
            f"In its own row, it is equal to `{noun}_id`.",
        ),
        Column("distance", pa.float32(), f"{_DISTANCE}, to the representative.", range="≥ 0"),
    )


PAIR_COLUMNS = pair_columns(faces=False)
GROUP_COLUMNS = group_columns(faces=False)
"""The columns of lists of frames."""
