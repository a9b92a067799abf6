"""Rows of a result table that fulfil a condition, by DuckDB over the table's Parquet files.

DuckDB skips partitions by `status`, columns that are not named, and row groups whose statistics rule a
condition out. It reads local files itself; objects on S3 come through faceq's own file system, so that
no extension of DuckDB has to be fetched.
"""

import contextlib
import difflib
import glob
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from faceq.config import S3
from faceq.errors import UsageError
from faceq.runs import Table
from faceq.storage import filesystem, is_remote, path_of, storage_errors
from faceq.table import STATUSES, schema

VIEW = "frames"
"""What the table is called in whole SQL statements."""

MAIN_COLUMNS = ("source", "member", "status", "serfiq", "dbcnn", "yaw", "pitch")
FRAME_ORDER = "source, frame_index, member"
"""An order of rows that is the same each time, and reads each source once."""

_STATUS = r"regexp_extract(filename, '/status=([^/]*)/[^/]*$', 1)"
"""SQL: the status of a row, which the folder of its file names. DuckDB opens no file that a condition on it
rules out."""

SINGLE_PICTURE = "(member IS NULL AND timestamp_s IS NULL)"
"""SQL: a row whose source is one picture."""

EXPORTS = {
    ".parquet": "(FORMAT parquet, COMPRESSION zstd)",
    ".csv": "(FORMAT csv, HEADER)",
    ".jsonl": "(FORMAT json)",
}


def read_table(
    uri: str,
    where: str | None = None,
    columns: Sequence[str] | None = None,
    *,
    s3: S3 | None = None,
) -> pa.Table:
    """The rows of a result table, or those that fulfil a condition, in memory.

    Only the partitions, columns and row groups that matter are read: name the columns that you need.

    Args:
        uri: folder or `s3://` prefix of a result table.
        where: an SQL expression over the table's columns, e.g. "serfiq >= 0.6 and dbcnn >= 55".
        columns: names of the columns wanted; all if None.
        s3: where S3 is, if the usual AWS variables and profiles do not say.

    Raises:
        UsageError: no such table, or a condition or a column that is wrong (with the nearest right name).

    Example:
        >>> import faceq
        >>> good = faceq.read_table("demo/table", "serfiq >= 0.6 and dbcnn >= 55", ["source", "dbcnn"])
        >>> good.column_names
        ['source', 'dbcnn']
    """
    with Rows(uri, s3 or S3()) as rows:
        return rows.arrow(rows.chosen(where, columns))


