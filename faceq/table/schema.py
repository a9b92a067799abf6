"""The schema of the result table: its columns, its row ids, and the record in the footer of every file.

Columns, types and null rules are a contract with the programs that read the table. Columns may be added, but
should not be renamed or removed.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from faceq.messages.masking import mask, masked
from faceq.table.column import NO_DBCNN, NO_FACE, NO_FRAME, NO_SERFIQ, Column
from faceq.table.measure_columns import MEASURES

STATUSES = ("unreadable", "no_face", "face_too_small", "below_fiq", "scored")
"""The possible values of `status`, in order: a row gets the first one that applies."""

BREAK = -1
"""`frame_index` of a row that stands for a source, or the rest of a source, that cannot be read."""


COLUMNS = (
    Column(
        "frame_id",
        pa.int64(),
        "Identifies the frame: the same frame has the same number in every run and on every machine. It is "
        "the 8-byte BLAKE2b hash of `source`, NUL, `member` (empty if null), NUL and `frame_index` in "
        "decimal.",
    ),
    Column(
        "source",
        pa.string(),
        "The image, video or shard that contains the frame: an absolute local path, or a URI as you "
        "named it (not percent-encoded).",
    ),
    Column(
        "member",
        pa.string(),
        "The frame's place inside a shard. In a tar it is the member's name; a repeated name gets `#2`, "
        "`#3`, …. In a Parquet shard it is the value of the column `key`, `id` or `path`, or the row number "
        "if there is no such column; if the row has several images, `#` and the position of the image, from "
        "0, follow. In a RecordIO file it is the key of the record, in an LMDB file that of the entry. A "
        "video inside a shard is a member, too.",
        null="the source is one image or one video, or the row describes a shard that is damaged",
    ),
    Column(
        "frame_index",
        pa.int32(),
        "Index of the frame in its video, in display order; it counts all frames, also those that "
        "`video.fps` or `video.every` leave out. 0 for images. -1 marks damage: the source, or the rest of "
        "it, cannot be read, and `error` says why.",
        range="≥ -1",
    ),
    Column(
        "timestamp_s",
        pa.float64(),
        "Time of the frame, counted from the first frame of its video.",
        unit="seconds",
        range="≥ 0",
        null="the frame is not from a video",
    ),
    Column(
        "status",
        pa.string(),
        "How far the frame was scored; the first one that applies. `unreadable`: there are no pixels. "
        "`no_face`: no face was found, or what was found is probably not a face. `face_too_small`: the "
        "shorter side of the face's box is less than `min_face` (40 pixels by default). `below_fiq`: "
        "`serfiq` is less than `fiq_threshold`. `scored`: the row has all scores. If a frame has several "
        "faces, the status is that of its main face (see `main`): a frame is `scored` when its main face is. "
        "The table is partitioned by this column.",
    ),
    Column("error", pa.string(), "Why the frame is unreadable, in one line.", null="the frame was read"),
    Column(
        "width",
        pa.int32(),
        "Width of the frame as it is displayed: after EXIF orientation, and after a video's rotation and "
        "pixel aspect ratio.",
        unit="pixels",
        range="≥ 1",
        null=NO_FRAME,
    ),
    Column(
        "height",
        pa.int32(),
        "Height of the frame as it is displayed.",
        unit="pixels",
        range="≥ 1",
        null=NO_FRAME,
    ),
    Column(
        "n_faces",
        pa.int32(),
        "Number of faces that the detector found with a confidence of at least `det_threshold`. 1 with "
        "`faces: aligned`, which does not detect faces.",
        range="≥ 0",
        null=NO_FRAME,
    ),
    Column(
        "face_x",
        pa.float32(),
        "Left edge of the box of the scored face, clipped to the frame. The scored face is the largest one "
        "among those with nearly the best confidence: at most 0.15 below it. A face cut off by the edge of "
        "the frame counts as smaller. With `faces: all`, `main` can name another one. With `faces: aligned`, "
        "the box is the whole frame.",
        unit="pixels",
        range="0 to `width`",
        null=NO_FACE,
    ),
    Column(
        "face_y", pa.float32(), "Top edge of the box.", unit="pixels", range="0 to `height`", null=NO_FACE
    ),
    Column("face_w", pa.float32(), "Width of the box.", unit="pixels", range="≤ `width`", null=NO_FACE),
    Column("face_h", pa.float32(), "Height of the box.", unit="pixels", range="≤ `height`", null=NO_FACE),
    Column(
        "det_score",
        pa.float32(),
        "The detector's confidence in the scored face.",
        range="0 to 1",
        null=f"{NO_FACE}, or `faces` is `aligned`",
    ),
    Column(
        "landmarks",
        pa.list_(pa.float32()),  # many readers cannot read nulls in a fixed-size list
        "Five points of the scored face as ten numbers, x and y of each: both eyes (the one on the image's "
        "left first), the tip of the nose, both corners of the mouth (the image's left first). Left is meant "
        "as if the face stood upright. With `faces: aligned`, they are those of the alignment template.",
        unit="pixels",
        null=NO_FACE,
    ),
    Column(
        "yaw",
        pa.float32(),
        "Head pose: how far the face is turned to the side. Positive: to the image's right.",
        unit="degrees",
        range="-180 to 180",
        null=NO_FACE,
    ),
    Column(
        "pitch",
        pa.float32(),
        "Head pose: how far the face is tilted up (positive) or down (negative).",
        unit="degrees",
        range="-90 to 90",
        null=NO_FACE,
    ),
    Column(
        "roll",
        pa.float32(),
        "Head pose: how far the face is rotated in the image plane. Positive: clockwise. About ±180 means "
        "upside down.",
        unit="degrees",
        range="-180 to 180",
        null=NO_FACE,
    ),
    Column(
        "face_confidence",
        pa.float32(),
        "Confidence of the dense landmark model that this is a face.",
        range="0 to 1",
        null=f"{NO_SERFIQ}, or the landmark model gives no confidence",
    ),
    Column(
        "align_error",
        pa.float32(),
        "How badly the five landmarks fit the recogniser's alignment template: root mean square distance "
        "after the fit. It grows with poor landmarks, and also with faces that are turned to the side. With "
        "`faces: aligned`, nothing is fitted: it also grows if the frame is badly aligned.",
        unit="pixels of the aligned face (112 x 112)",
        range="≥ 0",
        null=f"{NO_SERFIQ}, or `faces` is `aligned` and the landmark model does not give these five",
    ),
    Column(
        "serfiq_raw",
        pa.float32(),
        "SER-FIQ as published, not calibrated: 2 / (1 + exp(d)), where d is the mean distance between "
        "embeddings under dropout. Its range differs between recognisers.",
        range="0 to 1",
        null=NO_SERFIQ,
    ),
    Column(
        "serfiq",
        pa.float32(),
        "SER-FIQ: how well a recogniser can recognise the face, higher is better. It is `serfiq_raw` on the "
        "calibrated scale of the model. It is not a probability. With the preset `embedded`, 2% of CelebA's "
        "photos have less than 0.5.",
        range="0 to 1",
        null=NO_SERFIQ,
    ),
    Column(
        "embedding_norm",
        pa.float32(),
        "L2 norm of the recognition embedding before it is normalised.",
        range="> 0",
        null=NO_SERFIQ,
    ),
    Column(
        "dhash",
        pa.int64(),
        "64-bit difference hash of the aligned face, as a signed number. Frames that look alike differ in "
        "few bits: count the ones of the exclusive or of two hashes.",
        null=NO_SERFIQ,
    ),
    Column(
        "mask_coverage",
        pa.float32(),
        "Share of the frame's area that the face mask covers.",
        range="0 to 1",
        null=NO_DBCNN,
    ),
    Column(
        "dbcnn",
        pa.float32(),
        "DB-CNN: how good the face looks to people, higher is better. Only pixels inside the face mask "
        "count, unless `quality_region` says otherwise.",
        range="0 to 100, clipped",
        null=NO_DBCNN,
    ),
    *MEASURES,
    Column(
        "extra",
        pa.string(),
        "What came with the frame, as a JSON object: the sidecars of its sample in a tar, by extension "
        "(`.json` parsed, others as text), the other columns of a Parquet shard, the label in a RecordIO "
        "file as `identity`, and the other columns of a manifest. Values that are binary or beyond "
        "`extra_bytes` are left out, and `_left_out` names them. Query it with "
        "`extra->>'$.json.identity'`.",
        null="nothing came with the frame",
    ),
    Column(
        "shot",
        pa.int32(),
        "Number of the shot within its video. A shot ends where another camera or another recording begins.",
        range="≥ 0",
        null="the frame is not from a video, or `video.shots` is `none`",
    ),
    Column(
        "run_id",
        pa.string(),
        "The run that wrote the row. Its record is `TABLE/_faceq/run-<run_id>.json`.",
    ),
)
"""Every column, in the order of the files. `docs/reference/columns.md` is written from this."""

SCHEMA = pa.schema([column.field for column in COLUMNS])

EMBEDDING_COLUMN = Column(
    "embedding",
    pa.list_(pa.float32()),
    "The recognition embedding, scaled to an L2 norm of 1. Only in tables that were made with `embeddings` "
    "(`--embeddings`).",
    range="-1 to 1",
    null=NO_SERFIQ,
)
EMBEDDING = EMBEDDING_COLUMN.field
"""Recognition embedding with an L2 norm of 1. Only in tables with the setting `embeddings`."""

_OF_A_FACE = SCHEMA.names[SCHEMA.names.index("face_x") : SCHEMA.names.index(MEASURES[-1].name) + 1]

FACE = pa.struct(
    [
        *(pa.field(name, SCHEMA.field(name).type) for name in _OF_A_FACE),
        pa.field("status", pa.string()),
        pa.field("track", pa.int32()),
        EMBEDDING,
    ]
)
"""One face of FACES_COLUMN."""

FACES_COLUMN = Column(
    "faces",
    pa.list_(FACE),
    "All faces of the frame, largest box first; equal ones from top to bottom, then from left to right. Each "
    f"is a struct with the columns from `face_x` to `{MEASURES[-1].name}`, its `status`, `track` and "
    "`embedding` (null without `embeddings`). `track` is the number of the face in its video, from 0: the "
    "same number is the same person in one shot. It is null in images, and until `faceq compact` has "
    "followed the faces; rows of faces have it without that. At most `max_faces` of at least `min_face`; the "
    "main face is always there. Only in tables that were made with `faces: all`.",
    null=f"{NO_FRAME}, or the run had another value of `faces`",
)

OPTIONAL = (FACES_COLUMN.name, EMBEDDING.name)
"""Columns that a table has only with certain settings."""

DECIMALS = {"serfiq": 3, "dbcnn": 1}
"""Decimal places of the scores in texts."""

METADATA_KEY = b"faceq"


def frame_id(source: str, member: str | None, frame_index: int) -> int:
    """The id of a frame: a signed 64-bit integer that depends only on source, member and frame index.

    It is the BLAKE2b digest (8 bytes, big-endian) of source, NUL, member (empty if there is none), NUL and
    the frame index in decimal.
    """
    name = f"{source}\0{member or ''}\0{frame_index}".encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(name, digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def wrap_int64(number: int) -> int:
    """A number wrapped to int64: higher bits are dropped."""
    return (number + 2**63) % 2**64 - 2**63


def isin_sorted(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which ids (N,) are in the sorted array `known` (M,): (N,) bool."""
    if not len(known):
        return np.zeros(len(ids), bool)
    return known[np.searchsorted(known, ids).clip(max=len(known) - 1)] == ids


