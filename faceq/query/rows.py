"""Rows of a result table that fulfil a condition, by DuckDB over the table's Parquet files.

DuckDB skips partitions by `status`, columns that are not named, and row groups whose statistics rule a
condition out. It reads local files itself; objects on S3 come through faceq's own file system, so that
no extension of DuckDB has to be fetched. Whatever a query says, it can read only the files in the table's
partitions, and can write nothing (see `faceq.query.confined`).
"""

import contextlib
import difflib
import glob
import itertools
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from faceq.errors import StorageError, UsageError
from faceq.messages.one_line import one_line
from faceq.query.confined import check_reads_only, connect
from faceq.storage.filesystem import is_remote
from faceq.storage.settings import S3Settings
from faceq.table.schema import STATUSES, schema
from faceq.table.store import Table

VIEW = "frames"
"""What the table is called in whole SQL statements."""

MAIN_COLUMNS = ("source", "member", "status", "serfiq", "dbcnn", "yaw", "pitch")
FRAME_ORDER = "source, frame_index, member"
"""An order of rows that is the same each time, and reads each source once."""

_STATUS = r"regexp_extract(filename, '/status=([^/]*)/[^/]*$', 1)"
"""SQL: the status of a row, which the folder of its file names. DuckDB opens no file that a condition on it
rules out."""

_OF_FILE = "Invalid Error: "
"""How the message of a `duckdb.Error` without a kind begins where Arrow passes it on."""

_OF_THE_WORLD = (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.HTTPException)
"""What DuckDB raises where the statement is right: a full disk, a file that is gone, too little memory."""

SINGLE_PICTURE = "(member IS NULL AND timestamp_s IS NULL)"
"""SQL: a row whose source is one picture."""


def read_table(
    uri: str,
    where: str | None = None,
    columns: Sequence[str] | None = None,
    *,
    s3: S3Settings | None = None,
) -> pa.Table:
    """The rows of a result table, or those that fulfil a condition, in memory.

    Only the partitions, columns and row groups that matter are read: name the columns that you need.

    Args:
        uri: folder or `s3://` prefix of a result table.
        where: an SQL expression over the table's columns, e.g. "serfiq >= 0.6 and dbcnn >= 55".
        columns: names of the columns wanted; all if None.
        s3: where S3 is, if the usual AWS variables and profiles do not say.

    Returns:
        The rows, with all columns of the table or those named.

    Raises:
        UsageError: no such table, or a condition or a column that is wrong (with the nearest right name).

    Examples:
        >>> import faceq
        >>> good = faceq.read_table("demo/table", "serfiq >= 0.6 and dbcnn >= 55", ["source", "dbcnn"])
        >>> good.column_names
        ['source', 'dbcnn']
    """
    with Rows(uri, s3 or S3Settings()) as rows:
        return rows.arrow(rows.chosen(where, columns))


