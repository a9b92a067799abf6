"""Measure what parts of large files cost and gain: time until the first rows, read tasks, rate, memory.

    python -m jobs.benchmarks.measure_parts tar 50
    python -m jobs.benchmarks.measure_parts video 10 --clip clip.mp4 --every 25

Writes a tar of that many GiB, or a video of that many hours, and runs the job with stand-in stages twice:
with one read task, and in parts. A run ends `--stop` seconds after its first frames are finished. The
images of the tar are holes, so that reading them needs no disk; a stand-in does not decode them. (Some file
systems take minutes to delete such a file.)
"""

import _thread
import argparse
import contextlib
import functools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import rich.console
import rich.table

from faceq import config
from faceq.job import cluster, pipeline, progress, splitting
from faceq.sources import parts
from jobs.benchmarks import large_files, stand_ins
from jobs.benchmarks.own_process import in_own_process


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["tar", "video"])
    parser.add_argument("size", type=float, help="GiB of the tar, hours of the video")
    parser.add_argument("--clip", type=Path, help="a short video, which is repeated")
    parser.add_argument("--file", type=Path, help="an existing tar or video, which is measured instead")
    parser.add_argument("--every", type=int, default=1, help="take only every N-th frame of the video")
    parser.add_argument("--stop", type=float, default=60, help="seconds after the first frames")
    options = parser.parse_args()
    table = rich.table.Table(box=None, pad_edge=False)
    for title in ("read as", "read tasks", "index, s", "first rows, s", "frames/s", "driver, MB"):
        table.add_column(title, justify="right")
    with tempfile.TemporaryDirectory(prefix="faceq-parts-") as folder:
        path = options.file or _write(Path(folder), options)
        print(f"{path.stat().st_size / 2**30:.2f} GiB", flush=True)
        for name in ("one file", "parts"):
            settings = config.build(
                {
                    "input": [str(path)],
                    "out": f"{folder}/{name}",
                    "fiq_threshold": 0.0,
                    "video": {"every": options.every},
                }
            )
            measure = functools.partial(_measured, whole=name == "one file", stop=options.stop)
            found = in_own_process(measure, settings)
            values = (found[key] for key in ("tasks", "index", "first", "rate", "driver"))
            table.add_row(name, *(f"{value:,.1f}" for value in values))
        rich.console.Console().print(table)
    return 0


def _write(folder: Path, options: argparse.Namespace) -> Path:
    if options.kind == "tar":
        large_files.write_tar(folder / "large.tar", options.size)
        return folder / "large.tar"
    large_files.write_video(folder / "large.mp4", options.size, options.clip)
    return folder / "large.mp4"


class _Watch:
    """Notes when the first and the last frames were finished, and ends the job after a while."""

    every_s = 0.5

    def __init__(self, stop: float):
        self._stop = stop
        self.first = self.last = (0.0, 0)

    def show(self, progress: progress.Progress) -> None:
        now = time.monotonic()
        if progress.finished and not self.first[1]:
            self.first = (now, progress.finished)
        self.last = (now, progress.finished)
        if self.first[1] and now > self.first[0] + self._stop:
            self._stop = float("inf")
            _thread.interrupt_main()

    def end(self, last: progress.Progress | None) -> None:
        pass

    @property
    def rate(self) -> float:
        (begun, before), (now, finished) = self.first, self.last
        return (finished - before) / max(1e-9, now - begun)


def _measured(settings: config.Config, whole: bool, stop: float) -> dict[str, Any]:
    """Number of read tasks; seconds for the index, and until the first frames are finished; frames/s after
    that; memory of the driver in MB."""
    stand_ins.install()
    if whole:
        parts.PART_BYTES = dict.fromkeys(parts.PART_BYTES, 1 << 62)
    found: dict[str, Any] = {}

    def timed(*args: Any) -> Any:
        started = time.monotonic()
        shards = splitting.split_large(*args)
        found.update(index=time.monotonic() - started, tasks=len(shards))
        return shards

    pipeline.split_large = timed  # type: ignore[assignment]
    watch = _Watch(stop)
    with cluster.ray_for(settings) as chosen:
        started = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):
            pipeline.score(chosen, reporter=watch)
        found["driver"] = psutil.Process().memory_info().rss / 1e6
    return {**found, "first": watch.first[0] - started, "rate": watch.rate}


if __name__ == "__main__":
    sys.exit(main())
