"""Rows of a query as a file that other programs read: Parquet, CSV or JSON lines.

Parquet is written by Arrow, in types that every reader knows; a column of a type that only DuckDB has
becomes a plain one first. Fewer programs read what DuckDB's COPY writes: arrays with nulls are errors in
pyarrow (26), and lists with nulls crash polars (1.12).
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow.parquet as pq

from faceq.config import S3
from faceq.errors import UsageError
from faceq.query import Rows, quoted
from faceq.runs import COMPRESSION, ROWS_PER_GROUP
from faceq.storage import filesystem, is_remote, path_of, storage_errors

EXPORTS = (".parquet", ".csv", ".jsonl")

_PLAIN = {
    *("boolean", "tinyint", "smallint", "integer", "bigint", "float", "double", "decimal", "blob", "date"),
    *("utinyint", "usmallint", "uinteger", "ubigint", "time", "timestamp", "timestamp_s", "timestamp_ms"),
    *("timestamp_ns", "timestamp with time zone"),
}
"""DuckDB's types that Parquet has, too, and every reader of it."""

_NEAREST = {"hugeint": "BIGINT", "uhugeint": "UBIGINT", "null": "INTEGER"}
"""What others become; the rest become text. A sum of whole numbers is a HUGEINT; one beyond 64 bits is an
error, not a rounded number."""


def check_export(path: str) -> str:
    """The ending of an export's path; UsageError if it is none of EXPORTS."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in EXPORTS:
        raise UsageError(f"{path}: an export is a file that ends in {', '.join(EXPORTS)}")
    return ending


def export(rows: Rows, chosen: Any, path: str, s3: S3) -> int:
    """Write rows to a .parquet, .csv or .jsonl file, local or on S3; returns their number.

    The file appears whole or not at all. In memory are some ten thousand rows. Of two columns of one name
    the second gets `_1`.

    Args:
        rows: the table.
        chosen: what `rows.chosen` or `rows.sql` gave.
        path: where to; a file that is there is replaced.
        s3: settings of the file system.

    Raises:
        UsageError: another ending, a place that cannot be written to, or what DuckDB refuses.
    """
    ending = check_export(path)
    try:
        with _written_whole(path, s3) as temporary:
            if ending == ".parquet":
                return _write_parquet(rows, _each_column(rows, chosen, _plain_column), temporary)
            if ending == ".jsonl":
                return _write_lines(rows, _each_column(rows, chosen, _finite), temporary)
            whole = _each_column(rows, chosen, lambda column, kind: column)
            return rows.copy(whole, temporary, "(FORMAT csv, HEADER)")
    except (OSError, *storage_errors()) as error:
        raise UsageError(f"{path}: cannot be written: {' '.join(str(error).split())}") from None


def _each_column(rows: Rows, chosen: Any, to_sql: Callable[[str, Any], str]) -> Any:
    """The rows, each column as the SQL that `to_sql` makes of its quoted name and its DuckDB type."""
    named = rows.over(chosen, "FROM {rows}")  # here the second of two columns of one name gets `_1`
    columns = zip(map(quoted, named.columns), named.types, strict=True)
    wanted = ", ".join(f"{to_sql(name, kind)} AS {name}" for name, kind in columns)
    return rows.over(named, f"SELECT {wanted} FROM {{rows}}")


def _write_parquet(rows: Rows, chosen: Any, path: str) -> int:
    columns = rows.arrow(chosen.limit(0)).schema
    count = 0
    with pq.ParquetWriter(path, columns, compression=COMPRESSION) as writer:
        for group in rows.batches(chosen, ROWS_PER_GROUP):
            writer.write_table(group)
            count += len(group)
    return count


def _write_lines(rows: Rows, chosen: Any, path: str) -> int:
    """JSON lines, by hand: DuckDB 2.0.0 hangs at times where COPY to JSON meets an error."""
    lines = rows.over(chosen, "SELECT to_json({rows})::VARCHAR AS line FROM {rows}")
    count = 0
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for group in rows.batches(lines, ROWS_PER_GROUP):
            file.writelines(f"{line}\n" for line in group["line"].to_pylist())
            count += len(group)
    return count


def _plain_column(column: str, kind: Any) -> str:
    """SQL: a column (SQL) of a DuckDB type, in types that every reader of Parquet knows."""
    plain = _plain_type(kind)
    return column if plain == str(kind) else f"CAST({column} AS {plain})"


def _plain_type(kind: Any) -> str:
    if kind.id in _PLAIN:
        return str(kind)
    if kind.id in ("list", "array"):
        return f"{_plain_type(_child(kind))}[]"
    if _is_struct(kind):
        return f"STRUCT({', '.join(f'{quoted(name)} {_plain_type(part)}' for name, part in kind.children)})"
    if kind.id == "map":
        return f"MAP({', '.join(_plain_type(part) for _, part in kind.children)})"
    return _NEAREST.get(kind.id, "VARCHAR")


def _finite(value: str, kind: Any, depth: int = 0) -> str:
    """SQL: a value (SQL) of a DuckDB type, with null for NaN and infinity, which JSON does not have."""
    if kind.id in ("float", "double"):
        return f"CASE WHEN isfinite({value}) THEN {value} END"
    if kind.id in ("list", "array"):
        return _finite_list(f"CAST({value} AS {_child(kind)}[])", _child(kind), depth)
    if kind.id == "map":
        values = _finite_list(f"map_values({value})", dict(kind.children)["value"], depth)
        return f"map(map_keys({value}), {values})"
    if _is_struct(kind):
        parts = (
            f"{quoted(name)} := {_finite(f'{value}.{quoted(name)}', part, depth)}"
            for name, part in kind.children
        )
        return f"CASE WHEN {value} IS NOT NULL THEN struct_pack({', '.join(parts)}) END"
    return f"CAST({value} AS VARCHAR)" if kind.id in ("struct", "tuple", "union") else value


def _finite_list(values: str, kind: Any, depth: int) -> str:
    each = f"x{depth}"
    return f"list_transform({values}, lambda {each}: {_finite(each, kind, depth + 1)})"


def _child(kind: Any) -> Any:
    return dict(kind.children)["child"]


def _is_struct(kind: Any) -> bool:
    """Whether it is a struct whose parts have names: `row(1, 2)` has none."""
    return kind.id == "struct" and all(name for name, _ in kind.children)


@contextlib.contextmanager
def _written_whole(path: str, s3: S3) -> Iterator[str]:
    """A local path to write to; the file takes its name, or is uploaded, at the end of the block."""
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = os.path.join(folder, os.path.basename(path))
            yield temporary
            filesystem(path, s3).put_file(temporary, path_of(path))
        return
    folder, name = os.path.split(path_of(path))
    if not os.path.isdir(folder):
        raise UsageError(f"{path}: cannot be written: there is no folder {folder}")
    temporary = os.path.join(folder, f".{name}.part")
    try:
        yield temporary
        os.replace(temporary, path_of(path))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
