"""Rows of a result table that fulfil a condition, by DuckDB over the table's files."""

import os
from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from faceq.config import S3
from faceq.errors import UsageError
from faceq.runs import Table
from faceq.storage import is_remote

ROWS_SHOWN = 20
MAIN_COLUMNS = ("source", "member", "status", "serfiq", "dbcnn", "yaw", "pitch")
EXPORTS = {
    ".parquet": "(FORMAT parquet, COMPRESSION zstd)",
    ".csv": "(FORMAT csv, HEADER)",
    ".jsonl": "(FORMAT json)",
}


def select(
    table: str, s3: S3, where: str | None, columns: Sequence[str] | None, limit: int
) -> tuple[pa.Table, int]:
    """The first `limit` rows that fulfil a condition, and how many do.

    Args:
        table: folder or `s3://` prefix of a result table.
        s3: settings of the file system.
        where: an SQL expression over the table's columns; None for all rows.
        columns: names to return; None for the main ones.
        limit: most rows to return.

    Raises:
        UsageError: no such table, or a condition or column that DuckDB refuses (with its reason).
    """
    try:
        chosen = _matching(table, s3, where)
        rows = chosen.project(", ".join(_quoted(columns or MAIN_COLUMNS))).limit(limit).to_arrow_table()
        (total,) = chosen.aggregate("count(*)").fetchall()[0]
        return rows, total
    except duckdb.Error as error:
        raise UsageError(f"query: {_first_line(error)}") from None


def export(
    table: str, s3: S3, where: str | None, columns: Sequence[str] | None, limit: int | None, path: str
) -> int:
    """Write the rows that fulfil a condition to a .parquet, .csv or .jsonl file; returns their number.

    The file appears whole or not at all. Raises UsageError as `select` does, or for another ending.
    """
    ending = os.path.splitext(path)[1]
    if ending not in EXPORTS or is_remote(path):
        raise UsageError(f"{path}: an export is a local file that ends in {', '.join(EXPORTS)}")
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".{name}.part")
    try:
        chosen = _matching(table, s3, where)
        if columns:
            chosen = chosen.project(", ".join(_quoted(columns)))
        if limit is not None:
            chosen = chosen.limit(limit)
        target = temporary.replace("'", "''")
        copied = chosen.query("chosen", f"COPY (FROM chosen) TO '{target}' {EXPORTS[ending]}")
        count = copied.fetchall()[0][0] if copied is not None else 0
        os.replace(temporary, path)
        return int(count)
    except duckdb.Error as error:
        raise UsageError(f"query: {_first_line(error)}") from None


def display(value: Any) -> str:
    """A cell as people read it: floats with three digits, nothing for null."""
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _matching(uri: str, s3: S3, where: str | None) -> duckdb.DuckDBPyRelation:
    table = Table(uri, s3)
    if not table.exists():
        raise UsageError(f"{table.uri}: there is no faceq table here")
    # The scan gets the columns and the simple conditions pushed down, so only the partitions and
    # columns that matter are read; pyarrow does the reading, so S3 needs no DuckDB extension.
    rows = duckdb.connect().from_arrow(table.dataset())
    return rows.filter(where) if where else rows


def _quoted(columns: Sequence[str]) -> list[str]:
    return ['"' + name.strip().replace('"', '""') + '"' for name in columns]


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n\nLINE")[0].split())
