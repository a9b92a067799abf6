"""The result table as a folder of files: which ones it has, what may be written there, and their rows."""

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
from faceq.storage.filesystem import (
    READ_AHEAD,
    is_storage_error,
    is_temporary,
)
from faceq.storage.parquet import ParquetFile
from faceq.table import comparable
from faceq.table.runs import FILES_AT_ONCE, Run, RunRecords
from faceq.table.schema import STATUSES, isin_sorted, record_of, schema, wrap_int64

COMPRESSION = "zstd"
ROWS_PER_GROUP = 100_000
"""Rows of a Parquet file that a reader skips or reads as a whole, where a file has as many."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SCORE_RANGES = {"serfiq": 1.0, "dbcnn": 100.0}
QUANTILE_BINS = 10_000


class Table(RunRecords):
    """A result table: a folder or an `s3://` prefix."""

    def check(self, record: dict[str, Any] | None) -> None:
        """That a run with these settings may write here; with None: that here is a table, or nothing.

        Raises:
            UsageError: rows made with other settings are there (with what differs), or other files, or
                it has a name that Ray would change.
            StorageError: the place cannot be read, or a record in it is damaged.
        """
        written_to = _as_ray_takes(self.path)
        if written_to != self.path:
            raise UsageError(
                f"{self.uri!r}: rows would go to {written_to!r}: name a folder for --out without line "
                "breaks, tabs, and ? or ; at its end"
            )
        for run in self._runs_or_nothing():
            if self._ties(run) and record is not None:
                comparable.check(self.uri, run, record)

    def _ties(self, run: dict[str, Any]) -> bool:
        """Whether there may be rows that were made with this run's settings."""
        stopped = run.get("state") == "ended" and run.get("finished", "") is None
        if stopped and not self.files_of(run["run_id"]):
            return False
        return run.get("state") != "claiming"

    def remove_others(self, mine: Run) -> int:
        """Delete all rows and the records of other runs; returns how many files that were.

        Other files that lie in the folder stay.
        """
        rows = self.row_files()
        # A job that claims will see this one and take its record back itself.
        others = [run["run_id"] for run in self.runs() if run.get("state") != "claiming"]
        # Records last: rows without them would be taken for this run's settings by the next one.
        files = (
            rows + self.shard_files() + [self._run_file(run_id) for run_id in others if run_id != mine.run_id]
        )
        with self.translate_errors():
            for path in files:
                self.files.rm_file(path)
        return len(files)

    def files_of(self, run_id: str) -> list[str]:
        """Files with rows that a run wrote: its id begins their names."""
        return [path for path in self.row_files() if is_of(path, run_id)]

    def _runs_or_nothing(self) -> list[dict[str, Any]]:
        """Records of the runs; none where nothing is, or only what is left of a run that wrote nothing.

        Where rows have lost their records, as when a worker outlived a job that had written nothing, the
        settings in their footers stand for these. UsageError where something else than a table is.
        """
        with self.translate_errors():
            self.files.invalidate_cache()
            if not self.files.exists(self.path):
                return []
            if not self.files.isdir(self.path):
                raise UsageError(f"{self.uri}: is a file: name a folder for the table")
            there = [path.rsplit("/", 1)[1] for path in self.files.ls(self.path, detail=False)]
            runs = self.runs()
            if runs:
                self._check_statuses(there)
                return runs
            foreign = next((name for name in there if not _is_of_a_table(name)), None)
            rows = {path.rsplit("/", 1)[1].rsplit("-", 3)[0]: path for path in self.row_files()}
            settings = [self._footer(path) for path in rows.values()]
            if foreign is not None or not all(settings):
                raise UsageError(
                    f"{self.uri}: holds files that are not a faceq table"
                    f"{f' ({foreign})' if foreign else ''}: name an empty folder"
                )
            return settings

    def _footer(self, path: str) -> dict[str, Any]:
        """The settings that one of `row_files` was made with; empty where faceq did not write it."""
        with self._opened(path) as file:
            return record_of(file.schema_arrow)

    def is_dir(self) -> bool:
        """Whether a folder is here, or objects below an S3 prefix; StorageError if the place fails."""
        with self.translate_errors():
            self.files.invalidate_cache()
            return bool(self.files.isdir(self.path))

    def empty(self, but_for: Collection[str] = ()) -> bool:
        """Whether nothing is here but empty folders of a table, files that were not finished, and some that
        are named; StorageError if the place cannot be read."""
        with self.translate_errors():
            if not self.is_dir():
                return not self.files.exists(self.path)
            folders_there = self.files.ls(self.path, detail=False)
            return all(_is_of_a_table(path.rsplit("/", 1)[1]) for path in folders_there) and all(
                path in but_for or is_temporary(path.rsplit("/", 1)[1])
                for folder in folders_there
                for path in self.files.ls(folder, detail=False)
            )

    def shard_files(self) -> list[str]:
        """The files of `faceq.table.finished_shards`."""
        with self.translate_errors():
            return folders.inside(self.files, self.path, "_faceq/shards-*.arrow")

    def row_files(self) -> list[str]:
        """The Parquet files that hold rows, as the file system calls them.

        Raises:
            StorageError: the place cannot be read, or holds rows of a status that there is not.
        """
        with self.translate_errors():
            self.files.invalidate_cache()
            found = folders.inside(self.files, self.path, "status=*/*.parquet")
        self._check_statuses(path.rsplit("/", 2)[1] for path in found)
        return found

    def _check_statuses(self, folders_here: Iterable[str]) -> None:
        """StorageError where one of the table's folders is of a status that there is not."""
        for name in folders_here:
            if name.startswith("status=") and not _is_of_a_table(name):
                raise StorageError(
                    f"{self.uri}: {name} is no folder of a faceq table (there are "
                    f"{', '.join(f'status={status}' for status in STATUSES)}): move it to another place"
                )

    def rows(self, columns: Sequence[str]) -> pa.Table:
        """Columns of the whole table. A table without rows yet has none; UsageError where no table is."""
        self.record()
        return pa.concat_tables([_fields(columns).empty_table(), *self._parts(self.row_files(), columns)])

    def frame_ids(self, files: list[str] | None = None) -> np.ndarray:
        """Ids (int64, sorted) of all frames that have a row, or one in some of `row_files`; none after a run
        has only just begun."""
        parts = self._parts(self.row_files() if files is None else files, ["frame_id"])
        ids = np.concatenate([np.empty(0, np.int64), *(part["frame_id"].to_numpy() for part in parts)])
        ids.sort()
        return ids

    def frames_of(self, files: list[str], sources: Collection[str]) -> tuple[np.ndarray, "Tallies"]:
        """Ids (int64, sorted) of the frames that have a row in some of `row_files`, and of those of some
        sources how many there are and the sum of their ids."""
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

    def passing(self, files: list[str], threshold: float) -> Iterator[pa.Table]:
        """frame_id and source of the `below_fiq` rows in some of `row_files` that pass a threshold."""
        some = [path for path in files if status_of(path) == "below_fiq"]
        for part in self._parts(some, ["frame_id", "source", "serfiq"]):
            # As stored, and as `ScoreFiq` compares: both in single precision.
            passes = pc.greater_equal(part["serfiq"], pa.scalar(np.float32(threshold)))
            yield part.filter(passes).select(["frame_id", "source"])

    def places_of(self, ids: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Those of `row_files` that have rows of some frames (ids: int64, sorted), with these frames' ids."""
        files = self.row_files()
        for path, part in zip(files, self._parts(files, ["frame_id"]), strict=True):
            there = part["frame_id"].to_numpy()
            found = there[isin_sorted(there, ids)]
            if len(found):
                yield path, found

    def count(self) -> int:
        """Rows of the whole table, by the files' footers."""
        return sum(len(part) for part in self._parts(self.row_files(), ["status"]))

    def find_damage(self) -> None:
        """Read everything; StorageError where that fails, with the file."""
        for _ in self._parts(self.row_files(), schema(embeddings=True).names):
            pass

    def column(self, path: str, name: str) -> pa.ChunkedArray:
        """One column of one of `row_files`."""
        return self._part(path, [name])[name]

    def videos_in(self, files: list[str]) -> set[str]:
        """Sources in some of `row_files` that are videos, and no shards that hold some."""
        videos: set[str] = set()
        for rows in self._parts(files, ["source", "member", "timestamp_s"]):
            is_video = pc.and_(pc.is_valid(rows["timestamp_s"]), pc.is_null(rows["member"]))
            videos.update(rows["source"].filter(is_video).unique().to_pylist())
        return videos

    def _parts(self, files: list[str], columns: Sequence[str]) -> Iterator[pa.Table]:
        """Columns of some of `row_files`, file after file, a few of them read at once."""
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            for first in range(0, len(files), FILES_AT_ONCE):
                some = files[first : first + FILES_AT_ONCE]
                yield from pool.map(lambda path: self._part(path, columns), some)

    def _part(self, path: str, columns: Sequence[str]) -> pa.Table:
        """Columns of one of `row_files`; null where the faceq that wrote it did not know them yet."""
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
        """One of `row_files`; StorageError where it cannot be read."""
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
                    f"{self.uri}: {path} is damaged ({one_line(error)}): delete it and start "
                    "the job again, which scores its frames anew"
                ) from None

    def keep_rows(self, path: str, keep: np.ndarray) -> None:
        """Leave only some rows in a file: it is replaced as a whole, or deleted where none are left.

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
                rows = _as_now(file.read().filter(pa.array(keep)))
            whole = pa.BufferOutputStream()  # in memory first: no failure on the way touches the old file
            pq.write_table(rows, whole, compression=COMPRESSION)
            with self.files.open(path, "wb") as file:
                file.write(whole.getvalue().to_pybytes())

    def counts_and_quantiles(
        self, run_id: str | None = None
    ) -> tuple[dict[str, int], dict[str, list[float]]]:
        """Rows of a run, or of all runs, by status, and the QUANTILES of both scores over the faces that have
        them, to a ten-thousandth of their range: out of histograms, since rows may not fit into memory."""
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


def _is_of_a_table(name: str) -> bool:
    """Whether something that lies right in a table's folder belongs to it."""
    status = name.removeprefix("status=")
    return name == "_faceq" or is_temporary(name) or (status != name and status in STATUSES)


