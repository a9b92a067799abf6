"""The result table as a folder of files: list its files, check what may be written, and read rows."""

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from faceq.errors import StorageError, UsageError
from faceq.messages.one_line import one_line
from faceq.storage import folders
from faceq.storage.filesystem import READ_AHEAD, is_storage_error
from faceq.storage.local_files import is_temporary
from faceq.storage.parquet import ParquetFile
from faceq.table import comparable
from faceq.table.runs import FILES_AT_ONCE, Run, RunRecords
from faceq.table.schema import EVERY_COLUMN, FACES_COLUMN, STATUSES, isin_sorted, record_of, wrap_int64

COMPRESSION = "zstd"
ROWS_PER_GROUP = 100_000
"""Maximum number of rows in a row group. A reader skips or reads a row group as a whole."""

WITH_FACES = ("face_too_small", "below_fiq", "scored")
"""The statuses of frames with faces."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SCORE_RANGES = {"serfiq": 1.0, "dbcnn": 100.0}
QUANTILE_BINS = 10_000


class Table(RunRecords):
    """A result table: a folder or a prefix in a store."""

    def check(self, record: dict[str, Any] | None) -> None:
        """Check that a run with these settings may write here. With None, check only that the folder contains
        a table or nothing.

        Raises:
            UsageError: there are rows made with other settings (the message says which), there are other
                files, or Ray would change the path.
            StorageError: the place cannot be read, or a record in it is damaged.
        """
        written_to = _path_in_ray(self.path)
        if written_to != self.path:
            raise UsageError(
                f"{self.uri!r}: rows would go to {written_to!r}: choose a folder for --out whose path has no "
                "line breaks or tabs, and no ? or ; at its end"
            )
        for run in self._existing_runs():
            if self._may_have_rows(run) and record is not None:
                comparable.check(self.uri, run, record)

    def _may_have_rows(self, run: dict[str, Any]) -> bool:
        """Whether there may be rows that were made with the settings of this run."""
        stopped = run.get("state") == "ended" and run.get("finished", "") is None
        if stopped and not self.files_of(run["run_id"]):
            return False
        return run.get("state") != "claiming"

    def remove_others(self, mine: Run) -> int:
        """Delete all rows and the records of other runs. Returns the number of deleted files.

        Other files in the folder are kept.
        """
        rows = self.row_files()
        # A job in the state `claiming` will see this job and delete its own record.
        others = [run["run_id"] for run in self.runs() if run.get("state") != "claiming"]
        # Delete records last: without them, the next run would assume that the remaining rows were made with
        # the settings of this run.
        files = (
            rows + self.shard_files() + [self._run_file(run_id) for run_id in others if run_id != mine.run_id]
        )
        with self.translate_errors():
            for path in files:
                self.files.rm_file(path)
        return len(files)

    def files_of(self, run_id: str) -> list[str]:
        """The row files that a run wrote: their names begin with its id."""
        return [path for path in self.row_files() if is_of(path, run_id)]

    def _existing_runs(self) -> list[dict[str, Any]]:
        """Records of the runs. Empty if the folder does not exist, or contains only remains of a run that
        wrote nothing.

        Rows may have no record: a worker may outlive a job that had written nothing. Then the settings in
        their footers are returned instead. Raises UsageError if the folder contains anything other than a
        table.
        """
        with self.translate_errors():
            self.files.invalidate_cache()
            if not self.files.exists(self.path):
                return []
            if not self.files.isdir(self.path):
                raise UsageError(f"{self.uri}: is a file: choose a folder for the table")
            names = [path.rsplit("/", 1)[1] for path in self.files.ls(self.path, detail=False)]
            runs = self.runs()
            if runs:
                self._check_statuses(names)
                return runs
            foreign = next((name for name in names if not _belongs_to_table(name)), None)
            rows = {path.rsplit("/", 1)[1].rsplit("-", 3)[0]: path for path in self.row_files()}
            settings = [self._footer(path) for path in rows.values()]
            if foreign is not None or not all(settings):
                raise UsageError(
                    f"{self.uri}: contains files that are not a faceq table"
                    f"{f' ({foreign})' if foreign else ''}: choose an empty folder"
                )
            return settings

    def _footer(self, path: str) -> dict[str, Any]:
        """The settings in the footer of one of `row_files`; empty if faceq did not write the file."""
        with self._opened(path) as file:
            return record_of(file.schema_arrow)

    def is_dir(self) -> bool:
        """Whether the table is an existing folder, or an S3 prefix with objects. Raises StorageError if the
        storage fails."""
        with self.translate_errors():
            self.files.invalidate_cache()
            return bool(self.files.isdir(self.path))

    def empty(self, but_for: Collection[str] = ()) -> bool:
        """Whether there is nothing here except empty folders of a table, unfinished files, and the files in
        `but_for`. Raises StorageError if the place cannot be read."""
        with self.translate_errors():
            if not self.is_dir():
                return not self.files.exists(self.path)
            subfolders = self.files.ls(self.path, detail=False)
            return all(_belongs_to_table(path.rsplit("/", 1)[1]) for path in subfolders) and all(
                path in but_for or is_temporary(path.rsplit("/", 1)[1])
                for folder in subfolders
                for path in self.files.ls(folder, detail=False)
            )

    def shard_files(self) -> list[str]:
        """The files of `faceq.table.finished_shards`."""
        with self.translate_errors():
            return folders.inside(self.files, self.path, "_faceq/shards-*.arrow")

    def row_files(self) -> list[str]:
        """Paths of the Parquet files with rows, in the form of the file system.

        Raises:
            StorageError: the place cannot be read, or contains rows with an unknown status.
        """
        with self.translate_errors():
            found = folders.inside(self.files, self.path, "status=*/*.parquet")
        self._check_statuses(path.rsplit("/", 2)[1] for path in found)
        return found

    def _check_statuses(self, names: Iterable[str]) -> None:
        """Raise StorageError if one of the folders has an unknown status."""
        for name in names:
            if name.startswith("status=") and not _belongs_to_table(name):
                raise StorageError(
                    f"{self.uri}: {name} is not a folder of a faceq table (those are "
                    f"{', '.join(f'status={status}' for status in STATUSES)}): move it to another place"
                )

    def rows(self, columns: Sequence[str]) -> pa.Table:
        """Columns of the whole table; empty if no row was written yet. Raises UsageError if there is no
        table."""
        self.record()
        return pa.concat_tables([_fields(columns).empty_table(), *self._parts(self.row_files(), columns)])

    def frame_ids(self, files: list[str] | None = None) -> np.ndarray:
        """Ids (int64, sorted) of the frames that have a row in the table, or in the given `row_files`."""
        parts = self._parts(self.row_files() if files is None else files, ["frame_id"])
        ids = np.concatenate([np.empty(0, np.int64), *(part["frame_id"].to_numpy() for part in parts)])
        ids.sort()
        return ids

    def frames_of(self, files: list[str], sources: Collection[str]) -> tuple[np.ndarray, "Tallies"]:
        """Ids (int64, sorted) of the frames that have a row in the given `row_files`; and, for the given
        sources, the number of frames and the sum of their ids."""
        ids, tallies = [np.empty(0, np.int64)], dict.fromkeys(sources, (0, 0))
        for part in self._parts(files, ["frame_id", "source"] if sources else ["frame_id"]):
            ids.append(part["frame_id"].to_numpy())
            for source, count, total in _by_source(part) if sources else ():
                if source in tallies:
                    before, sum_before = tallies[source]
                    tallies[source] = before + count, wrap_int64(sum_before + total)
        found = np.concatenate(ids)
        found.sort()
        return found, tallies

    def passing(self, files: list[str], threshold: float, in_lists: bool) -> Iterator[pa.Table]:
        """frame_id and source of the `below_fiq` rows in the given `row_files` that pass a threshold; with
        `in_lists`, also of rows with such a face among several. A row may come twice."""
        # Compare in single precision, as `ScoreFiq` does: `serfiq` is stored in single precision.
        least = pa.scalar(np.float32(threshold))
        some = [path for path in files if status_of(path) == "below_fiq"]
        for part in self._parts(some, ["frame_id", "source", "serfiq"]):
            yield part.filter(pc.greater_equal(part["serfiq"], least)).select(["frame_id", "source"])
        for path in files if in_lists else ():
            if status_of(path) in WITH_FACES:
                yield self._passing_in_lists(path, least)

    def _passing_in_lists(self, path: str, least: pa.Scalar) -> pa.Table:
        names = [f"{FACES_COLUMN.name}.list.element.{name}" for name in ("status", "serfiq")]
        with self._opened(path) as file:
            part = file.read(["frame_id", "source", *names])
        if FACES_COLUMN.name not in part.column_names:  # of a run that scored the largest faces
            return part.slice(0, 0)
        lists = part[FACES_COLUMN.name].combine_chunks()
        faces = lists.flatten()
        status, serfiq = pc.struct_field(faces, "status"), pc.struct_field(faces, "serfiq")
        passes = pc.and_(pc.equal(status, "below_fiq"), pc.greater_equal(serfiq, least))
        rows = pc.list_parent_indices(lists).filter(passes).unique()
        return part.take(rows).select(["frame_id", "source"])

    def places_of(self, ids: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """The `row_files` that contain rows of the given frames (`ids`: int64, sorted), each with the ids of
        these frames."""
        files = self.row_files()
        for path, part in zip(files, self._parts(files, ["frame_id"]), strict=True):
            stored = part["frame_id"].to_numpy()
            found = stored[isin_sorted(stored, ids)]
            if len(found):
                yield path, found

    def count(self) -> int:
        """Number of rows in the table, from the footers of the files."""
        return sum(len(part) for part in self._parts(self.row_files(), ["status"]))

    def find_damage(self) -> None:
        """Read all rows. Raises StorageError, which names the file, if one is damaged."""
        for _ in self._parts(self.row_files(), EVERY_COLUMN.names):
            pass

    def column(self, path: str, name: str) -> pa.ChunkedArray:
        """One column of one of `row_files`."""
        return self._part(path, [name])[name]

    def videos_in(self, files: list[str]) -> set[str]:
        """The sources in the given `row_files` that are videos, not shards that contain videos."""
        videos: set[str] = set()
        for rows in self._parts(files, ["source", "member", "timestamp_s"]):
            is_video = pc.and_(pc.is_valid(rows["timestamp_s"]), pc.is_null(rows["member"]))
            videos.update(rows["source"].filter(is_video).unique().to_pylist())
        return videos

    def _parts(self, files: list[str], columns: Sequence[str]) -> Iterator[pa.Table]:
        """Columns of the given `row_files`, one table per file, in order. Several files are read in
        parallel."""
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            for first in range(0, len(files), FILES_AT_ONCE):
                some = files[first : first + FILES_AT_ONCE]
                yield from pool.map(lambda path: self._part(path, columns), some)

    def _part(self, path: str, columns: Sequence[str]) -> pa.Table:
        """Columns of one of `row_files`. A column is null if an older faceq that did not have it wrote the
        file."""
        fields = _fields(columns)
        with self._opened(path) as file:
            rows = file.metadata.num_rows
            stored = file.read([name for name in columns if name in file.schema_arrow.names])

            def values(field: pa.Field) -> pa.Array | pa.ChunkedArray:
                if field.name == "status":
                    return pa.repeat(status_of(path), rows)
                if field.name not in stored.column_names:
                    return pa.nulls(rows, field.type)
                return stored[field.name].cast(field.type)

            return pa.table([values(field) for field in fields], schema=fields)

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[ParquetFile]:
        """Open one of `row_files`. Raises StorageError if it cannot be read."""
        with self.translate_errors(), self.files.open(path, "rb", block_size=READ_AHEAD) as file:
            try:
                yield ParquetFile(file)
            except (OSError, pa.ArrowInvalid) as error:
                if is_storage_error(error):
                    raise
                if "lists to be of size" in str(error):
                    raise StorageError(
                        f"{self.uri}: an older faceq wrote {path}, whose landmarks pyarrow {pa.__version__} "
                        "cannot read: install pyarrow 26 or newer, or rewrite the table with `faceq compact`"
                    ) from None
                raise StorageError(
                    f"{self.uri}: {path} is damaged ({one_line(error)}): delete it and start the job again "
                    "to score its frames again"
                ) from None

    def keep_rows(self, path: str, keep: np.ndarray) -> None:
        """Keep only some rows of a file. The file is replaced atomically, or deleted if no row is left.

        Args:
            path: one of `row_files`.
            keep: (rows of the file,) bool.
        """
        if keep.all():
            return
        with self.translate_errors():
            if not keep.any():
                self.files.rm_file(path)
                return
            with self._opened(path) as file:
                rows = _with_current_types(file.read().filter(pa.array(keep)))
            buffer = pa.BufferOutputStream()  # in memory first: a failure must not damage the old file
            pq.write_table(rows, buffer, compression=COMPRESSION)
            with self.files.open(path, "wb") as file:
                file.write(buffer.getvalue().to_pybytes())

    def counts_and_quantiles(
        self, run_id: str | None = None
    ) -> tuple[dict[str, int], dict[str, list[float]]]:
        """The number of rows of a run, or of all runs, by status; and the QUANTILES of both scores, over the
        faces that have them. They are computed from histograms, because the rows may not fit into memory, and
        are accurate to a ten-thousandth of the range of the score."""
        counts = Counter(dict.fromkeys(STATUSES, 0))
        histograms = {name: np.zeros(QUANTILE_BINS, np.int64) for name in SCORE_RANGES}
        files = self.row_files() if run_id is None else self.files_of(run_id)
        for path, part in zip(files, self._parts(files, list(SCORE_RANGES)), strict=True):
            counts[status_of(path)] += len(part)
            for name, most in SCORE_RANGES.items():
                values = part[name].drop_null().to_numpy()
                histograms[name] += np.histogram(values, QUANTILE_BINS, (0, most))[0]
        quantiles = {
            name: [_quantile(histogram, share) * SCORE_RANGES[name] for share in QUANTILES]
            for name, histogram in histograms.items()
            if histogram.any()
        }
        return dict(counts), quantiles


def _belongs_to_table(name: str) -> bool:
    """Whether a file or folder directly in the folder of a table belongs to the table, by its name."""
    status = name.removeprefix("status=")
    return name == "_faceq" or is_temporary(name) or (status != name and status in STATUSES)


Tallies = dict[str, tuple[int, int]]
"""For each source: the number of frames, and the sum of their ids, wrapped to int64."""


def _by_source(rows: pa.Table) -> Iterator[tuple[str, int, int]]:
    """The sources of some rows, each with its number of rows and the sum of their ids."""
    sources = rows["source"].combine_chunks().dictionary_encode()
    indices, ids = sources.indices.to_numpy(), rows["frame_id"].to_numpy()
    sums = np.zeros(len(sources.dictionary), np.int64)
    np.add.at(sums, indices, ids)  # wraps like `wrap_int64`
    counts = np.bincount(indices, minlength=len(sums))
    yield from zip(sources.dictionary.to_pylist(), counts.tolist(), sums.tolist(), strict=True)


def is_of(path: str, run_id: str) -> bool:
    """Whether a run wrote this file, which is one of `Table.row_files`."""
    return path.rsplit("/", 1)[1].startswith(f"{run_id}-")


def status_of(path: str) -> str:
    """The status of the rows in one of `Table.row_files`, from the name of its folder."""
    return path.rsplit("/", 2)[1].removeprefix("status=")


def _fields(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([EVERY_COLUMN.field(name) for name in columns])


def _with_current_types(rows: pa.Table) -> pa.Table:
    """Rows of a file, cast to the current types of the columns: an older faceq may have written the file."""
    known = set(EVERY_COLUMN.names)
    fields = [EVERY_COLUMN.field(field.name) if field.name in known else field for field in rows.schema]
    return rows.cast(pa.schema(fields, rows.schema.metadata))


def _path_in_ray(path: str) -> str:
    """The path to which `write_parquet` writes for a given path: Ray parses it as a URL and joins it
    again."""
    url = urlparse(path, allow_fragments=False)
    params, query = url.params and f";{url.params}", url.query and f"?{url.query}"
    return f"{url.netloc}{url.path}{params}{query}"


def _quantile(histogram: np.ndarray, share: float) -> float:
    """The value below which a given share of a histogram (N,) over 0...1 lies."""
    cumulative = np.cumsum(histogram)
    return float(np.searchsorted(cumulative, share * cumulative[-1]) + 0.5) / len(histogram)
