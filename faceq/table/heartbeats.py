"""Heartbeats of jobs: `TABLE/_faceq/heartbeat-<run_id>`, an empty object that the job rewrites regularly.

Times are the modification times that the storage reports, in seconds. Only their differences are used, so the
clocks of the machines need not agree with the storage or with each other.
"""

import contextlib
import os
from dataclasses import dataclass
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from faceq.table.store import Table

_HEARTBEAT, _RECORD = "heartbeat-", "run-"


@dataclass(frozen=True)
class Seen:
    """When the record and the heartbeat of a run were last written; None if they do not exist."""

    record: float | None = None
    heartbeat: float | None = None

    @property
    def is_complete(self) -> bool:
        """Whether both exist."""
        return self.record is not None and self.heartbeat is not None


def beat(table: Table, run_id: str) -> None:
    """Write the heartbeat of a run. Raises StorageError if it cannot be written."""
    with table.translate_errors():
        table.files.touch(_path(table, run_id), truncate=True)


def stop(table: Table, run_id: str) -> None:
    """Delete the heartbeat of a run, if there is one."""
    with table.translate_errors(), contextlib.suppress(FileNotFoundError):
        table.files.rm_file(_path(table, run_id))


def look(table: Table, mine: str) -> dict[str, Seen]:
    """The runs that have a record or a heartbeat, by id; the run `mine` is always included. This takes one
    listing (on S3, one request per thousand objects)."""
    records: dict[str, float] = {}
    beats: dict[str, float] = {}
    with table.translate_errors():
        for name, written in _times(table.files, f"{table.path}/_faceq").items():
            if name.startswith(_HEARTBEAT):
                beats[name.removeprefix(_HEARTBEAT)] = written
            elif name.startswith(_RECORD) and name.endswith(".json"):
                records[name.removeprefix(_RECORD).removesuffix(".json")] = written
    seen = {run_id: Seen(records.get(run_id), beats.get(run_id)) for run_id in {*records, *beats}}
    if mine not in records or mine not in beats:
        # A listing may not yet contain what this job has just written.
        seen[mine] = Seen(_written(table, f"run-{mine}.json"), _written(table, f"{_HEARTBEAT}{mine}"))
    return seen


def _written(table: Table, name: str) -> float | None:
    path = f"{table.path}/_faceq/{name}"
    with table.translate_errors(), contextlib.suppress(FileNotFoundError):
        if isinstance(table.files, LocalFileSystem):
            return os.stat(path).st_mtime
        return float(table.files.modified(path, refresh=True).timestamp())
    return None


def _path(table: Table, run_id: str) -> str:
    return f"{table.path}/_faceq/{_HEARTBEAT}{run_id}"


def _times(files: Any, folder: str) -> dict[str, float]:
    """When each file in a folder was last written, by name; empty if there is no such folder."""
    found = {}
    if isinstance(files, LocalFileSystem):
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # deleted after it was listed
                    found[entry.name] = entry.stat().st_mtime
        return found
    with contextlib.suppress(FileNotFoundError):
        for each in files.ls(folder, detail=True):
            if "LastModified" in each:
                found[each["name"].rsplit("/", 1)[1]] = each["LastModified"].timestamp()
    return found