Tallies = dict[str, tuple[int, int]]
"""Frames of a source, and the sum of their ids as int64 holds it."""


def _by_source(rows: pa.Table) -> Iterator[tuple[str, int, int]]:
    """Sources of some rows, each with its number of rows and the sum of their ids."""
    sources = rows["source"].combine_chunks().dictionary_encode()
    place, ids = sources.indices.to_numpy(), rows["frame_id"].to_numpy()
    sums = np.zeros(len(sources.dictionary), np.int64)
    np.add.at(sums, place, ids)  # wraps, as `wrap_int64` does
    counts = np.bincount(place, minlength=len(sums))
    yield from zip(sources.dictionary.to_pylist(), counts.tolist(), sums.tolist(), strict=True)


def is_of(path: str, run_id: str) -> bool:
    """Whether that run wrote one of `Table.row_files`."""
    return path.rsplit("/", 1)[1].startswith(f"{run_id}-")


def status_of(path: str) -> str:
    """The status of the rows in one of `Table.row_files`: its folder says it."""
    return path.rsplit("/", 2)[1].removeprefix("status=")


def _fields(columns: Sequence[str]) -> pa.Schema:
    known = schema(embeddings=True)
    return pa.schema([known.field(name) for name in columns])


def _as_now(rows: pa.Table) -> pa.Table:
    """Rows of a file in the types that columns have now: an older faceq may have written it."""
    known = schema(embeddings=True)
    fields = [known.field(field.name) if field.name in known.names else field for field in rows.schema]
    return rows.cast(pa.schema(fields, rows.schema.metadata))


def _as_ray_takes(path: str) -> str:
    """Where `write_parquet` puts a path's files: Ray takes it apart as a URL, and together again."""
    url = urlparse(path, allow_fragments=False)
    params, query = url.params and f";{url.params}", url.query and f"?{url.query}"
    return f"{url.netloc}{url.path}{params}{query}"


def _quantile(histogram: np.ndarray, share: float) -> float:
    """Where that share of a histogram (N,) over 0...1 lies below."""
    below = np.cumsum(histogram)
    return float(np.searchsorted(below, share * below[-1]) + 0.5) / len(histogram)
