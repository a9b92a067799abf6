"""How fast the job is: beside the bare loop over the same frames, and beside CAFI as it was published.

    python -m jobs.benchmarks.throughput [INPUT…] [--frames N] [--cafi-frames 6] [--config job.yaml]

Three measurements, one after the other, each in a process of its own:

- job: `faceq score`, on this machine or on the cluster that RAY_ADDRESS names; Ray Data's account of each
  stage follows the table, and the mean load of the cluster's GPUs, if there are any;
- bare loop: the stages of the job over the same frames (1,500 of them at most) in one process without Ray, on
  the devices that the job ran on, with as many threads as the process has cores;
- CAFI: for each face 100 passes of the whole recogniser, then the frame with all but the face blacked out,
  384x384, through DB-CNN with VGG-16, one picture at a time. The network's speed does not hang on its
  weights: they are drawn at random.

On a cluster the last two run on one machine of it, with a card if the job's models do. Without INPUT, on the
command line or in the configuration, the frames are 384x384 JPEGs of faces out of photos that installed
packages ship, each moved, turned over and lit a little differently; on a cluster INPUT and `out` must be
where all its machines reach them. All faces are scored to the end. Rates leave out the start; memory is the
sum over the process and those below it (on a cluster: the driver's alone), shared pages counted once.
"""

import argparse
import concurrent.futures
import contextlib
import functools
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import rich.console
import rich.table

from faceq import config
from faceq.errors import JobError, UsageError
from faceq.job import cluster, pipeline
from faceq.storage import filesystem
from faceq.table.runs import new_run_id
from jobs import demo
from jobs.benchmarks import loops
from jobs.benchmarks.gpu_load import GpuLoad