def schema(embeddings: bool, all_faces: bool = False) -> pa.Schema:
    """The columns of the table, with FACES_COLUMN if all faces are scored, and EMBEDDING at the end if
    embeddings are kept."""
    columns = SCHEMA.append(FACES_COLUMN.field) if all_faces else SCHEMA
    return columns.append(EMBEDDING) if embeddings else columns


EVERY_COLUMN = schema(embeddings=True, all_faces=True)
"""All columns that a table of this version can have."""


def schema_with(record: Mapping[str, Any]) -> pa.Schema:
    """The schema of the table with the record of a run (JSON, secrets masked) as metadata, which Parquet
    stores in the footer of every file."""
    metadata = {METADATA_KEY: json.dumps(masked(record), sort_keys=True).encode()}
    return schema(record.get("embeddings", False), record.get("faces") == "all").with_metadata(metadata)


def record_of(schema: pa.Schema) -> dict[str, Any]:
    """The record that `schema_with` stored in a schema; empty if there is none."""
    return json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))


def to_result_rows(batch: pa.Table, columns: pa.Schema, run_id: str) -> pa.Table:
    """Convert a batch that has passed all stages to rows of the result table: the columns in their order,
    with secrets masked in `error`."""
    column = pa.array([run_id] * len(batch), pa.string())
    failed = np.flatnonzero(batch["error"].is_valid().to_numpy())
    batch = scatter_column(batch, "error", failed, [mask(batch["error"][int(row)].as_py()) for row in failed])
    return batch.append_column("run_id", column).select(columns.names).cast(columns)


