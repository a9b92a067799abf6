"""Measure whether a frame costs the same in long and short jobs: rate, driver memory and object store.

    python -m jobs.benchmarks.measure_scale 500 2_000 8_000 [--config job.yaml]
    python -m jobs.benchmarks.measure_scale --stand-ins 10_000 100_000 1_000_000

Runs the job once per number of frames, each time in its own process, on the 384x384 frames of the benchmark.
With `--stand-ins`, the three model stages return made-up values. The rest is the job itself: reading, blocks,
batches, writing, counting. The frames are then bytes that are not an image.

Prints for each run: seconds, frames/s without start-up, the peak memory of the driver, the peak size of the
object store of all nodes, and the bytes spilled from it to disk.

To exclude the start-up, the rate uses only the additional frames and seconds compared with a run of BASE
frames. (A run's own summary excludes the time until its first frames are finished. Other frames are half
finished by then, which makes short runs look fast: 500 frames by a tenth.)
"""

import argparse
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil
import ray
import rich.console
import rich.table
from ray._private import internal_api

from faceq import config
from faceq.job import cluster, pipeline
from jobs import demo
from jobs.benchmarks import stand_ins, workloads
from jobs.benchmarks.own_process import in_own_process

SAMPLE_S = 1

BASE = 100
"""Frames of the run that measures the start-up: a few batches, so that every stage has started."""


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", type=int, nargs="+", metavar="N", help="number of frames of a run")
    parser.add_argument("--stand-ins", action="store_true", help="use made-up values instead of the models")
    parser.add_argument("--config", metavar="job.yaml", help="settings file with the resources of the job")
    options = parser.parse_args()
    table = rich.table.Table(box=None, pad_edge=False)
    for title in ("frames", "seconds", "frames/s", "of the first", "driver, MB", "store, MB", "spilled, MB"):
        table.add_column(title, justify="right")
    base = _run(BASE, options)
    first = None
    for count in options.frames:
        found = _run(count, options)
        rate = (found["frames"] - base["frames"]) / (found["seconds"] - base["seconds"])
        first = first or rate
        table.add_row(
            f"{found['frames']:,}",
            f"{found['seconds']:.1f}",
            f"{rate:,.2f}",
            f"{rate / first:.3f}",
            *(f"{found[name] / 1e6:,.0f}" for name in ("driver", "store", "spilled")),
        )
    print(f"Start-up run: {base['frames']} frames in {base['seconds']:.1f} s")
    rich.console.Console().print(table)
    return 0


def _run(count: int, options: argparse.Namespace) -> dict[str, Any]:
    """The measurements of a job with `count` frames."""
    with tempfile.TemporaryDirectory(prefix="faceq-scale-") as folder:
        frames = Path(folder) / "frames"
        write = _write_numbers if options.stand_ins else workloads.write_frames
        given = write(frames, count)
        settings = config.load(
            options.config, {"input": [given], "out": f"{folder}/table", "fiq_threshold": 0.0}
        )
        measure = _with_stand_ins if options.stand_ins else _measured
        return in_own_process(measure, settings)


def _measured(settings: config.Config) -> dict[str, Any]:
    with cluster.ray_for(settings) as chosen, _Memory() as memory:
        done = pipeline.score(chosen)
    return {"frames": done.run.rows, "seconds": done.seconds, **memory.most}


class _Memory:
    """Peak memory of this process, peak size of the object stores, and spilled data, in bytes."""

    def __enter__(self) -> "_Memory":
        self.most = {"driver": 0.0, "store": 0.0, "spilled": 0.0}
        self._process = psutil.Process()
        self._state = internal_api.get_state_from_address(ray.get_runtime_context().gcs_address)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            stores = internal_api.get_memory_info_reply(self._state).store_stats
            now = {
                "driver": self._process.memory_info().rss,
                "store": stores.object_store_bytes_used,
                "spilled": stores.spilled_bytes_total,
            }
            self.most = {name: max(self.most[name], value) for name, value in now.items()}


def _with_stand_ins(settings: config.Config) -> dict[str, Any]:
    stand_ins.install()
    return _measured(settings)


def _write_numbers(folder: Path, count: int) -> str:
    """Write tar shards of 1,000 files, as in large data sets. Each file holds a number. Returns the path."""
    numbers = ((f"{index:09}.jpg", str(index).encode()) for index in range(count))
    demo.write_shards(folder, numbers, each=1000)
    return str(folder)


if __name__ == "__main__":
    sys.exit(main())
