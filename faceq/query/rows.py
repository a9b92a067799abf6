"""Query the rows of a result table with DuckDB.

DuckDB reads only the partitions (by `status`), columns and row groups (by their statistics) that a query
needs. It reads local files itself. It reads objects on S3 through the file system of faceq, so that no DuckDB
extension has to be downloaded. A query can read only the files in the partitions of the table, and cannot
write anything (see `faceq.query.confined`).
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
from faceq.query.faces import (
    FACE_ID,
    FACE_POSITION,
    FACE_VIEW,
    IS_MAIN,
    TRACK,
    needs_tracks,
    per_face,
    with_tracks,
)
from faceq.query.recogniser import impostors_of, recogniser_of
from faceq.query.sql import FRAME_ORDER, OF_VIDEO, VIEW, quoted
from faceq.storage.filesystem import is_remote, uri_of
from faceq.storage.settings import S3Settings
from faceq.table.schema import EMBEDDING, EVERY_COLUMN, FACES_COLUMN, OPTIONAL, STATUSES
from faceq.table.store import Table

MAIN_COLUMNS = ("source", "member", "status", "serfiq", "dbcnn", "yaw", "pitch")
_ROWS_AT_ONCE = 20_000

_STATUS = r"regexp_extract(filename, '/status=([^/]*)/[^/]*$', 1)"
"""SQL: the status of a row, from the folder of its file. DuckDB does not open files that a condition on the
status rules out."""

_FILE_ERROR_PREFIX = "Invalid Error: "
"""Prefix of the message of a plain `duckdb.Error` when Arrow passes it on."""

_RUNTIME_ERRORS = (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.HTTPException)
"""Errors that DuckDB raises although the statement is right: a full disk, a missing file, too little
memory."""


def read_table(
    uri: str,
    where: str | None = None,
    columns: Sequence[str] | None = None,
    *,
    faces: bool = False,
    s3: S3Settings | None = None,
) -> pa.Table:
    """Read the rows of a result table, or those that match a condition, into memory.

    Only the necessary partitions, columns and row groups are read, so name the columns that you need.

    Args:
        uri: folder or URI of a result table.
        where: an SQL condition on the columns of the table, e.g. "serfiq >= 0.6 and dbcnn >= 55".
        columns: names of the columns to read; all if None.
        faces: one row for each face instead of each frame: see "Rows of faces" in the reference. If `where`
            or `columns` names `track`, or all columns are read, the faces of videos are followed first.
        s3: settings for S3, if the usual AWS environment variables and profiles are not enough.

    Returns:
        The rows as a pyarrow table.

    Raises:
        UsageError: there is no such table, or the condition or a column name is not valid (the message
            suggests the closest name).
        StorageError: the table cannot be read, or one of its files is damaged.

    Examples:
        >>> import faceq
        >>> good = faceq.read_table("demo/table", "serfiq >= 0.6 and dbcnn >= 55", ["source", "dbcnn"])
        >>> good.column_names
        ['source', 'dbcnn']
    """
    tracks = needs_tracks(where or "", None if columns is None else ",".join(columns))
    with Rows(uri, s3 or S3Settings(), faces=faces, tracks=tracks) as rows:
        return rows.arrow(rows.chosen(where, columns))


class Rows:
    """The rows of a result table as the DuckDB view `frames`, or those of its faces as the view `faces`.

    noun: what a row is, `frame` or `face`. view, key: name of the view, and of the column that identifies its
    rows. order: SQL, a repeatable order of the rows that reads each source once. columns: of the view.
    stored: the columns that the files have.

    This is a context manager. If DuckDB rejects a statement, a UsageError is raised; for an unknown column it
    suggests the closest name.
    """

    def __init__(
        self, uri: str, s3: S3Settings, *, faces: bool = False, tracks: bool = False, **settings: Any
    ):
        """Raises UsageError if there is no table.

        Args:
            uri: folder or URI of the table.
            s3: settings of the file system.
            faces: the rows are those of faces. Statements may use both views.
            tracks: with `faces`: follow the faces of videos, to fill in their `track`. All of their boxes are
                read for it.
            settings: further settings of DuckDB.
        """
        self.table = Table(uri, s3)
        # From here on, do not clear the cache of the file system: DuckDB gets the list of files from it.
        files = self.table.row_files()
        if not self.table.exists():
            raise UsageError(f"{self.table.uri}: there is no faceq table here")
        self._numbers = itertools.count()
        self.noun = "face" if faces else "frame"
        self.view, self.key = (FACE_VIEW, FACE_ID) if faces else (VIEW, "frame_id")
        self.order = f"{FRAME_ORDER}, {FACE_POSITION}" if faces else FRAME_ORDER
        self.columns: list[str] = []
        self.stored: list[str] = []
        with contextlib.ExitStack() as stack, self.translate_errors():
            runs = self.table.runs_of(files)
            alike = len({(run["version"], *run.get("columns", ())) for run in runs}) <= 1
            store = self.table.files if is_remote(self.table.uri) else None
            files = [uri_of(path, self.table.uri) for path in files]
            spill = stack.enter_context(tempfile.TemporaryDirectory(prefix="faceq-query-"))
            self._connection = stack.enter_context(connect(files, spill, store, **settings))
            self._make_view(files, alike)
            if faces:
                self._make_face_view(all(run.get("faces") == "all" for run in runs), tracks)
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
        """Rows selected by an SQL condition, an SQL order and a limit. Nothing is read until the rows are
        used."""
        with self.translate_errors():
            rows = self._connection.view(self.view)
            if where:
                rows = rows.filter(where)
            if order_by:
                rows = rows.order(order_by)
            if limit is not None:
                rows = rows.limit(limit)
            return rows.project(", ".join(quoted(name.strip()) for name in columns)) if columns else rows

    def sql(self, statement: str) -> duckdb.DuckDBPyRelation:
        """The result of a whole statement over the view.

        Raises:
            UsageError: DuckDB rejects the statement, or it is not a single SELECT, or EXPLAIN of one, that
                writes nothing.
        """
        with self.translate_errors():
            check_reads_only(self._connection, statement)
            return self._connection.sql(statement)

    def arrow(self, rows: duckdb.DuckDBPyRelation) -> pa.Table:
        """Read the rows into memory."""
        with self.translate_errors():
            return rows.to_arrow_table()

    def batches(self, rows: duckdb.DuckDBPyRelation, size: int) -> Iterator[pa.Table]:
        """The rows as a stream of tables of `size` rows; the last one may have fewer."""
        waiting: list[pa.Table] = []
        for part in self._stream(rows, size):
            waiting.append(part)
            while sum(map(len, waiting)) >= size:
                joined = pa.concat_tables(waiting)
                yield joined[:size]
                waiting = [joined[size:]] if len(joined) > size else []
        if waiting:
            yield pa.concat_tables(waiting)

    def _stream(self, rows: duckdb.DuckDBPyRelation, size: int) -> Iterator[pa.Table]:
        """The rows in the parts that DuckDB returns: often one part per file, never longer than `size`."""
        with self.translate_errors():
            reader = rows.to_arrow_reader(size)
            while True:
                try:
                    yield pa.Table.from_batches([reader.read_next_batch()])
                except StopIteration:
                    return
                except (OSError, pa.ArrowException) as error:
                    text = str(error)  # an error of DuckDB, whose message contains its type
                    is_file_error = text.startswith(_FILE_ERROR_PREFIX)
                    kind = duckdb.Error if is_file_error else duckdb.ProgrammingError
                    raise kind(text.removeprefix(_FILE_ERROR_PREFIX)) from None

    def count(self, rows: duckdb.DuckDBPyRelation) -> int:
        """The number of rows."""
        with self.translate_errors():
            return int(rows.aggregate("count(*)").fetchall()[0][0])

    def over(self, rows: duckdb.DuckDBPyRelation, statement: str) -> duckdb.DuckDBPyRelation:
        """The result of a statement over some rows. The statement refers to them as `{rows}`."""
        # The name must be unique: DuckDB keeps a view of this name, which the result uses.
        name = f"rows_{next(self._numbers)}"
        with self.translate_errors():
            found = rows.query(name, statement.replace("{rows}", name))
            assert found is not None
            return found

    def semi_join(
        self, rows: duckdb.DuckDBPyRelation, column: str, known: pa.Table
    ) -> duckdb.DuckDBPyRelation:
        """The rows whose value in a column occurs in the same column of a table in memory."""
        return self.over(rows, f"FROM {{rows}} SEMI JOIN {self.name_of(known)} USING ({quoted(column)})")

    def name_of(self, known: pa.Table) -> str:
        """A name by which SQL statements can refer to a table in memory."""
        name = f"known_{next(self._numbers)}"
        self._connection.register(name, known)
        return name

    def _make_view(self, files: list[str], alike: bool) -> None:
        """`alike`: all files have the same columns, so that DuckDB needs to read only the first one's: every
        other file would cost a request."""
        if not files:
            self._connection.register(VIEW, EVERY_COLUMN.empty_table())
            self.columns = self.stored = EVERY_COLUMN.names
            return
        read = self._connection.read_parquet(
            [glob.escape(path) for path in files],  # DuckDB treats every path as a pattern
            hive_partitioning=False,  # it would also make columns from `key=value` folders above the table
            filename=True,
            union_by_name=not alike,
        )
        # Use one projection: DuckDB lists all files again whenever a relation is derived from another.
        self.stored = stored = [name for name in read.columns if name != "filename"]
        present = [name for name in EVERY_COLUMN.names if name in stored or name not in OPTIONAL]
        self.columns = [*present, *(name for name in stored if name not in present)]
        wanted = (_from_files(name, stored) for name in self.columns)
        read.project(", ".join(wanted)).create_view(VIEW)

    def _make_face_view(self, all_faces: bool, tracks: bool) -> None:
        """`all_faces`: all rows are of runs with `faces: all`."""
        statement = per_face(VIEW, self.columns, all_faces)
        self._connection.execute(f"CREATE TEMP VIEW {FACE_VIEW} AS {statement}")
        self.columns = self._connection.view(FACE_VIEW).columns
        if tracks:
            self._fill_in_tracks(statement)

    def _fill_in_tracks(self, statement: str) -> None:
        """Follow the faces of videos, unless the files have the tracks of all. `statement`: of the view."""
        from faceq.query import tracks  # noqa: PLC0415 - SciPy takes a while to import

        if not len(self.arrow(self.sql(tracks.WITHOUT_TRACK))):
            return
        with_embeddings = EMBEDDING.name in self.stored
        impostors = impostors_of(recogniser_of(self.table)) if with_embeddings else None
        shown = self.batches(self.sql(tracks.faces_to_follow(with_embeddings)), _ROWS_AT_ONCE)
        numbers = self.name_of(tracks.follow(shown, impostors))
        statement = with_tracks(statement, numbers)
        self._connection.execute(f"CREATE OR REPLACE TEMP VIEW {FACE_VIEW} AS {statement}")

    def lacks_tracks(self) -> bool:
        """Whether the files have faces of videos whose `track` nobody has filled in."""
        if FACES_COLUMN.name not in self.stored:
            return False
        null = (
            f"list_filter({FACES_COLUMN.name}, lambda face: face.{TRACK} IS NULL AND face.face_x IS NOT NULL)"
        )
        return bool(
            len(self.arrow(self.sql(f"SELECT 1 FROM {VIEW} WHERE {OF_VIDEO} AND len({null}) > 0 LIMIT 1")))
        )

    @property
    def of_faces(self) -> bool:
        """Whether the rows are those of faces."""
        return self.view == FACE_VIEW

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn errors of DuckDB and of the storage into UsageError or StorageError."""
        with self.table.translate_errors():
            try:
                yield
            except duckdb.Error as error:
                if type(error) is duckdb.Error:  # not an error in the SQL, but in a file
                    self._raise_file_error(error)
                if isinstance(error, duckdb.InvalidInputException) and self.table.uri in str(error):
                    self.table.find_damage()
                if isinstance(error, _RUNTIME_ERRORS):
                    raise StorageError(f"query: {_message_of(error, [])}") from None
                raise UsageError(f"query: {_message_of(error, self.columns)}") from None

    def _raise_file_error(self, error: duckdb.Error) -> None:
        """Raise a StorageError for an error that DuckDB met in a file. DuckDB does not name the file, and
        passes on a Python exception only as the text of its traceback."""
        text = str(error).strip()
        if text.startswith("Traceback"):
            reason = text.splitlines()[-1]
            if reason.startswith(KeyboardInterrupt.__name__):
                raise KeyboardInterrupt from None
            advice = "if a job is writing to the table, run the query again"
            raise StorageError(f"{self.table.uri}: cannot be used: {reason}: {advice}") from None
        self.table.find_damage()


