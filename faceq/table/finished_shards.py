"""Shards that were read to their end, on record in a table: a later run skips them without opening them.

`TABLE/_faceq/shards-<run_id>.arrow` says of each tar, Parquet file and video which version of it was read and
which frames it gave. A shard is skipped only if it still is that version and the table holds a row of each of
these frames and no others. So a record that is lost or wrong costs time, and nothing else. Single pictures
need no record: a row with their id says that they are done.

The files are Arrow IPC, since some programs take every `.parquet` file below a folder for rows of its table.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

import pyarrow as pa

from faceq.storage.filesystem import storage_errors
from faceq.table.store import Table

EVERY_S = 60
"""How often a job that runs writes what it has: a job that is killed loses the records of a minute."""

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
    """A tar, a Parquet file or a video that was read to its end, or to where it breaks off.

    version: what tells it from other files of its name: its bytes and when they were written, or its ETag.
    read_as: the settings, and the faceq, that decide which frames it gives. frames: how many that are, with
    the break; ids: the sum of their ids, as `wrap_int64` gives it.
    """

    source: str
    version: str
    read_as: str
    frames: int
    ids: int


Shards = dict[str, Finished]
"""Finished shards by their source."""


def load(table: Table) -> tuple[Shards, list[str]]:
    """What is on record, and the files that hold it. A file that cannot be read is passed over."""
    files = table.shard_files()
    found: Shards = {}
    for path in files:
        with contextlib.suppress(OSError, TypeError, pa.ArrowException, *storage_errors()):
            rows = pa.ipc.open_file(pa.BufferReader(table.files.cat_file(path))).read_all()
            found.update((row["source"], Finished(**row)) for row in rows.to_pylist())
    return found, files


def save(table: Table, name: str, shards: Iterable[Finished]) -> str:
    """Write what is on record; readers see the old file or the new one. Returns its path."""
    rows = pa.Table.from_pylist([asdict(each) for each in shards], schema=_COLUMNS)
    whole = pa.BufferOutputStream()
    with pa.ipc.new_file(whole, _COLUMNS, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(rows)
    path = f"{table.path}/_faceq/shards-{name}.arrow"
    with table.translate_errors(), table.files.open(path, "wb") as file:
        file.write(whole.getvalue().to_pybytes())
    return path


def copy(old: Table, new: Table) -> None:
    """Put what is on record in one table into another one that holds the same rows."""
    shards, _ = load(old)
    if shards:
        save(new, "compacted", shards.values())


class Keeper:
    """Keeps on record what the read tasks of a run finish.

    Args:
        table, run_id: the run's.
        since: gives those that were finished after the first so many.
        known: what was on record before, and stays so.
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
        """Write what is new every EVERY_S seconds while the block runs, and at its end."""
        ended = threading.Event()
        beating = threading.Thread(target=self._write_regularly, args=(ended,), daemon=True)
        beating.start()
        try:
            yield
        finally:
            ended.set()
            beating.join()
            self._write()

    def replace(self, files: Iterable[str]) -> None:
        """Delete the files of earlier runs, whose records are now in this run's file."""
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
        """A failure is no reason to stop the job: the record saves time, and decides nothing."""
        with contextlib.suppress(Exception):
            new = self._since(self._taken)
            if new:
                self._taken += len(new)
                self._shards.update((each.source, each) for each in new)
                self._path = save(self._table, self._run_id, self._shards.values())
