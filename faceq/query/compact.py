"""Rewrite a table of many small files as a few large files whose rows are sorted by score.

A job writes small files of about a thousand rows, so that a killed job loses few rows. A query over millions
of rows is faster with a few large files. If the rows are sorted by `dbcnn`, the footer contains a narrow
range for each row group, and a condition on `dbcnn` skips most row groups.

The faces of videos get their `track`. It depends on all frames of a shot, which a job does not have together.
"""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faceq.errors import JobError, UsageError
from faceq.query.faces import FACE_POSITION, FACE_VIEW, TRACK
from faceq.query.rows import Rows
from faceq.query.sql import OF_VIDEO, VIEW
from faceq.storage.filesystem import check_writable, is_inside
from faceq.storage.settings import S3Settings
from faceq.table import finished_shards
from faceq.table.runs import footer_of, unfinished
from faceq.table.schema import FACES_COLUMN, STATUSES, schema_with
from faceq.table.store import COMPRESSION, ROWS_PER_GROUP, WITH_FACES, Table

ROWS_PER_FILE = 1_000_000
"""About 150 MB without embeddings, 700 MB with them."""

SORT: dict[str, Any] = {"memory_limit": "1GB", "threads": 2}
"""DuckDB settings for a sort. Data beyond the limit spills to disk. Four threads ran out of this memory on
rows with embeddings."""

SORTED_BY = [("dbcnn", "descending"), ("serfiq", "descending"), ("frame_id", "ascending")]
"""Best faces first. Faces below the SER-FIQ threshold have no `dbcnn`; frames without a face have no
score."""

_ORDER = ", ".join(f"{name} {direction.removesuffix('ending')} NULLS LAST" for name, direction in SORTED_BY)

_NAME = "0-compacted-{:06d}.parquet"
"""Pattern of file names. They begin with no run id: if a frame has two rows, `faceq.table.repair` keeps the
row of the latest run, and deletes the row in a compacted file."""


_COMPACTED = re.compile(r"0-compacted-\d{6}\.parquet")


def compact(source: str, target: str, s3: S3Settings) -> tuple[int, int, int]:
    """Write the rows and the run records of a table into a new table.

    The new table is complete: it can be queried and evaluated, and the same job can add rows to it. Until
    this function returns, the new table has no records, and no command accepts it as a table.

    Args:
        source: folder or URI of the table. It is not changed.
        target: folder or URI of the new table. It must be empty, or contain only files of an
            interrupted compaction.
        s3: settings of the file system.

    Returns:
        The number of rows, of files before, and of files after.

    Raises:
        UsageError: there is no table, its job has not finished, or the target is not empty.
        StorageError: a record of the table is damaged, or a disk or an object store is full or fails.
        JobError: the table changed during the compaction.
    """
    check_writable(target)
    old, new = Table(source, s3), Table(target, s3)
    runs = [run for run in old.runs() if run["state"] != "claiming"]
    if not runs:
        raise UsageError(f"{old.uri}: there is no faceq table here")
    if is_inside(new.uri, old.uri) or is_inside(old.uri, new.uri):
        raise UsageError(
            f"{new.uri}: is the table, or one contains the other: choose another folder for --out"
        )
    _check_finished(old, runs)
    _prepare_target(new)
    before = old.row_files()
    columns = schema_with(_footer(runs))
    lists = any(run.get("faces") == "all" for run in runs)
    with new.translate_errors(), Rows(source, s3, faces=lists, tracks=lists, **SORT) as old_rows:
        files = [_write_partition(old_rows, new, status, columns) for status in STATUSES]
    rows = sum(count for count, _ in files)
    if old.row_files() != before or [run for run in old.runs() if run not in runs]:
        raise JobError(f"{old.uri}: a job wrote to it during the compaction: delete {new.uri} and try again")
    if rows != old.count():
        raise JobError(f"{new.uri}: has {rows} rows, not as many as {old.uri}: delete it and try again")
    finished_shards.copy(old, new)
    for run in runs:
        new.put_record(run)
    return rows, len(before), sum(count for _, count in files)


def _prepare_target(new: Table) -> None:
    """Delete the files of an interrupted compaction. Raises UsageError if there are other files."""
    files = new.row_files() if new.is_dir() else []
    leftovers = [path for path in files if _COMPACTED.fullmatch(path.rsplit("/", 1)[1])]
    if new.exists() or not new.empty(but_for=leftovers):
        raise UsageError(f"{new.uri}: is not empty: choose another folder for --out")
    with new.translate_errors():
        for path in leftovers:
            new.files.rm_file(path)


def _check_finished(table: Table, runs: list[dict[str, Any]]) -> None:
    """Check that every run has finished, or that a later run finished its input."""
    for run in unfinished(runs):
        raise UsageError(
            f"{table.uri}: the job {run['run_id']} has not finished: wait until it ends, or run it again to "
            "resume it"
        )


def _footer(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The metadata of the new files: those of the latest finished run, with the ids of all runs."""
    latest = [run for run in runs if run["finished"]][-1]
    footer = footer_of(latest)
    del footer["run_id"]
    return {**footer, "run_ids": [run["run_id"] for run in runs]}


def _write_partition(old: Rows, new: Table, status: str, columns: pa.Schema) -> tuple[int, int]:
    """Write the rows of one partition into files of ROWS_PER_FILE. Returns the number of rows and of
    files."""
    names = [name for name in columns.names if name in old.stored and name != "status"]
    stored = pa.schema([columns.field(name) for name in names], columns.metadata)
    batches = old.batches(old.sql(_rows_of(old, status)), ROWS_PER_GROUP)
    count = files = 0
    for first in batches:
        path = f"{new.path}/status={status}/{_NAME.format(files)}"
        with new.files.open(path, "wb") as file:
            count += _write_file(file, stored, itertools.chain([first], batches))
        files += 1
    return count, files


def _rows_of(old: Rows, status: str) -> str:
    """SQL: the sorted rows of one partition. The faces of videos get their `track`."""
    where = f"WHERE status = '{status}' ORDER BY {_ORDER}"
    if FACES_COLUMN.name not in old.stored or status not in WITH_FACES:
        return f"FROM {VIEW} {where}"
    return f"""
    SELECT {VIEW}.* REPLACE (
        CASE WHEN {TRACK}s IS NULL THEN faces
        ELSE list_transform(faces, lambda face, i: struct_update(face, {TRACK} := {TRACK}s[i])) END AS faces
    )
    FROM {VIEW} LEFT JOIN (
        SELECT frame_id, list({TRACK} ORDER BY {FACE_POSITION}) AS {TRACK}s
        FROM (SELECT DISTINCT frame_id, {FACE_POSITION}, {TRACK} FROM {FACE_VIEW} WHERE {OF_VIDEO})
        GROUP BY frame_id
    ) AS found USING (frame_id)
    {where}"""


def _write_file(file: Any, columns: pa.Schema, batches: Iterator[pa.Table]) -> int:
    order = pq.SortingColumn.from_ordering(columns, SORTED_BY, null_placement="at_end")
    rows = 0
    with pq.ParquetWriter(file, columns, compression=COMPRESSION, sorting_columns=order) as writer:
        for batch in batches:
            writer.write_table(batch.select(columns.names).cast(columns))
            rows += len(batch)
            if rows >= ROWS_PER_FILE:
                break
    return rows