def pending(batch: pa.Table) -> np.ndarray:
    """Positions (int64) of the rows whose `status` is still null: no stage has set it yet."""
    return np.flatnonzero(batch["status"].is_null().to_numpy())


_KINDS = {field.name: field.type for field in EVERY_COLUMN}


def type_of(name: str) -> pa.DataType:
    """The type of a column between two stages: that of the result table, or binary for pixels, which the
    table does not have."""
    return _KINDS.get(name, pa.binary())


def scatter_column(batch: pa.Table, name: str, rows: np.ndarray, values: Any) -> pa.Table:
    """The batch with `values` at positions `rows` of column `name`; other rows stay unchanged.

    A missing column is added, of `type_of` its name, with nulls in all other rows.
    """
    index = batch.schema.get_field_index(name)
    kind = type_of(name) if index < 0 else batch.schema.field(index).type
    if index >= 0 and not len(rows):
        return batch  # the usual case: no pixels need to be copied
    column = [None] * len(batch) if index < 0 else batch[name].to_pylist()
    for row, value in zip(rows, values, strict=True):
        column[row] = value
    field = pa.field(name, kind)
    array = pa.array(column, kind)
    return batch.append_column(field, array) if index < 0 else batch.set_column(index, field, array)


def pixels(batch: pa.Table, name: str, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The pixels of column `name` at positions `rows` as one uint8 array (len(rows), *shape)."""
    column = batch[name]
    parts = [np.frombuffer(column[int(row)].as_buffer(), np.uint8) for row in rows]
    return np.stack(parts).reshape(-1, *shape) if parts else np.empty((0, *shape), np.uint8)