class Rows:
    """The rows of a result table as DuckDB sees them: the view `frames`.

    A context manager. What DuckDB refuses is raised as a UsageError, with the nearest right name.
    """

    def __init__(self, uri: str, s3: S3, **settings: Any):
        """Raises UsageError where no table is. settings: more of DuckDB's."""
        self.table = Table(uri, s3)
        if not self.table.exists():
            raise UsageError(f"{self.table.uri}: there is no faceq table here")
        self._connection = duckdb.connect(
            config={
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "python_enable_replacements": False,  # a misspelt table must not find a Python variable
                "temp_directory": os.path.join(tempfile.gettempdir(), f"faceq-{os.getpid()}"),
                **settings,
            }
        )
        # DuckDB's is on wherever Python looks interactive, as in `python -c`, and goes to standard output.
        self._connection.execute("SET enable_progress_bar = false")
        with self._told():
            self._make_view(s3)
            self.columns: list[str] = self._connection.view(VIEW).columns

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def chosen(
        self,
        where: str | None = None,
        columns: Sequence[str] | None = None,
        order_by: str | None = None,
        limit: int | None = None,
    ) -> duckdb.DuckDBPyRelation:
        """Rows by an SQL condition, an SQL order, and a number; nothing is read before they are asked for."""
        with self._told():
            rows = self._connection.view(VIEW)
            if where:
                rows = rows.filter(where)
            if order_by:
                rows = rows.order(order_by)
            if limit is not None:
                rows = rows.limit(limit)
            return rows.project(", ".join(_quoted(columns))) if columns else rows

    def sql(self, statement: str) -> duckdb.DuckDBPyRelation:
        """What a whole statement over the view `frames` gives.

        Raises:
            UsageError: also for anything but one SELECT or EXPLAIN.
        """
        with self._told():
            kinds = [part.type for part in self._connection.extract_statements(statement)]
            if kinds not in ([duckdb.StatementType.SELECT], [duckdb.StatementType.EXPLAIN]):
                raise UsageError("query: --sql takes one SELECT over the view `frames`")
            return self._connection.sql(statement)

    def arrow(self, rows: duckdb.DuckDBPyRelation) -> pa.Table:
        """The rows, read."""
        with self._told():
            return rows.to_arrow_table()

    def batches(self, rows: duckdb.DuckDBPyRelation, size: int) -> Iterator[pa.RecordBatch]:
        """The rows as a stream of batches of some `size`."""
        with self._told():
            yield from rows.to_arrow_reader(size)

    def count(self, rows: duckdb.DuckDBPyRelation) -> int:
        """How many rows there are."""
        with self._told():
            return int(rows.aggregate("count(*)").fetchall()[0][0])

    def export(self, rows: duckdb.DuckDBPyRelation, path: str, s3: S3) -> int:
        """Write rows to a .parquet, .csv or .jsonl file, local or on S3; returns their number.

        The file appears whole or not at all.

        Raises:
            UsageError: another ending, or a place that cannot be written to.
        """
        ending = check_export(path)
        try:
            with _written_whole(path, s3) as temporary, self._told():
                target = temporary.replace("'", "''")
                copied = rows.query("chosen", f"COPY (FROM chosen) TO '{target}' {EXPORTS[ending]}")
                return int(copied.fetchall()[0][0]) if copied is not None else 0
        except (OSError, *storage_errors()) as error:
            raise UsageError(f"{path}: cannot be written: {' '.join(str(error).split())}") from None

    def _make_view(self, s3: S3) -> None:
        known = schema(embeddings=True)
        versions = {run["version"] for run in self.table.runs()}
        # Last: DuckDB asks several times whether each file is there, and the file system knows from this.
        files = self.table.row_files()
        if not files:
            self._connection.register(VIEW, known.empty_table())
            return
        if is_remote(self.table.uri):
            self._connection.register_filesystem(filesystem(self.table.uri, s3))
            files = [f"s3://{path}" for path in files]
        files = [glob.escape(path) for path in files]  # DuckDB takes each for a pattern
        # A version may have added columns. Elsewhere the first file speaks for all: to ask each file
        # costs a request.
        read = self._connection.read_parquet(
            files,
            hive_partitioning=False,  # it makes columns out of `key=value` folders above the table, too
            filename=True,
            union_by_name=len(versions) > 1,
        ).project(f"* EXCLUDE (filename), {_STATUS} AS status")
        there = [name for name in known.names if name in read.columns]
        columns = [
            *_quoted(there),
            *_quoted(name for name in read.columns if name not in there),
        ]
        fixed = "* REPLACE (landmarks::FLOAT[10] AS landmarks)"
        read.project(", ".join(columns)).project(fixed).create_view(VIEW)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        with self.table.reached():
            try:
                yield
            except duckdb.Error as error:
                if type(error) is duckdb.Error:  # not of SQL, but of a file
                    self._tell_of_files(error)
                raise UsageError(f"query: {_in_words(error, getattr(self, 'columns', []))}") from None

    def _tell_of_files(self, error: duckdb.Error) -> None:
        """Raise what DuckDB met in a file, which it does not name; Python's exceptions it tells as a text."""
        said = str(error).strip()
        if said.startswith("Traceback"):
            reason = said.splitlines()[-1]
            if reason.startswith(KeyboardInterrupt.__name__):
                raise KeyboardInterrupt from None
            changed = "if a job has written there meanwhile, ask again"
            raise UsageError(f"{self.table.uri}: cannot be used: {reason}: {changed}") from None
        self.table.find_damage()


def check_export(path: str) -> str:
    """The ending of an export's path; UsageError if it is none of EXPORTS."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in EXPORTS:
        raise UsageError(f"{path}: an export is a file that ends in {', '.join(EXPORTS)}")
    return ending


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


def display(value: Any) -> str:
    """A cell as people read it: floats with three digits, nothing for null."""
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _quoted(columns: Any) -> list[str]:
    return ['"' + name.strip().replace('"', '""') + '"' for name in columns]


_NO_COLUMN = re.compile(r'Referenced column "([^"]+)" (?:was )?not found')


def _in_words(error: duckdb.Error, columns: Sequence[str]) -> str:
    """DuckDB's reason on one line; of a column that is not there, the nearest one that is."""
    reason = " ".join(str(error).split("\n\nLINE")[0].split())
    unknown = _NO_COLUMN.search(reason)
    if unknown is None or not columns:
        return reason
    if unknown[1] in STATUSES:
        return f"\"{unknown[1]}\" is a text: write it in single quotes, '{unknown[1]}'"
    near = difflib.get_close_matches(unknown[1].lower(), columns, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(columns)}"
    return f'no column is called "{unknown[1]}": {hint}'
