"""A table of many small files, written again as few large ones whose rows are sorted by score.

A job writes a file whenever some thousand rows of a status are there, so that a kill loses few. A query
over millions of rows reads few large files faster; and where the rows of a file are sorted by `dbcnn` and
the footer tells the range of each row group, a condition on it skips most of them.
"""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faceq.errors import JobError, UsageError
from faceq.query.rows import Rows
from faceq.storage.settings import S3Settings
from faceq.table import finished_shards
from faceq.table.runs import footer_of, unfinished
from faceq.table.schema import STATUSES, schema_with
from faceq.table.store import COMPRESSION, ROWS_PER_GROUP, Table

ROWS_PER_FILE = 1_000_000
"""Some 150 MB without embeddings, 700 MB with them."""

SORT = {"memory_limit": "1GB", "threads": 2}
"""DuckDB's settings for a sort: what is more waits on disk. Four threads ran out of that over rows that hold
embeddings."""

SORTED_BY = [("dbcnn", "descending"), ("serfiq", "descending"), ("frame_id", "ascending")]
"""The best first; faces below the SER-FIQ threshold have no `dbcnn`, frames without a face no score."""

_ORDER = ", ".join(f"{name} {direction.removesuffix('ending')} NULLS LAST" for name, direction in SORTED_BY)

_NAME = "0-compacted-{:06d}.parquet"
"""File names. Those of a job begin with its run id: of two rows of one frame the later run's stays, and one
in a file of no run goes (`faceq.table.repair`)."""


_OWN = re.compile(r"0-compacted-\d{6}\.parquet")


def compact(source: str, target: str, s3: S3Settings) -> tuple[int, int, int]:
    """Write a table's rows and records of runs into a new table.

    The new table is whole: it can be queried, judged and added to by the same job. Until this returns it
    has no records, and no command takes it for a table.

    Args:
        source: folder or `s3://` prefix of the table; it stays as it is.
        target: where the new one goes; nothing may be there yet but what a compaction that was stopped left.
        s3: settings of the file system.

    Returns:
        Rows, files before, files after.

    Raises:
        UsageError: there is no table, its job has not finished, or the target is not empty.
        StorageError: a record of the table is damaged, or a disk or a store is full or fails.
        JobError: the table changed meanwhile.
    """
    old, new = Table(source, s3), Table(target, s3)
    runs = [run for run in old.runs() if run["state"] != "claiming"]
    if not runs:
        raise UsageError(f"{old.uri}: there is no faceq table here")
    if f"{new.uri}/".startswith(f"{old.uri}/") or f"{old.uri}/".startswith(f"{new.uri}/"):
        raise UsageError(f"{new.uri}: is the table itself or lies in it: name another folder for --out")
    _check_finished(old, runs)
    _make_room(new)
    before = old.row_files()
    columns = schema_with(_footer(runs))
    with new.translate_errors(), Rows(source, s3, **SORT) as there:
        files = [_write_partition(there, new, status, columns) for status in STATUSES]
    rows = sum(count for count, _ in files)
    if old.row_files() != before or [run for run in old.runs() if run not in runs]:
        raise JobError(f"{old.uri}: a job wrote into it meanwhile: delete {new.uri} and try again")
    if rows != old.count():
        raise JobError(f"{new.uri}: has {rows} rows, which is not what {old.uri} has: delete it")
    finished_shards.copy(old, new)
    for run in runs:
        new.put_record(run)
    return rows, len(before), sum(count for _, count in files)


def _make_room(new: Table) -> None:
    """Delete what a compaction that was stopped left; UsageError where anything else lies there."""
    left = (
        [path for path in new.row_files() if _OWN.fullmatch(path.rsplit("/", 1)[1])] if new.is_dir() else []
    )
    if new.exists() or not new.empty(but_for=left):
        raise UsageError(f"{new.uri}: is not empty: name another folder for --out")
    with new.translate_errors():
        for path in left:
            new.files.rm_file(path)


def _check_finished(table: Table, runs: list[dict[str, Any]]) -> None:
    """That no run was stopped, or that a later one went on over the same input to its end."""
    for run in unfinished(runs):
        raise UsageError(
            f"{table.uri}: the job {run['run_id']} has not finished: wait for its end or start it again, "
            "and it goes on where it stopped"
        )


def _footer(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What the files say of themselves: as those of the latest finished run, with all runs' ids."""
    latest = [run for run in runs if run["finished"]][-1]
    footer = footer_of(latest)
    del footer["run_id"]
    return {**footer, "run_ids": [run["run_id"] for run in runs]}


def _write_partition(old: Rows, new: Table, status: str, columns: pa.Schema) -> tuple[int, int]:
    """One partition's rows into files of ROWS_PER_FILE; how many rows and files that were."""
    names = [name for name in columns.names if name in old.columns and name != "status"]
    stored = pa.schema([columns.field(name) for name in names], columns.metadata)
    chosen = old.chosen(f"status = '{status}'", order_by=_ORDER)
    batches = old.batches(chosen, ROWS_PER_GROUP)
    count = files = 0
    for first in batches:
        path = f"{new.path}/status={status}/{_NAME.format(files)}"
        with new.files.open(path, "wb") as file:
            count += _write_file(file, stored, itertools.chain([first], batches))
        files += 1
    return count, files


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
