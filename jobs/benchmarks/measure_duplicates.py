"""Measure how long `faceq duplicates` takes, and how much memory, on a table of made-up rows.

    python -m jobs.benchmarks.measure_duplicates 10_000_000 [--by hash:2] [--group]

The rows are frames of videos of 250 frames. The hash of a frame is that of its video with up to six random
bits flipped. A tenth of the videos is still: all their frames have one hash. The command runs in a process
of its own; the time to write the table does not count.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from faceq.storage.settings import S3Settings
from faceq.table.runs import Run
from faceq.table.schema import SCHEMA
from faceq.table.store import Table

FRAMES = 250  # of a video
FLIPPED = 6  # bits, at most
STILL = 0.1  # share of the videos
ROWS_PER_FILE = 1_000_000


def main() -> None:
    """Print the times and the memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=int, metavar="N", help="number of rows")
    parser.add_argument("--by", default="hash:2", help="as of faceq duplicates (default: hash:2)")
    parser.add_argument("--group", action="store_true", help="as of faceq duplicates")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faceq-duplicates-") as folder:
        write_table(f"{folder}/table", options.rows)
        command = [sys.executable, "-m", "faceq", "duplicates", f"{folder}/table", "--by", options.by]
        command += ["--out", f"{folder}/found.parquet", *(["--group"] if options.group else [])]
        started = time.monotonic()
        subprocess.run(command, check=True)
        seconds = time.monotonic() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"{options.rows:,} rows, {pq.ParquetFile(f'{folder}/found.parquet').metadata.num_rows:,} rows "
            "found"
        )
        print(f"{seconds:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of CPU time, ", end="")
        print(f"at most {used.ru_maxrss * 1024 / 1e9:.2f} GB of memory")


def write_table(uri: str, count: int) -> None:
    """Write a table of `count` made-up rows with hashes, a million rows in each file."""
    table = Table(uri, S3Settings())
    record = {"preset": "embedded", "models": {}}
    table.save(Run("1", "0", [], record, {}, "", state="ended", columns=SCHEMA.names))
    generator = np.random.default_rng(0)
    columns = pa.schema([field for field in SCHEMA if field.name != "status"])
    table.files.makedirs(f"{table.path}/status=scored", exist_ok=True)
    for start in range(0, count, ROWS_PER_FILE):
        rows = min(ROWS_PER_FILE, count - start)
        frame = np.arange(start, start + rows)
        values = {
            "frame_id": generator.integers(-(2**63), 2**63, rows),
            "source": [
                f"s3://bucket/videos/{number // 1000:06}/{number:09}.mp4" for number in frame // FRAMES
            ],
            "frame_index": frame % FRAMES,
            "timestamp_s": frame % FRAMES / 25,
            "serfiq": generator.random(rows),
            "dbcnn": 100 * generator.random(rows),
            "dhash": _hashes(generator, frame // FRAMES).view(np.int64),
            "run_id": ["1"] * rows,
        }
        arrays = [
            pa.array(values[field.name]).cast(field.type)
            if field.name in values
            else pa.nulls(rows, field.type)
            for field in columns
        ]
        path = f"{table.path}/status=scored/1-{start}.parquet"
        pq.write_table(pa.Table.from_arrays(arrays, schema=columns), path, compression="zstd")


def _hashes(generator: np.random.Generator, video: np.ndarray) -> np.ndarray:
    """(N,) uint64."""
    first = int(video[0])
    of_videos = np.random.default_rng(first).integers(0, 2**64, int(video[-1]) - first + 1, np.uint64)
    found = of_videos[video - first]
    flips = np.where(video % round(1 / STILL) == 0, 0, generator.integers(0, FLIPPED + 1, len(video)))
    for flip in range(FLIPPED):
        bit = np.uint64(1) << generator.integers(0, 64, len(video)).astype(np.uint64)
        found = np.where(flips > flip, found ^ bit, found)
    return found


if __name__ == "__main__":
    main()
