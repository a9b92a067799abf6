"""Measure the speed of the job compared with a bare loop over the same frames and with CAFI as published.

    python -m jobs.benchmarks.throughput [INPUT…] [--frames N] [--cafi-frames 6] [--config job.yaml]

Makes three measurements, one after the other, each in its own process:

- job: `faceq score` on this machine, or on the cluster that RAY_ADDRESS names. After the table, it prints the
  mean load of the cluster's GPUs, if there are any. Ray Data logs its statistics of each stage;
- bare loop: the stages of the job over the same frames (at most 1,500) in one process without Ray, on the
  same devices, with as many threads as the process has cores;
- CAFI: for each face, 100 passes of the whole recogniser, then DB-CNN with VGG-16 on the 384x384 frame with
  everything but the face blacked out, one image at a time. The weights of this network are random, which does
  not change its speed.

On a cluster, the last two run on one node, with a GPU if the job's models use one. If neither the command
line nor the settings file names an input, the frames are 384x384 JPEGs of faces from photos in installed
packages, each shifted, mirrored and lit slightly differently. On a cluster, all nodes must be able to reach
INPUT and `out`. All faces get both scores. Rates exclude the start-up. Memory is the sum over the process and
its children (on a cluster: the driver's only); shared pages count once.
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
    add("input", nargs="*", help="images, shards, folders (default: made from photos in installed packages)")
    add("--frames", type=int, metavar="N", help=f"only the first N frames (without INPUT: {FRAMES:,})")
    add("--cafi-frames", type=int, default=6, metavar="N", help="frames for CAFI, seconds each (default: 6)")
    add("--config", metavar="job.yaml", help="settings file; a temporary table goes next to its `out`")
    add("--json", metavar="FILE", help="also write the figures to this file")
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
    """The figures of each measurement, by name."""
    settings = config.load(options.config, {"input": options.input or None, "limit": options.frames})
    settings = settings.model_copy(update={"fiq_threshold": 0.0})
    made_up = not settings.input and not settings.manifest
    if os.environ.get("RAY_ADDRESS") and (made_up or settings.out is None):
        raise UsageError(
            "benchmark: on a cluster, give INPUT, and `out` in the settings file, in places that all nodes "
            "can reach"
        )
    with tempfile.TemporaryDirectory(prefix="faceq-benchmark-") as folder:
        if made_up:
            # No limit: with a limit, the job keeps the order of the frames, which costs time.
            frames = write_frames(Path(folder) / "frames", options.frames or FRAMES)
            settings = settings.model_copy(update={"input": (frames,), "limit": None})
        # Next to the table that the settings name, never inside it.
        out = f"{settings.out or f'{folder}/table'}-benchmark-{new_run_id()}"
        try:
            whole = in_own_process(job, settings.model_copy(update={"out": out}))
        finally:
            with contextlib.suppress(FileNotFoundError):
                filesystem.filesystem(out, settings.s3).rm(filesystem.path_of(out), recursive=True)
        # The other measurements use the devices that the job found.
        settings = whole.pop("settings")
        few = settings.model_copy(update={"limit": min(settings.limit or FRAMES, FRAMES)})
        fewer = settings.model_copy(update={"limit": options.cafi_frames})
        return {
            "bare loop": in_own_process(functools.partial(on_one_machine, loops.bare), few),
            "job": whole,
            "CAFI": in_own_process(functools.partial(on_one_machine, loops.cafi), fewer),
        }


def table_of(figures: dict[str, dict[str, Any]]) -> rich.table.Table:
    """One row per measurement."""
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
    """Run a measurement on this machine, or, on a cluster, on a node that has the devices of its models."""
    if not os.environ.get("RAY_ADDRESS"):
        return measure(settings)
    ray.init()
    on_card = "cuda" in (settings.find_face.runs_on, settings.serfiq.runs_on, settings.dbcnn.runs_on)
    try:
        return ray.get(ray.remote(num_gpus=int(on_card))(measure).remote(settings))
    except ray.exceptions.RayTaskError as error:
        raise JobError(f"benchmark: {error}") from None


def job(settings: config.Config) -> dict[str, Any]:
    """Run the job as `faceq score` does."""
    started = time.perf_counter()
    with cluster.ray_for(settings) as chosen:
        ray_up = time.perf_counter() - started
        # Ray Data's statistics of each stage: wall and CPU time, rows, block sizes.
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
    """Write `count` 384x384 frames of the demo's eight faces as tar shards. Returns their folder."""
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
    """Run a measurement in its own process. Adds the peak memory of this process and its children."""
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
    """Bytes held by a process and its children. Processes that share a page count a part of it each."""
    total = 0.0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return total
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue  # the process has ended meanwhile
    return total


if __name__ == "__main__":
    sys.exit(main())
