"""The columns of clips."""

import pyarrow as pa

from faceq.table.column import Column
from faceq.table.measure_columns import MEASURES

SUMMARISED = ("serfiq", "dbcnn", "face_confidence", *(measure.name for measure in MEASURES))
"""Columns of the table of which a clip has the mean, the minimum and the 10th percentile."""

_NO_FACES = "no frame of the clip has a face"

_MOTION = "of the centre of the face box, between consecutive frames that have a face."
_SPEED = (
    "widths of the face per second",
    "≥ 0",
    "fewer than two frames of the clip have a face, or all of these have the same `timestamp_s`",
)


def _angle(name: str) -> tuple[Column, Column]:
    return (
        Column(f"{name}_min", pa.float32(), f"Smallest `{name}` of its frames.", "degrees", null=_NO_FACES),
        Column(f"{name}_max", pa.float32(), f"Largest `{name}` of its frames.", "degrees", null=_NO_FACES),
    )


COLUMNS = (
    Column(
        "clip_id",
        pa.string(),
        "A name that no other clip has: the `frame_id` of its first frame in 16 hexadecimal digits, a "
        "hyphen, and `end_frame`; with `--per track`, another hyphen and `track`.",
    ),
    Column("source", pa.string(), "`source` of the video in the result table."),
    Column("member", pa.string(), "`member` of the video.", null="the video is a file of its own"),
    Column(
        "shot", pa.int32(), "Number of the shot in the video.", range="≥ 0", null="the table has no shots"
    ),
    Column("start_s", pa.float64(), "`timestamp_s` of its first frame.", "seconds", "≥ 0"),
    Column("end_s", pa.float64(), "`timestamp_s` of its last frame.", "seconds", "≥ `start_s`"),
    Column("start_frame", pa.int32(), "`frame_index` of its first frame.", range="≥ 0"),
    Column("end_frame", pa.int32(), "`frame_index` of its last frame.", range="≥ `start_frame`"),
    Column(
        "frames",
        pa.int32(),
        "Number of its frames in the result table, also those in gaps. With `--per track`, of those that "
        "show the face.",
        range="≥ 1",
    ),
    Column("share", pa.float32(), "Share of these frames that fulfil the condition.", range="0 to 1"),
    Column(
        "best_frame",
        pa.int32(),
        "`frame_index` of the frame with the highest `dbcnn`, the first one of several.",
        range="≥ 0",
        null="no frame of the clip has a `dbcnn`",
    ),
    Column("one_face", pa.float32(), "Share of its frames with exactly one face.", range="0 to 1"),
    Column(
        "smallest_face",
        pa.float32(),
        "Shorter side of the smallest face box of its frames.",
        "pixels",
        "> 0",
        _NO_FACES,
    ),
    *(column for name in ("yaw", "pitch", "roll") for column in _angle(name)),
    Column("motion_mean", pa.float32(), f"Mean speed {_MOTION}", *_SPEED),
    Column("motion_max", pa.float32(), f"Highest speed {_MOTION}", *_SPEED),
)
"""The columns of every list of clips. IDENTITY and those of SUMMARISED follow."""

TRACK = (
    Column(
        "track",
        pa.int32(),
        "Number of the track in the video: the face of one person, followed through a shot. Only with `--per "
        "track`, as the next two.",
        range="≥ 0",
    ),
    Column(
        "track_share",
        pa.float32(),
        "Share of the scored frames of its shot that show this face.",
        range="0 to 1",
    ),
    Column(
        "track_size",
        pa.float32(),
        "Mean of the shorter side of the face's box in all frames of its shot.",
        "pixels",
        "> 0",
    ),
)
"""The columns that follow `shot` if clips are stretches of tracks. All others then describe this face."""

IDENTITY = Column(
    "identity",
    pa.float32(),
    "Lowest cosine between the embedding of one of its frames and the mean of all. If it is low, a frame "
    "shows somebody else. Only for tables with embeddings.",
    range="-1 to 1",
    null="no frame of the clip has an embedding",
)

_NOT_CUT = "it was not written"

CUT = (
    Column("file", pa.string(), "Name of its file in the folder.", null=_NOT_CUT),
    Column(
        "file_start_s",
        pa.float64(),
        "Time in the video of the first frame in the file: `start_s`, or that of the key frame before it "
        "with `--cut-mode copy`.",
        "seconds",
        "≤ `start_s`",
        _NOT_CUT,
    ),
    Column(
        "file_end_s",
        pa.float64(),
        "Time in the video of the last frame in the file: `end_s`, or a few frames later with "
        "`--cut-mode copy`.",
        "seconds",
        "≥ `end_s`",
        _NOT_CUT,
    ),
    Column("error", pa.string(), "Why it was not written.", null="it was written"),
)
"""The columns that a list of cut clips has after those of the clips."""

SUMMARIES = {
    "mean": "the mean",
    "min": "the minimum",
    "p10": "the 10th percentile: a tenth of the frames is below",
}
"""What is computed of each of SUMMARISED, by the end of the column's name. All are float32. They are null if
no frame of the clip has a value."""


def columns_of(per_track: bool) -> tuple[Column, ...]:
    """The columns of clips of frames or of tracks, without IDENTITY and those of SUMMARISED."""
    place = 1 + [column.name for column in COLUMNS].index("shot")
    return (*COLUMNS[:place], *(TRACK if per_track else ()), *COLUMNS[place:])


def schema(embeddings: bool, per_track: bool = False) -> pa.Schema:
    """The columns of clips of a table with or without embeddings."""
    names = [f"{name}_{end}" for name in SUMMARISED for end in SUMMARIES]
    columns = (*columns_of(per_track), *((IDENTITY,) if embeddings else ()))
    fields = [column.field for column in columns]
    return pa.schema([*fields, *(pa.field(name, pa.float32()) for name in names)])
