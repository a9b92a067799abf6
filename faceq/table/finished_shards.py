"""Record which shards were read to the end, so that a later run skips them without opening them.

`TABLE/_faceq/shards-<run_id>.arrow` records, for each tar, Parquet file and video, which version of it was
read and which frames it contained. A shard is skipped only if its version is unchanged and the table has a
row for every one of these frames and for no others. A lost or wrong record therefore costs only time. Single
images need no record: a row with their id shows that they are finished.

The files are in Arrow IPC format, because some programs treat every `.parquet` file below a folder as part of
the table.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

import pyarrow as pa

from faceq.storage.filesystem import storage_errors
from faceq.table.store import Table

EVERY_S = 60
"""Interval in seconds at which a running job writes its records. A killed job loses the records of at most
one interval."""

_COLUMNS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("read_as", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("ids", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Finished:
    """A tar, a Parquet file or a video that was read to its end, or to the point where it is damaged.

    version: identifies the version of the file: its size and modification time, or its ETag. read_as: the
    settings and the version of faceq that decide which frames it contains. frames: the number of frames,
    including the row for the damage. ids: the sum of their ids, as `wrap_int64` returns it.
    """

    source: str
    version: str
    read_as: str
    frames: int
    ids: int


@dataclass(frozen=True, slots=True)
class FinishedPart:
    """A part of a shard that was read to its end: the part with index `number` of `parts`.

    read: as if the part was the whole shard.
    """

    read: Finished
    number: int
    parts: int


Shards = dict[str, Finished]
"""Finished shards by their source."""


def load(table: Table) -> tuple[Shards, list[str]]:
    """The recorded shards, and the files that contain the records. Files that cannot be read are skipped."""
    files = table.shard_files()
    found: Shards = {}
    for path in files:
        with contextlib.suppress(OSError, TypeError, pa.ArrowException, *storage_errors()):
            rows = pa.ipc.open_file(pa.BufferReader(table.files.cat_file(path))).read_all()
            found.update((row["source"], Finished(**row)) for row in rows.to_pylist())
    return found, files


def save(table: Table, name: str, shards: Iterable[Finished]) -> str:
    """Write the records atomically. Returns the path of the file."""
    rows = pa.Table.from_pylist([asdict(each) for each in shards], schema=_COLUMNS)
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, _COLUMNS, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(rows)
    path = f"{table.path}/_faceq/shards-{name}.arrow"
    with table.translate_errors(), table.files.open(path, "wb") as file:
        file.write(buffer.getvalue().to_pybytes())
    return path


def copy(old: Table, new: Table) -> None:
    """Copy the records of one table into another table with the same rows."""
    shards, _ = load(old)
    if shards:
        save(new, "compacted", shards.values())


class Keeper:
    """Records the shards that the read tasks of a run finish.

    Args:
        table: the table of the run.
        run_id: the id of the run.
        since: a function of n that returns the finished shards after the first n.
        known: shards that were recorded earlier; they are kept.
    """

    def __init__(
        self,
        table: Table,
        run_id: str,
        since: Callable[[int], list[Finished]],
        known: Mapping[str, Finished],
    ):
        self._table, self._run_id, self._since = table, run_id, since
        self._shards = dict(known)
        self._taken = 0
        self._path: str | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Write new records every EVERY_S seconds while the block runs, and once at its end."""
        ended = threading.Event()
        thread = threading.Thread(target=self._write_regularly, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._write()

    def replace(self, files: Iterable[str]) -> None:
        """Delete the files of earlier runs. Their records are now in the file of this run."""
        if self._path is None:
            return
        with self._table.translate_errors():
            for path in files:
                with contextlib.suppress(FileNotFoundError):
                    self._table.files.rm_file(path)

    def _write_regularly(self, ended: threading.Event) -> None:
        while not ended.wait(EVERY_S):
            self._write()

    def _write(self) -> None:
        """Write new records. A failure does not stop the job: the records only save time."""
        with contextlib.suppress(Exception):
            new = self._since(self._taken)
            if new:
                self._taken += len(new)
                self._shards.update((each.source, each) for each in new)
                self._path = save(self._table, self._run_id, self._shards.values())
