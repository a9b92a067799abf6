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

STATUSES = ("unreadable", "no_face", "face_too_small", "below_fiq", "scored")
"""The possible values of `status`, in order: a row gets the first one that applies."""

BREAK = -1
"""`frame_index` of a row that stands for a source, or the rest of a source, that cannot be read."""

SCHEMA = pa.schema(
    [
        pa.field("frame_id", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        ("member", pa.string()),
        pa.field("frame_index", pa.int32(), nullable=False),
        ("timestamp_s", pa.float64()),
        pa.field("status", pa.string(), nullable=False),
        ("error", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("n_faces", pa.int32()),
        ("face_x", pa.float32()),
        ("face_y", pa.float32()),
        ("face_w", pa.float32()),
        ("face_h", pa.float32()),
        ("det_score", pa.float32()),
        ("landmarks", pa.list_(pa.float32())),  # of a fixed size, many readers could not read nulls
        ("yaw", pa.float32()),
        ("pitch", pa.float32()),
        ("roll", pa.float32()),
        ("face_confidence", pa.float32()),
        ("align_error", pa.float32()),
        ("serfiq_raw", pa.float32()),
        ("serfiq", pa.float32()),
        ("embedding_norm", pa.float32()),
        ("dhash", pa.int64()),
        ("mask_coverage", pa.float32()),
        ("dbcnn", pa.float32()),
        pa.field("run_id", pa.string(), nullable=False),
    ]
)

EMBEDDING = pa.field("embedding", pa.list_(pa.float32()))
"""Recognition embedding with an L2 norm of 1. Only in tables with the setting `embeddings`."""

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


def schema(embeddings: bool) -> pa.Schema:
    """The columns of the table, with EMBEDDING at the end if embeddings are kept."""
    return SCHEMA.append(EMBEDDING) if embeddings else SCHEMA


def schema_with(record: Mapping[str, Any]) -> pa.Schema:
    """The schema of the table with the record of a run (JSON, secrets masked) as metadata, which Parquet
    stores in the footer of every file."""
    metadata = {METADATA_KEY: json.dumps(masked(record), sort_keys=True).encode()}
    return schema(record.get("embeddings", False)).with_metadata(metadata)


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


_KINDS = {field.name: field.type for field in schema(embeddings=True)}


def scatter_column(batch: pa.Table, name: str, rows: np.ndarray, values: Any) -> pa.Table:
    """The batch with `values` at positions `rows` of column `name`; other rows stay unchanged.

    A missing column is added, with nulls in all other rows. The type is that of the result table, or binary
    for pixel columns, which exist only between two stages.
    """
    kind = _KINDS.get(name, pa.binary())
    index = batch.schema.get_field_index(name)
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
