"""Rows of a query as a file that other programs read: Parquet, CSV or JSON lines.

Parquet is written by Arrow, in types that every reader knows; a column of a type that only DuckDB has
becomes a plain one first. Fewer programs read what DuckDB's COPY writes: arrays with nulls are errors in
pyarrow (26), and lists with nulls crash polars (1.12).
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from faceq.errors import UsageError
from faceq.query.rows import Rows, quoted
from faceq.storage.faults import failure
from faceq.storage.filesystem import filesystem, path_of, storage_errors
from faceq.storage.outputs import check_output
from faceq.storage.settings import S3Settings
from faceq.table.store import COMPRESSION, ROWS_PER_GROUP

EXPORTS = (".parquet", ".csv", ".jsonl")

_LINES_AT_ONCE = 10_000

_QUOTES = re.compile('^$|^#|[",\n\r]')
"""Texts that a CSV file has in quotes; the pattern means the same to DuckDB."""

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


def export(rows: Rows, chosen: Any, path: str, s3: S3Settings) -> int:
    """Write rows to a .parquet, .csv or .jsonl file, local or on S3; returns their number.

    The file appears whole or not at all; of several exports to one place at once the last one stays. Some ten
    thousand rows are in memory. Of two columns of one name the second gets `_1`.

    Args:
        rows: the table.
        chosen: what `rows.chosen` or `rows.sql` gave.
        path: where to; a file that is there is replaced.
        s3: settings of the file system.

    Raises:
        UsageError: another ending, a place that is not there, or what DuckDB refuses.
        StorageError: the disk is full, or the store does not take the file.
    """
    ending = check_export(path)
    check_output(path, s3)
    write = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_json_lines}[ending]
    try:
        with written_whole(filesystem(path, s3), path_of(path)) as file:
            return write(rows, chosen, file)
    except (OSError, *storage_errors()) as error:
        raise failure(f"{path}: cannot be written", error) from None


@contextlib.contextmanager
def written_whole(files: fsspec.AbstractFileSystem, path: str) -> Iterator[Any]:
    """A file to write to; it appears at the end of the block, and not at all if the block fails."""
    file = files.open(path, "wb")
    try:
        yield file
        file.close()
    except BaseException:
        discard(file)
        raise


def discard(file: Any) -> None:
    """Close a file of a file system so that it does not appear; one that was closed stays as it is."""
    if file.closed:
        return
    with contextlib.suppress(AttributeError, OSError, *storage_errors()):  # a pipe has nothing to discard
        file.discard()
    if not file.closed:
        file.closed = True  # otherwise s3fs uploads what it has when the object is collected


def _each_column(rows: Rows, chosen: Any, to_sql: Callable[[str, Any], str]) -> Any:
    """The rows, each column as the SQL that `to_sql` makes of its quoted name and its DuckDB type."""
    named = rows.over(chosen, "FROM {rows}")  # here the second of two columns of one name gets `_1`
    columns = zip(map(quoted, named.columns), named.types, strict=True)
    wanted = ", ".join(f"{to_sql(name, kind)} AS {name}" for name, kind in columns)
    return rows.over(named, f"SELECT {wanted} FROM {{rows}}")


def _write_parquet(rows: Rows, chosen: Any, file: Any) -> int:
    chosen = _each_column(rows, chosen, _plain_column)
    columns = rows.arrow(chosen.limit(0)).schema
    count = 0
    with pq.ParquetWriter(file, columns, compression=COMPRESSION) as writer:
        for group in rows.batches(chosen, ROWS_PER_GROUP):
            writer.write_table(group)
            count += len(group)
    return count


def _write_json_lines(rows: Rows, chosen: Any, file: Any) -> int:
    finite = _each_column(rows, chosen, _finite)
    return _write_lines(rows, finite, "to_json({rows})::VARCHAR", file)


def _write_csv(rows: Rows, chosen: Any, file: Any) -> int:
    """As DuckDB's COPY writes it, which may write no file here: a null is nothing, an empty text is `""`."""
    texts = _each_column(rows, chosen, lambda name, _: f"CAST({name} AS VARCHAR)")
    titles = (f'"{n.replace(chr(34), 2 * chr(34))}"' if _QUOTES.search(n) else n for n in texts.columns)
    file.write(",".join(titles).encode() + b"\n")
    cells = _each_column(rows, texts, lambda name, _: _csv_cell(name))
    return _write_lines(rows, cells, f"concat_ws(',', {', '.join(map(quoted, texts.columns))})", file)


def _csv_cell(text: str) -> str:
    """SQL: a text (SQL) as a cell of a CSV file."""
    in_quotes = f"""'"' || replace({text}, '"', '""') || '"'"""
    needed = f"regexp_matches({text}, '{_QUOTES.pattern}')"
    return f"CASE WHEN {text} IS NULL THEN '' WHEN {needed} THEN {in_quotes} ELSE {text} END"


def _write_lines(rows: Rows, chosen: Any, line: str, file: Any) -> int:
    """A line (SQL over `{rows}`) for each row, written by hand: DuckDB 2.0.0 hangs at times where COPY to
    JSON meets an error."""
    lines = rows.over(chosen, f"SELECT {line} || chr(10) AS line FROM {{rows}}")
    count = 0
    for group in rows.batches(lines, _LINES_AT_ONCE):
        for part in group["line"].chunks:
            file.write(_text_of(part))
        count += len(group)
    return count


def _text_of(strings: pa.StringArray) -> memoryview:
    """All strings of an array one after the other, as they lie in memory: UTF-8."""
    _, _, text = strings.buffers()
    ends = np.frombuffer(strings.buffers()[1], np.int32)[strings.offset :][: len(strings) + 1]
    return memoryview(text)[ends[0] : ends[-1]] if len(strings) else memoryview(b"")


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
