"""The runs that made a table: their records, `TABLE/_faceq/run-<run_id>.json`, and the order they ran in."""

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
"""As many connections as s3fs opens: most of the time of a small file on S3 is waiting for answers."""

_IN_NO_FOOTER = {"input", "manifest", "out", "s3", "model_mirrors", "accept_licence"}
"""Settings that no value in a row depends on."""


def new_run_id() -> str:
    """A name for a run: when it started (UTC) and eight random hex digits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"


@dataclass
class Run:
    """One scoring run.

    state: claiming, running or ended; owner: the process (see `faceq.table.lock`). version: faceq's. record:
    what decides the values in a row. frames: those of the input that had no row yet; None also where the
    process that counted them died. rows: those that it wrote. counts: the rows by status. already_done:
    frames of the input that had a row before. accepted: models that come under terms which had to be
    accepted, and their licences. passed_over: files and members of shards that hold no frames, by their
    ending. notes: what a person should know of a source, or of the scores, though nothing is broken.
    sequence: 1 for the first run of the table, one more for each that came after (see `in_order`). Times are
    UTC, ISO 8601; `finished` is None while the run goes on, or if it was stopped.
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
    sequence: int = 0

    def footer(self) -> dict[str, Any]:
        """What each Parquet file of the run holds in its metadata."""
        return footer_of(self.as_json())

    def as_json(self) -> dict[str, Any]:
        """The run's record: its fields, what decides the values not under a name of its own."""
        found = asdict(self)
        return {**found.pop("record"), **found}


class RunRecords:
    """The records of the runs that wrote into a folder or an `s3://` prefix."""

    def __init__(self, uri: str, s3: S3Settings):
        self.uri = absolute(uri)
        self.path = path_of(uri)
        self.files: fsspec.AbstractFileSystem = filesystem(uri, s3)
        self.arrow_files = PyFileSystem(FSSpecHandler(self.files))

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turns what storage raises into an error that names the place: see `faults.failure`."""
        try:
            yield
        except folders.UnlistedError as error:
            raise failure(f"{self.uri}: cannot be used", error) from None
        except FaceqError:
            raise
        except PermissionError as error:
            raise failure(f"{self.uri}: access denied", error) from None
        except (OSError, pa.ArrowException, *storage_errors()) as error:
            raise failure(f"{self.uri}: cannot be used", error) from None

    def exists(self) -> bool:
        """Whether a run has begun to write here; StorageError if the place cannot be read."""
        with self.translate_errors():
            return bool(self._run_files())

    def runs(self) -> list[dict[str, Any]]:
        """Records of all runs, as `in_order`.

        Raises:
            StorageError: the place cannot be read, or a record is damaged (see `records.parse`).
        """
        with self.translate_errors():
            self.files.invalidate_cache()
            return in_order(self._records(self._run_files()))

    def runs_of(self, files: list[str]) -> list[dict[str, Any]]:
        """Records of the runs that wrote some of `row_files`; of all runs, where the name of a file does not
        begin with a run's id, as after a compaction."""
        with self.translate_errors():
            there = {path.rsplit("/", 1)[1][len("run-") : -len(".json")]: path for path in self._run_files()}
            wrote = {_writer(path.rsplit("/", 1)[1], there) for path in files}
            return self._records([path for run_id, path in there.items() if None in wrote or run_id in wrote])

    def run(self, run_id: str) -> dict[str, Any] | None:
        """The record of one run; None where there is none."""
        with self.translate_errors():
            return self._record_at(self._run_file(run_id))

    def record(self) -> dict[str, Any]:
        """What decides the values in the rows: the record that all runs of this table share. One is read."""
        with self.translate_errors():
            self.files.invalidate_cache()
            found = next(filter(None, map(self._record_at, self._run_files())), None)
        if found is None:
            raise UsageError(f"{self.uri}: there is no faceq table here")
        return found

    def save(self, run: Run) -> None:
        """Write the run's record; readers see the old one or the new one, never a part.

        Raises StorageError where nothing can be written.
        """
        self.put_record(run.as_json())

    def put_record(self, record: dict[str, Any]) -> None:
        """Write a run's record as `runs` gives it, with secrets masked; otherwise as `save`."""
        text = json.dumps(masked(record), indent=2, sort_keys=True)
        with self.translate_errors(), self.files.open(self._run_file(record["run_id"]), "wb") as file:
            file.write(text.encode())

    def forget(self, run: Run) -> None:
        """Delete the record of a run that has written nothing, if it is there."""
        with self.translate_errors(), contextlib.suppress(FileNotFoundError):
            self.files.rm_file(self._run_file(run.run_id))

    def _records(self, paths: list[str]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            return [record for record in pool.map(self._record_at, paths) if record is not None]

    def _record_at(self, path: str) -> dict[str, Any] | None:
        """A run's record; None if it is gone: a job that was refused takes its record back."""
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
    """What the Parquet files of a run say, from its record: what decides their values. Places and access are
    in the record only: the input may be a hundred thousand paths, and files are copied and shared."""
    found = {each.name for each in fields(Run)} - {"version", "run_id", "config"}
    config = {key: value for key, value in record["config"].items() if key not in _IN_NO_FOOTER}
    return {key: value for key, value in record.items() if key not in found} | {"config": config}


def in_order(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of runs in the order in which the runs held the table, the oldest first.

    By the number that a run gets while it holds the lock, not by its id, which begins with the time of the
    clock of some machine. Only runs of version 0.1.0, which have no number, are ordered by their ids, and are
    older than all others.
    """
    return sorted(found, key=lambda record: (record.get("sequence", 0), record["run_id"]))


def unfinished(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of a table's runs (the oldest first) that were stopped, if no later one has gone on over the same
    input to its end."""
    return [
        run
        for position, run in enumerate(runs)
        if not run["finished"] and not any(_makes_good(later, run) for later in runs[position + 1 :])
    ]


def _makes_good(later: dict[str, Any], stopped: dict[str, Any]) -> bool:
    limit, needed = later["config"].get("limit"), stopped["config"].get("limit")
    whole = limit is None or (needed is not None and limit >= needed)
    return bool(later["finished"]) and whole and set(stopped["input"]) <= set(later["input"])


def _writer(name: str, run_ids: Collection[str]) -> str | None:
    """Which of some runs wrote a file of rows, by its name; None if none of them did."""
    ends = (end for end, char in enumerate(name) if char == "-")
    return next((name[:end] for end in ends if name[:end] in run_ids), None)