FRAMES = 1500


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("input", nargs="*", help="pictures, shards, folders (default: made of photos in installed packages)")
    add("--frames", type=int, metavar="N", help=f"of the input, the first N; made up: {FRAMES:,}")
    add("--cafi-frames", type=int, default=6, metavar="N", help="of these, for CAFI: it takes seconds each")
    add("--config", metavar="job.yaml", help="input, resources; the table goes beside its `out`, for a while")
    add("--json", metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    try:
        figures = figures_of(options)
    except (UsageError, JobError) as error:
        print(f"faceq: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    rich.console.Console().print(table_of(figures))
    for stage, seconds in figures["bare loop"]["cpu_ms"].items():
        print(f"bare loop, CPU time of {stage:<12} {seconds:7.2f} ms a frame")
    if figures["job"]["gpus"]:
        print(f"GPUs of the cluster, mean load: {figures['job']['gpus']}")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0


def figures_of(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The figures of each measurement, by its name."""
    settings = config.load(options.config, {"input": options.input or None, "limit": options.frames})
    settings = settings.model_copy(update={"fiq_threshold": 0.0})
    made_up = not settings.input and not settings.manifest
    if os.environ.get("RAY_ADDRESS") and (made_up or settings.out is None):
        raise UsageError(
            "benchmark: on a cluster name INPUT, and `out` in the configuration, in places that all its "
            "machines reach"
        )
    with tempfile.TemporaryDirectory(prefix="faceq-benchmark-") as folder:
        if made_up:
            # No limit: it would keep the frames' order, which costs a job something.
            frames = write_frames(Path(folder) / "frames", options.frames or FRAMES)
            settings = settings.model_copy(update={"input": (frames,), "limit": None})
        # Beside the table that the configuration names, never in it.
        out = f"{settings.out or f'{folder}/table'}-benchmark-{new_run_id()}"
        try:
            whole = in_own_process(job, settings.model_copy(update={"out": out}))
        finally:
            with contextlib.suppress(FileNotFoundError):
                filesystem.filesystem(out, settings.s3).rm(filesystem.path_of(out), recursive=True)
        # With the devices that the job found.
        settings = whole.pop("settings")
        few = settings.model_copy(update={"limit": min(settings.limit or FRAMES, FRAMES)})
        fewer = settings.model_copy(update={"limit": options.cafi_frames})
        return {
            "bare loop": in_own_process(functools.partial(on_one_machine, loops.bare), few),
            "job": whole,
            "CAFI": in_own_process(functools.partial(on_one_machine, loops.cafi), fewer),
        }


def table_of(figures: dict[str, dict[str, Any]]) -> rich.table.Table:
    """One line for each measurement."""
    table = rich.table.Table(box=None, pad_edge=False)
    for title in ("", "frames", "start-up, s", "frames/s", "of the bare loop", "peak memory, MB"):
        table.add_column(title, justify="right" if title else "left")
    bare = figures["bare loop"]["rate"]
    for name, found in figures.items():
        table.add_row(
            name,
            f"{found['frames']:,}",
            f"{found['start_up']:.1f}",
            f"{found['rate']:.2f}",
            f"{found['rate'] / bare:.3f}",
            f"{found['peak_mb']:,.0f}",
        )
    return table


# --- the measurements ----------------------------------------------------------------------------


def on_one_machine(
    measure: Callable[[config.Config], dict[str, Any]], settings: config.Config
) -> dict[str, Any]:
    """A measurement on this machine; on a cluster, on one of its machines that has what its models run on."""
    if not os.environ.get("RAY_ADDRESS"):
        return measure(settings)
    ray.init()
    on_card = "cuda" in (settings.find_face.runs_on, settings.serfiq.runs_on, settings.dbcnn.runs_on)
    try:
        return ray.get(ray.remote(num_gpus=int(on_card))(measure).remote(settings))
    except ray.exceptions.RayTaskError as error:
        raise JobError(f"benchmark: {error}") from None


def job(settings: config.Config) -> dict[str, Any]:
    """The job as `faceq score` runs it."""
    started = time.perf_counter()
    with cluster.ray_for(settings) as chosen:
        ray_up = time.perf_counter() - started
        # Ray Data's account of each stage: wall and CPU time, rows, block sizes.
        ray.data.DataContext.get_current().enable_auto_log_stats = True
        with GpuLoad() as load:
            done = pipeline.score(chosen)
        gpus = load.mean()
    return {
        "frames": done.run.rows,
        "start_up": ray_up + done.first_seconds,
        "rate": done.frames_per_second,
        "gpus": gpus,
        "settings": chosen,
    }


# --- frames and processes ------------------------------------------------------------------------


def write_frames(folder: Path, count: int) -> str:
    """`count` frames of 384x384 in tar shards, made of the demo's eight faces; the folder's path."""
    faces = list(demo.source_faces().values())
    chance = np.random.default_rng(0)

    def members() -> Iterator[tuple[str, bytes]]:
        for index in range(count):
            face = faces[index % len(faces)]
            moved = np.roll(face, chance.integers(-24, 25, 2), (0, 1))
            turned = moved[:, ::-1] if chance.random() < 0.5 else moved
            lit = np.clip(turned * chance.uniform(0.7, 1.2), 0, 255).astype(np.uint8)
            yield f"{index:06}.jpg", demo._jpeg(lit)

    demo.write_shards(folder, members())
    return str(folder)


def in_own_process(
    measure: Callable[[config.Config], dict[str, Any]], settings: config.Config
) -> dict[str, Any]:
    """What a measurement found, and the peak memory of its process and all below it."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        pid = pool.submit(os.getpid).result()
        ended = threading.Event()
        peak: list[float] = [0.0]
        watcher = threading.Thread(target=_watch_memory, args=(pid, ended, peak))
        watcher.start()
        try:
            found = pool.submit(measure, settings).result()
        finally:
            ended.set()
            watcher.join()
    return {**found, "peak_mb": peak[0] / 1e6}


def _watch_memory(pid: int, ended: threading.Event, peak: list[float]) -> None:
    while not ended.wait(1):
        peak[0] = max(peak[0], _memory(pid))


def _memory(pid: int) -> float:
    """Bytes that a process and those below it hold; of pages that several share, each counts its part."""
    total = 0.0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return total
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue  # it has ended meanwhile
    return total


if __name__ == "__main__":
    sys.exit(main())
