"""Export the rows of a query to a file that other programs can read: Parquet, CSV or JSON Lines.

Arrow writes the Parquet files, with types that every reader supports. Columns with types that only DuckDB has
are cast first. Files written by COPY of DuckDB are less portable: pyarrow (26) fails on arrays with nulls,
and polars (1.12) crashes on lists with nulls.
"""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from faceq.errors import UsageError
from faceq.query.rows import Rows
from faceq.query.sql import quoted
from faceq.storage.faults import failure
from faceq.storage.filesystem import filesystem, path_of, storage_errors
from faceq.storage.outputs import check_output
from faceq.storage.settings import S3Settings
from faceq.table.store import COMPRESSION, ROWS_PER_GROUP

EXPORTS = (".parquet", ".csv", ".jsonl")

_LINES_AT_ONCE = 10_000

_QUOTES = re.compile('^$|^#|[",\n\r]')
"""Matches strings that must be quoted in a CSV file. Python and DuckDB interpret the pattern in the same
way."""

_PLAIN = {
    *("boolean", "tinyint", "smallint", "integer", "bigint", "float", "double", "decimal", "blob", "date"),
    *("utinyint", "usmallint", "uinteger", "ubigint", "time", "timestamp", "timestamp_s", "timestamp_ms"),
    *("timestamp_ns", "timestamp with time zone"),
}
"""DuckDB types that Parquet and all its readers support."""

_NEAREST = {"hugeint": "BIGINT", "uhugeint": "UBIGINT", "null": "INTEGER"}
"""Types to which other types are cast; all types not listed are cast to text. A sum of integers is a HUGEINT.
A value beyond 64 bits is an error; it is not rounded."""


