"""A scoring job without Ray, for tests of the use of its table."""

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.parquet as pq

from faceq import __version__, config, sources
from faceq.job.resume import read_settings
from faceq.sources import listing
from faceq.sources.frame import in_batches
from faceq.stages import scorer
from faceq.stages.chosen_models import choose, comparison_record
from faceq.storage.settings import S3Settings
from faceq.table.runs import Run, new_run_id
from faceq.table.schema import schema, schema_with
from faceq.table.store import Table
from jobs import demo


def score_here(source: str, out: str, **values: Any) -> str:
    """Score an input in this process with the readers and stages of the job. Returns the path of the
    table."""
    settings = config.build({"input": [source], "out": out, **values})
    table = Table(out, settings.s3)
    now = datetime.now(UTC).isoformat()
    record = comparison_record(settings, choose(settings))
    run = Run(new_run_id(), __version__, [source], record, settings.model_dump(), now, now)
    most = settings.extra_bytes
    shards = listing.list_shards(settings.input, settings.s3, settings.manifest, extra_bytes=most)
    read = sources.read_shards(shards, **vars(read_settings(settings)))
    stages = _stages(settings.model_copy(update={"input": (), "out": None, "rows_per_file": None}))
    columns = schema(settings.embeddings, settings.all_faces).with_metadata(
        schema_with(run.footer()).metadata
    )
    batches = in_batches(read, scorer.AT_ONCE)
    rows = pa.concat_tables(scorer.run_stages(batch, stages, columns, run.run_id) for batch in batches)
    run.state, run.frames, run.rows, run.columns = "ended", len(rows), len(rows), columns.names
    table.save(run)
    write_rows(rows, table, run.run_id, settings.rows_per_file)
    return out


@functools.lru_cache(maxsize=2)
def _stages(settings: config.Config) -> list[Callable[[pa.Table], pa.Table]]:
    """Stages for these settings, shared by several tables."""
    return scorer.stages_of(settings)


def write_table(path: Path, rows: pa.Table, record: dict[str, Any] | None = None, files: int = 1) -> str:
    """Write a table of one finished run, whose record has the given keys, to at most so many files of each
    status. Returns its path."""
    table = Table(str(path), S3Settings())
    run = Run("1", "0", [], record or {}, {}, "", "now", state="ended", columns=rows.column_names)
    run.frames = run.rows = len(rows)
    table.save(run)
    write_rows(rows, table, run.run_id, -(-len(rows) // files) or None)
    return table.uri


def write_rows(rows: pa.Table, table: Table, run_id: str, rows_per_file: int | None = None) -> None:
    """Write rows to the files of a run: one file per status, or files with at most a given number of rows."""
    pds.write_dataset(
        rows,
        table.path,
        filesystem=table.arrow_files,
        format="parquet",
        partitioning=pds.partitioning(pa.schema([("status", pa.string())]), flavor="hive"),
        basename_template=f"{run_id}-{{i}}.parquet",
        existing_data_behavior="overwrite_or_ignore",  # the run record is there already
        max_rows_per_file=rows_per_file or 0,
        max_rows_per_group=rows_per_file or 1 << 20,
    )


def write_as_before(path: str) -> None:
    """Rewrite a file of rows in the old format, in which landmarks were a fixed-size list."""
    rows = pq.read_table(path, partitioning=None)
    index = rows.schema.get_field_index("landmarks")
    field = pa.field("landmarks", pa.list_(pa.float32(), 10))
    old = rows.set_column(index, field, pa.array(rows["landmarks"].to_pylist(), field.type))
    pq.write_table(old, path, compression="zstd")


def settings(shards: object, out: object, **values: Any) -> config.Config:
    """The settings of a job with one input and one table."""
    return config.build({"input": [str(shards)], "out": str(out), **values})


def many_small_tars(folder: Path, face: np.ndarray, frames: int) -> Path:
    """Write tars of 12 frames, so that a job has many small blocks. Every 17th frame is damaged."""
    image = demo._jpeg(demo._frame_around(face, [200, 60, 80, 110]))
    for part in range(frames // 12):
        numbers = range(part * 12, part * 12 + 12)
        members = ((f"{i:03}.jpg", image if i % 17 else image[:1000]) for i in numbers)
        demo.write_shards(folder / f"{part:02}", members)
    return folder


def small_scored_input(folder: Path, face: np.ndarray) -> tuple[str, str]:
    """A small input with an unreadable frame, and its table."""
    (folder / "in").mkdir()
    image = demo._jpeg(demo._frame_around(face, [200, 60, 80, 110]))
    for name, data in (("a.jpg", image), ("b.jpg", image), ("bad.jpg", image[:1000])):
        (folder / "in" / name).write_bytes(data)
    score_here(str(folder / "in"), str(folder / "table"))
    return str(folder / "in"), str(folder / "table")