_SQL_TYPES = {
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.list_(pa.float32()): "FLOAT[]",
}


def _from_files(name: str, stored: Sequence[str]) -> str:
    """SQL: a column of the view. A column that the files do not have yet is null."""
    if name == "status":
        return f"{_STATUS} AS status"
    if name in stored:
        return quoted(name)
    return f"NULL::{_SQL_TYPES[EVERY_COLUMN.field(name).type]} AS {quoted(name)}"


def display(value: Any) -> str:
    """The text of a cell: floats with three digits, an empty string for null."""
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


_NO_COLUMN = re.compile(r'Referenced column "([^"]+)" (?:was )?not found')

_FORBIDDEN = re.compile(r'Cannot access (?:file|directory) "(.*)" - file system operations are disabled')


def _message_of(error: duckdb.Error, columns: Sequence[str]) -> str:
    """The reason of a DuckDB error on one line. For an unknown column, it suggests the closest name."""
    reason = one_line(str(error).split("\n\nLINE")[0])
    forbidden = _FORBIDDEN.search(reason) if isinstance(error, duckdb.PermissionException) else None
    if forbidden is not None:
        return f"can read only the table's own files, not {forbidden[1]}"
    unknown = _NO_COLUMN.search(reason)
    if unknown is None or not columns:
        return reason
    if unknown[1] in STATUSES:
        return f"\"{unknown[1]}\" is a string: write it in single quotes, '{unknown[1]}'"
    if unknown[1].lower() in (FACE_ID, FACE_POSITION, IS_MAIN, TRACK):
        return (
            f'frames have no column "{unknown[1]}", but faces do: add --faces (faceq clips: --per track), '
            f"and in --sql use the view `{FACE_VIEW}`"
        )
    near = difflib.get_close_matches(unknown[1].lower(), columns, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"choose from {', '.join(columns)}"
    return f'there is no column "{unknown[1]}": {hint}'