def check_export(path: str, s3: S3Settings) -> str:
    """The extension of an export file. Raises UsageError if it is not one of EXPORTS, or the error of
    `check_output` if the file cannot be written."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in EXPORTS:
        raise UsageError(f"{path}: the name of an export must end in {', '.join(EXPORTS)}")
    check_output(path, s3)
    return ending


def export(
    rows: Rows, chosen: Any, path: str, s3: S3Settings, metadata: Mapping[bytes, bytes] | None = None
) -> int:
    """Write rows to a .parquet, .csv or .jsonl file, local or on S3. Returns the number of rows.

    The file is written atomically; if several exports write the same file, the last one wins. About ten
    thousand rows are in memory. If two columns have the same name, the second gets the suffix `_1`.

    Args:
        rows: the table.
        chosen: the result of `rows.chosen` or `rows.sql`.
        path: the output file. An existing file is replaced.
        s3: settings of the file system.
        metadata: of the schema in a Parquet file; other formats have none.

    Raises:
        UsageError: the extension is not supported, the folder does not exist, or DuckDB rejects the query.
        StorageError: the disk is full, or the object store rejects the file.
    """
    ending = check_export(path, s3)
    writers: dict[str, Callable[[Rows, Any, Any], int]] = {
        ".parquet": functools.partial(_write_parquet, metadata=metadata),
        ".csv": _write_csv,
        ".jsonl": _write_json_lines,
    }
    try:
        with open_atomic(filesystem(path, s3), path_of(path)) as file:
            return writers[ending](rows, chosen, file)
    except (OSError, *storage_errors()) as error:
        raise failure(f"{path}: cannot be written", error) from None


@contextlib.contextmanager
def open_atomic(files: fsspec.AbstractFileSystem, path: str) -> Iterator[Any]:
    """A file opened for writing. It appears at the end of the block, and does not appear if the block
    fails."""
    file = files.open(path, "wb")
    try:
        yield file
        file.close()
    except BaseException:
        discard(file)
        raise


def discard(file: Any) -> None:
    """Close an fsspec file so that it does not appear. A file that is already closed is not changed."""
    if file.closed:
        return
    with contextlib.suppress(AttributeError, OSError, *storage_errors()):  # a pipe has no method `discard`
        file.discard()
    if not file.closed:
        file.closed = True  # otherwise s3fs uploads the buffer when the object is garbage-collected


def _each_column(rows: Rows, chosen: Any, to_sql: Callable[[str, Any], str]) -> Any:
    """The rows, with each column replaced by the SQL that `to_sql` returns for its quoted name and its DuckDB
    type."""
    named = rows.over(chosen, "FROM {rows}")  # this adds `_1` to the second of two columns with the same name
    columns = zip(map(quoted, named.columns), named.types, strict=True)
    wanted = ", ".join(f"{to_sql(name, kind)} AS {name}" for name, kind in columns)
    return rows.over(named, f"SELECT {wanted} FROM {{rows}}")


def _write_parquet(rows: Rows, chosen: Any, file: Any, metadata: Mapping[bytes, bytes] | None = None) -> int:
    chosen = _each_column(rows, chosen, _plain_column)
    columns = rows.arrow(chosen.limit(0)).schema.with_metadata(metadata)
    count = 0
    with pq.ParquetWriter(file, columns, compression=COMPRESSION) as writer:
        for group in rows.batches(chosen, ROWS_PER_GROUP):
            writer.write_table(group.cast(columns))
            count += len(group)
    return count


def _write_json_lines(rows: Rows, chosen: Any, file: Any) -> int:
    finite = _each_column(rows, chosen, _finite)
    return _write_lines(rows, finite, "to_json({rows})::VARCHAR", file)


def _write_csv(rows: Rows, chosen: Any, file: Any) -> int:
    """Write CSV in the format of COPY in DuckDB, which itself may not write files here: a null is an empty
    cell, an empty string is `""`."""
    texts = _each_column(rows, chosen, lambda name, _: f"CAST({name} AS VARCHAR)")
    titles = (f'"{n.replace(chr(34), 2 * chr(34))}"' if _QUOTES.search(n) else n for n in texts.columns)
    file.write(",".join(titles).encode() + b"\n")
    cells = _each_column(rows, texts, lambda name, _: _csv_cell(name))
    return _write_lines(rows, cells, f"concat_ws(',', {', '.join(map(quoted, texts.columns))})", file)


def _csv_cell(text: str) -> str:
    """SQL: the string `text` (SQL) as a cell of a CSV file."""
    in_quotes = f"""'"' || replace({text}, '"', '""') || '"'"""
    needed = f"regexp_matches({text}, '{_QUOTES.pattern}')"
    return f"CASE WHEN {text} IS NULL THEN '' WHEN {needed} THEN {in_quotes} ELSE {text} END"


def _write_lines(rows: Rows, chosen: Any, line: str, file: Any) -> int:
    """Write a line for each row; `line` is SQL over `{rows}`. This replaces COPY: DuckDB 2.0.0 sometimes
    hangs when COPY to JSON meets an error."""
    lines = rows.over(chosen, f"SELECT {line} || chr(10) AS line FROM {{rows}}")
    count = 0
    for group in rows.batches(lines, _LINES_AT_ONCE):
        for part in group["line"].chunks:
            file.write(_text_of(part))
        count += len(group)
    return count


def _text_of(strings: pa.StringArray) -> memoryview:
    """All strings of an array, concatenated, as UTF-8. No data is copied."""
    _, _, text = strings.buffers()
    ends = np.frombuffer(strings.buffers()[1], np.int32)[strings.offset :][: len(strings) + 1]
    return memoryview(text)[ends[0] : ends[-1]] if len(strings) else memoryview(b"")


def _plain_column(column: str, kind: Any) -> str:
    """SQL: the column `column` (SQL) of a DuckDB type, cast to types that every Parquet reader supports."""
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
    """SQL: the value `value` (SQL) of a DuckDB type, with null for NaN and infinity, which JSON does not
    support."""
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
    """Whether a type is a struct with named fields. The fields of `row(1, 2)` have no names."""
    return kind.id == "struct" and all(name for name, _ in kind.children)