class Rows:
    """The rows of a result table as DuckDB sees them: the view `frames`.

    A context manager. What DuckDB refuses is raised as a UsageError, with the nearest right name.
    """

    def __init__(self, uri: str, s3: S3Settings, **settings: Any):
        """Raises UsageError where no table is. settings: more of DuckDB's."""
        self.table = Table(uri, s3)
        # From here on nothing may empty the file system's cache: it tells DuckDB which files are there.
        files = self.table.row_files()
        if not self.table.exists():
            raise UsageError(f"{self.table.uri}: there is no faceq table here")
        self._numbers = itertools.count()
        self.columns: list[str] = []
        with contextlib.ExitStack() as stack, self.translate_errors():
            versions = {run["version"] for run in self.table.runs_of(files)}
            store = self.table.files if is_remote(self.table.uri) else None
            files = files if store is None else [f"s3://{path}" for path in files]
            spill = stack.enter_context(tempfile.TemporaryDirectory(prefix="faceq-query-"))
            self._connection = stack.enter_context(connect(files, spill, store, **settings))
            self._make_view(files, versions)
            self._opened = stack.pop_all()

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def chosen(
        self,
        where: str | None = None,
        columns: Sequence[str] | None = None,
        order_by: str | None = None,
        limit: int | None = None,
    ) -> duckdb.DuckDBPyRelation:
        """Rows by an SQL condition, an SQL order, and a number; nothing is read before they are asked for."""
        with self.translate_errors():
            rows = self._connection.view(VIEW)
            if where:
                rows = rows.filter(where)
            if order_by:
                rows = rows.order(order_by)
            if limit is not None:
                rows = rows.limit(limit)
            return rows.project(", ".join(quoted(name.strip()) for name in columns)) if columns else rows

    def sql(self, statement: str) -> duckdb.DuckDBPyRelation:
        """What a whole statement over the view `frames` gives.

        Raises:
            UsageError: also for anything but one SELECT, or EXPLAIN before one, that writes nothing.
        """
        with self.translate_errors():
            check_reads_only(self._connection, statement)
            return self._connection.sql(statement)

    def arrow(self, rows: duckdb.DuckDBPyRelation) -> pa.Table:
        """The rows, read."""
        with self.translate_errors():
            return rows.to_arrow_table()

    def batches(self, rows: duckdb.DuckDBPyRelation, size: int) -> Iterator[pa.Table]:
        """The rows as a stream of tables of `size` rows; the last one may have fewer."""
        waiting: list[pa.Table] = []
        for part in self._stream(rows, size):
            waiting.append(part)
            while sum(map(len, waiting)) >= size:
                together = pa.concat_tables(waiting)
                yield together[:size]
                waiting = [together[size:]] if len(together) > size else []
        if waiting:
            yield pa.concat_tables(waiting)

    def _stream(self, rows: duckdb.DuckDBPyRelation, size: int) -> Iterator[pa.Table]:
        """The rows as DuckDB gives them: a part is often no longer than a file, and never than `size`."""
        with self.translate_errors():
            reader = rows.to_arrow_reader(size)
            while True:
                try:
                    yield pa.Table.from_batches([reader.read_next_batch()])
                except StopIteration:
                    return
                except (OSError, pa.ArrowException) as error:  # DuckDB's, with its kind as a word
                    said = str(error)
                    of_file = said.startswith(_OF_FILE)
                    kind = duckdb.Error if of_file else duckdb.ProgrammingError
                    raise kind(said.removeprefix(_OF_FILE)) from None

    def count(self, rows: duckdb.DuckDBPyRelation) -> int:
        """How many rows there are."""
        with self.translate_errors():
            return int(rows.aggregate("count(*)").fetchall()[0][0])

    def over(self, rows: duckdb.DuckDBPyRelation, statement: str) -> duckdb.DuckDBPyRelation:
        """What a statement over some rows gives; it has `{rows}` where their name belongs."""
        name = f"rows_{next(self._numbers)}"  # DuckDB keeps a view of the name, on which the outcome rests
        with self.translate_errors():
            found = rows.query(name, statement.replace("{rows}", name))
            assert found is not None
            return found

    def semi_join(
        self, rows: duckdb.DuckDBPyRelation, column: str, known: pa.Table
    ) -> duckdb.DuckDBPyRelation:
        """Those rows whose value in a column is one of those in the same column of a table in memory."""
        name = f"known_{next(self._numbers)}"
        self._connection.register(name, known)
        return self.over(rows, f"FROM {{rows}} SEMI JOIN {name} USING ({quoted(column)})")

    def _make_view(self, files: list[str], versions: set[str]) -> None:
        known = schema(embeddings=True)
        if not files:
            self._connection.register(VIEW, known.empty_table())
            self.columns = known.names
            return
        # A version may have added columns. Elsewhere the first file speaks for all: to ask each file
        # costs a request.
        read = self._connection.read_parquet(
            [glob.escape(path) for path in files],  # DuckDB takes each for a pattern
            hive_partitioning=False,  # it makes columns out of `key=value` folders above the table, too
            filename=True,
            union_by_name=len(versions) > 1,
        )
        # One projection: DuckDB looks for all files again each time that a relation is made of another.
        stored = [name for name in read.columns if name != "filename"]
        there = [name for name in known.names if name in stored or name == "status"]
        self.columns = [*there, *(name for name in stored if name not in there)]
        wanted = (f"{_STATUS} AS status" if name == "status" else quoted(name) for name in self.columns)
        read.project(", ".join(wanted)).create_view(VIEW)

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        with self.table.translate_errors():
            try:
                yield
            except duckdb.Error as error:
                if type(error) is duckdb.Error:  # not of SQL, but of a file
                    self._tell_of_files(error)
                if isinstance(error, duckdb.InvalidInputException) and self.table.uri in str(error):
                    self.table.find_damage()
                if isinstance(error, _OF_THE_WORLD):
                    raise StorageError(f"query: {_in_words(error, [])}") from None
                raise UsageError(f"query: {_in_words(error, self.columns)}") from None

    def _tell_of_files(self, error: duckdb.Error) -> None:
        """Raise what DuckDB met in a file, which it does not name; Python's exceptions it tells as a text."""
        said = str(error).strip()
        if said.startswith("Traceback"):
            reason = said.splitlines()[-1]
            if reason.startswith(KeyboardInterrupt.__name__):
                raise KeyboardInterrupt from None
            changed = "if a job has written there meanwhile, ask again"
            raise StorageError(f"{self.table.uri}: cannot be used: {reason}: {changed}") from None
        self.table.find_damage()


def display(value: Any) -> str:
    """A cell as people read it: floats with three digits, nothing for null."""
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def quoted(name: str) -> str:
    """SQL: a column's name."""
    return '"' + name.replace('"', '""') + '"'


_NO_COLUMN = re.compile(r'Referenced column "([^"]+)" (?:was )?not found')

_CLOSED = re.compile(r'Cannot access (?:file|directory) "(.*)" - file system operations are disabled')


def _in_words(error: duckdb.Error, columns: Sequence[str]) -> str:
    """DuckDB's reason on one line; of a column that is not there, the nearest one that is."""
    reason = one_line(str(error).split("\n\nLINE")[0])
    closed = _CLOSED.search(reason) if isinstance(error, duckdb.PermissionException) else None
    if closed is not None:
        return f"can read only the table's own files, not {closed[1]}"
    unknown = _NO_COLUMN.search(reason)
    if unknown is None or not columns:
        return reason
    if unknown[1] in STATUSES:
        return f"\"{unknown[1]}\" is a text: write it in single quotes, '{unknown[1]}'"
    near = difflib.get_close_matches(unknown[1].lower(), columns, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(columns)}"
    return f'no column is called "{unknown[1]}": {hint}'
