"""The runs that wrote a table: their records, `TABLE/_faceq/run-<run_id>.json`, and their order."""

import contextlib
import json
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import fsspec
import pyarrow as pa
from pyarrow.fs import FSSpecHandler, PyFileSystem

from faceq.errors import FaceqError, UsageError
from faceq.messages.masking import masked
from faceq.storage import folders
from faceq.storage.faults import failure
from faceq.storage.filesystem import absolute, filesystem, path_of, storage_errors
from faceq.storage.settings import S3Settings
from faceq.table import records

FILES_AT_ONCE = 10
"""Number of files to read in parallel: the number of connections that s3fs opens. Reading a small file from
S3 is mostly waiting for responses."""

_NOT_IN_FOOTER = {"input", "manifest", "out", "s3", "model_mirrors", "accept_licence"}
"""Settings that do not affect any value in a row."""


def new_run_id() -> str:
    """A new id for a run: its start time (UTC) and eight random hex digits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"


@dataclass
class Run:
    """One scoring run.

    state: claiming, running or ended. owner: the process (see `faceq.table.lock`). version: version of faceq.
    record: the settings that affect values. frames: number of input frames that had no row yet; None also if
    the process that counted them died. rows: number of rows written. counts: number of rows by status.
    already_done: number of input frames that already had a row. accepted: the models whose licences had to be
    accepted, with these licences. passed_over: number of skipped files and shard members that are not frames,
    by extension. notes: remarks about a source or about the scores that are not errors. columns: names of the
    columns of its files; empty in older records. sequence: 1 for the first run of the table, one more for
    each later run (see `in_order`). Times are UTC, ISO 8601. `finished`
    is None while the run is running, or if it was stopped.
    """

    run_id: str
    version: str
    input: list[str]
    record: dict[str, Any]
    config: dict[str, Any]
    started: str
    finished: str | None = None
    frames: int | None = None
    rows: int | None = None
    already_done: int | None = None
    state: str = "claiming"
    owner: dict[str, Any] = field(default_factory=dict)
    accepted: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    passed_over: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    sequence: int = 0

    def footer(self) -> dict[str, Any]:
        """The part of the record that every Parquet file of the run contains in its metadata."""
        return footer_of(self.as_json())

    def as_json(self) -> dict[str, Any]:
        """The record of the run as JSON: its fields, with the keys of `record` at the top level."""
        found = asdict(self)
        return {**found.pop("record"), **found}


class RunRecords:
    """The records of the runs that wrote into a folder or a prefix in a store."""

    def __init__(self, uri: str, s3: S3Settings):
        self.uri = absolute(uri)
        self.path = path_of(uri)
        self.files: fsspec.AbstractFileSystem = filesystem(uri, s3)
        self.arrow_files = PyFileSystem(FSSpecHandler(self.files))

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn storage errors into the errors of `faults.failure`, which name the place."""
        try:
            yield
        except folders.UnlistedError as error:
            if isinstance(error.error, NotADirectoryError):
                reason = "it is a file, or lies below one: a table is a folder"
                raise UsageError(f"{self.uri}: cannot be used: {reason}") from None
            raise failure(f"{self.uri}: cannot be used", error) from None
        except FaceqError:
            raise
        except PermissionError as error:
            raise failure(f"{self.uri}: access denied", error) from None
        except (OSError, pa.ArrowException, *storage_errors()) as error:
            raise failure(f"{self.uri}: cannot be used", error) from None

    def exists(self) -> bool:
        """Whether any run has started to write here. Raises StorageError if the place cannot be read."""
        with self.translate_errors():
            return bool(self._run_files())

    def runs(self) -> list[dict[str, Any]]:
        """Records of all runs, in the order of `in_order`.

        Raises:
            StorageError: the place cannot be read, or a record is damaged (see `records.parse`).
        """
        with self.translate_errors():
            return in_order(self._records(self._run_files()))

    def runs_of(self, files: list[str]) -> list[dict[str, Any]]:
        """Records of the runs that wrote the given `row_files`. If the name of a file does not begin with the
        id of a run, as after a compaction, records of all runs."""
        with self.translate_errors():
            known = {path.rsplit("/", 1)[1][len("run-") : -len(".json")]: path for path in self._run_files()}
            wrote = {_writer(path.rsplit("/", 1)[1], known) for path in files}
            return self._records([path for run_id, path in known.items() if None in wrote or run_id in wrote])

    def run(self, run_id: str) -> dict[str, Any] | None:
        """The record of one run; None if there is none."""
        with self.translate_errors():
            return self._record_at(self._run_file(run_id))

    def record(self) -> dict[str, Any]:
        """A record of one of the runs. The settings that affect values are the same in all of them.

        Raises UsageError if there is no table.
        """
        with self.translate_errors():
            found = next(filter(None, map(self._record_at, self._run_files())), None)
        if found is None:
            raise UsageError(f"{self.uri}: there is no faceq table here")
        return found

    def save(self, run: Run) -> None:
        """Write the record of a run atomically.

        Raises StorageError if it cannot be written.
        """
        self.put_record(run.as_json())

    def put_record(self, record: dict[str, Any]) -> None:
        """Write a record in the form that `runs` returns, with secrets masked; otherwise like `save`."""
        text = json.dumps(masked(record), indent=2, sort_keys=True)
        with self.translate_errors(), self.files.open(self._run_file(record["run_id"]), "wb") as file:
            file.write(text.encode())

    def forget(self, run: Run) -> None:
        """Delete the record of a run that wrote nothing, if it exists."""
        with self.translate_errors(), contextlib.suppress(FileNotFoundError):
            self.files.rm_file(self._run_file(run.run_id))

    def _records(self, paths: list[str]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            return [record for record in pool.map(self._record_at, paths) if record is not None]

    def _record_at(self, path: str) -> dict[str, Any] | None:
        """The record in a file; None if the file is gone: a job that could not get the lock deletes its
        record."""
        try:
            content = self.files.cat_file(path)
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            raise records.damaged(self.uri, path.rsplit("/", 1)[1], "it is a folder") from None
        return records.parse(content, path.rsplit("/", 1)[1], self.uri)

    def _run_files(self) -> list[str]:
        return folders.inside(self.files, self.path, "_faceq/run-*.json")

    def _run_file(self, run_id: str) -> str:
        return f"{self.path}/_faceq/{records.name_of(run_id)}"


def footer_of(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a record that goes into the footers of the Parquet files: what affects their values. Paths
    and access settings stay in the record only, because the input may be a hundred thousand paths, and row
    files may be copied and shared."""
    excluded = {each.name for each in fields(Run)} - {"version", "run_id", "config"}
    config = {key: value for key, value in record["config"].items() if key not in _NOT_IN_FOOTER}
    return {key: value for key, value in record.items() if key not in excluded} | {"config": config}


def in_order(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of runs in the order in which the runs held the lock, oldest first.

    They are sorted by the sequence number that a run gets while it holds the lock. The id is not reliable: it
    begins with the time of the clock of some machine. Runs of version 0.1.0 have no sequence number; they are
    older than all others, and are sorted by id.
    """
    return sorted(found, key=lambda record: (record.get("sequence", 0), record["run_id"]))


def unfinished(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs of a table (oldest first) that were stopped and whose input no later run has finished."""
    return [
        run
        for position, run in enumerate(runs)
        if not run["finished"] and not any(_completes(later, run) for later in runs[position + 1 :])
    ]


def _completes(later: dict[str, Any], stopped: dict[str, Any]) -> bool:
    """Whether a later run finished the whole input of a stopped run."""
    limit, needed = later["config"].get("limit"), stopped["config"].get("limit")
    covers_limit = limit is None or (needed is not None and limit >= needed)
    return bool(later["finished"]) and covers_limit and set(stopped["input"]) <= set(later["input"])


def _writer(name: str, run_ids: Collection[str]) -> str | None:
    """The id of the run that wrote a row file, by the name of the file; None if it is none of these runs."""
    ends = (end for end, char in enumerate(name) if char == "-")
    return next((name[:end] for end in ends if name[:end] in run_ids), None)
