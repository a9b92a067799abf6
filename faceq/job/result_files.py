"""The Parquet files of a run, as Ray Data writes them."""

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import ray
from ray.data._internal.datasource.parquet_datasink import ParquetDatasink
from ray.data._internal.execution.interfaces import TaskContext
from ray.data.datasource import FilenameProvider

from faceq.table.store import COMPRESSION, Table


class RunFiles(FilenameProvider):
    """File names that begin with the run's id. Ray's part of the name is the same for a task that is retried,
    so that it overwrites its own files."""

    def __init__(self, run_id: str):
        self._run_id = run_id

    def get_filename_for_task(self, write_uuid: str, task_index: int) -> str:
        return f"{self._run_id}-{write_uuid}-{task_index:06d}-{{i}}.parquet"


class ResultFiles(ParquetDatasink):
    """Writes rows into the table as `Dataset.write_parquet` does, and reports to the census how many rows are
    written: these survive a kill."""

    def __init__(self, table: Table, schema: pa.Schema, run_id: str, census: Any):
        super().__init__(
            table.path,
            filesystem=table.arrow_files,
            partition_cols=["status"],
            filename_provider=RunFiles(run_id),
            arrow_parquet_args={"schema": schema, "compression": COMPRESSION},
        )
        self._census = census

    def write(self, blocks: Iterable[pa.Table], ctx: TaskContext) -> None:
        started = time.perf_counter()
        tables = list(blocks)
        super().write(tables, ctx)
        # A table without rows may have no columns.
        rows = Counter(status for table in tables if len(table) for status in table["status"].to_pylist())
        # Waits for the answer: when the job has ended, all rows are counted.
        ray.get(self._census.rows_written.remote(ctx.task_idx, rows, time.perf_counter() - started))
