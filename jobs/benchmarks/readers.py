"""Read a result table or an exported Parquet file with another program.

    python jobs/benchmarks/readers.py pandas PATH

prints one JSON object per row, for `jobs.benchmarks.check_readers`. This module imports nothing from faceq:
it runs in environments in which only the reader is installed.
"""

import glob
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]


def read_pyarrow(path: str) -> list[Row]:
    import pyarrow.dataset as pds  # noqa: PLC0415 - only one of the readers is installed

    return pds.dataset(path, partitioning="hive").to_table().to_pylist()


def read_pandas(path: str) -> list[Row]:
    import pandas as pd  # noqa: PLC0415

    # By default, pandas converts integers with nulls to floats: `dhash` would lose its last bits.
    return pd.read_parquet(path, dtype_backend="numpy_nullable").to_dict("records")


def read_polars(path: str) -> list[Row]:
    import polars as pl  # noqa: PLC0415

    hive = os.path.isdir(path)
    return pl.read_parquet(_files(path), hive_partitioning=hive).to_dicts()


def read_duckdb(path: str) -> list[Row]:
    import duckdb  # noqa: PLC0415

    rows = duckdb.read_parquet(_files(path), hive_partitioning=os.path.isdir(path))
    return [dict(zip(rows.columns, row, strict=True)) for row in rows.fetchall()]


def read_fastparquet(path: str) -> list[Row]:
    import fastparquet  # noqa: PLC0415

    return fastparquet.ParquetFile(path).to_pandas().to_dict("records")


def read_datasets(path: str) -> list[Row]:
    import datasets  # noqa: PLC0415

    # datasets does not make a column from folder names, so each status becomes a split.
    files: dict[str, list[str]] = {}
    for file in _files(path):
        files.setdefault(_status(file), []).append(file)
    with tempfile.TemporaryDirectory() as cache:
        splits = datasets.load_dataset("parquet", data_files=files, cache_dir=cache)
        return [{"status": name, **row} for name in splits for row in splits[name]]


READERS: dict[str, Callable[[str], list[Row]]] = {
    "pyarrow": read_pyarrow,
    "pandas": read_pandas,
    "polars": read_polars,
    "duckdb": read_duckdb,
    "fastparquet": read_fastparquet,
    "datasets": read_datasets,
}


def plain(value: Any) -> Any:
    """A reader's value as JSON represents it: None for each reader's own kind of missing value."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    missing = type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value))
    return None if missing else value


def _files(path: str) -> list[str]:
    return sorted(glob.glob(f"{path}/status=*/*.parquet")) if os.path.isdir(path) else [path]


def _status(file: str) -> str:
    folder = os.path.basename(os.path.dirname(file))
    return folder.removeprefix("status=") if folder.startswith("status=") else "train"


if __name__ == "__main__":
    for row in READERS[sys.argv[1]](sys.argv[2]):
        print(json.dumps({name: plain(value) for name, value in row.items()}))
