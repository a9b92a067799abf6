"""The measurements of the benchmark in their order, and its tables."""

import argparse
import contextlib
import functools
import math
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import rich.console
import rich.table
import torch

from faceq import config
from faceq.errors import JobError, UsageError
from faceq.job import cluster
from faceq.runtime import device
from faceq.stages.placement import on_gpus
from faceq.storage import filesystem
from faceq.table.runs import new_run_id
from jobs.benchmarks import cafi, job, limit, workloads
from jobs.benchmarks.own_process import in_own_process
from jobs.benchmarks.steps import FIND_FACE, READ, ROWS, STEPS
from jobs.benchmarks.workloads import WORKLOADS, Workload

LIMIT_FRAMES = 1500
"""Maximum number of frames of an INPUT for the limit."""

ROWS_OF_TIMES = {
    READ: "read",
    FIND_FACE: "find_face",
    **{step: f"  {step}" for step in STEPS},
    "other": "  other",
    "serfiq": "serfiq",
    "dbcnn": "dbcnn",
    ROWS: "result rows",
    "all": "sum",
}
"""The rows of the table of times: the step, and its title."""

NOTES = """
limit: one pinned single-threaded process per core, which reads frames, runs all stages and makes result
  rows, without Ray. The mean of two runs, before and after the job.
job: `faceq score`. start-up: from the start of the process to the first finished frames. frames/s: without
  start-up. Ray: the part of it in which the job waits for Ray to start.
CAFI: as published, one image at a time.
milliseconds: CPU time in the processes of the limit (stages on a GPU: wall time). read: of videos with
  decoding and with lossless encoding of the frames. other: scaling for the detector, poses, columns."""

Figures = dict[str, dict[str, Any]]
"""The figures of one workload, by measurement."""

Measure = Callable[[config.Config], dict[str, Any]]


def figures_of(options: argparse.Namespace) -> dict[str, Figures]:
    """The figures of each workload, by title."""
    settings = config.load(options.config, {"input": options.input or None})
    settings = settings.model_copy(update={"fiq_threshold": 0.0})
    given = bool(settings.input or settings.manifest)
    if os.environ.get("RAY_ADDRESS") and not (given and settings.out):
        raise UsageError(
            "benchmark: on a cluster, give INPUT, and `out` in the settings file, in places that all nodes "
            "can reach"
        )
    if given and options.workload:
        raise UsageError("benchmark: --workload makes its own frames: leave out INPUT, or --workload")
    if given:
        settings = settings.model_copy(update={"limit": options.frames or settings.limit})
        return {"INPUT": _of_input(settings, options.cafi_frames)}
    names = [options.workload] if options.workload else list(WORKLOADS)
    return {
        WORKLOADS[name].title: _of_workload(
            WORKLOADS[name], settings, options.frames, 0 if index else options.cafi_frames
        )
        for index, name in enumerate(names)
    }


def _of_input(settings: config.Config, cafi_frames: int) -> Figures:
    few = settings.model_copy(update={"limit": min(settings.limit or LIMIT_FRAMES, LIMIT_FRAMES)})
    with tempfile.TemporaryDirectory(prefix="faceq-benchmark-") as folder:
        settings = settings.model_copy(update={"out": settings.out or f"{folder}/table"})
        limits = [_on_one_machine(limit.measure, few)]
        whole = _job(settings)
        limits.append(_on_one_machine(limit.measure, few))
    return _figures(limits, whole, settings, cafi_frames)


def _of_workload(
    workload: Workload, settings: config.Config, frames: int | None, cafi_frames: int
) -> Figures:
    cores = device.usable_cpus()
    count = frames or cores * workload.frames
    with tempfile.TemporaryDirectory(prefix="faceq-benchmark-") as folder:

        def made(name: str, count: int) -> config.Config:
            changed = {
                "input": (workloads.write(workload, Path(folder) / name, count),),
                "out": settings.out or f"{folder}/table",
                "video": config.Video(),
                "limit": None,  # with a limit, the job keeps the order of the frames, which costs time
            }
            return settings.model_copy(update=changed)

        many, few = made("many", count), made("few", max(1, min(count // 3, cores * workload.base)))
        limits = [_on_one_machine(limit.measure, many)]
        whole = difference(_job(few), _job(many))
        limits.append(_on_one_machine(limit.measure, many))
        return _figures(limits, whole, many, cafi_frames)


def difference(short: dict[str, Any], long: dict[str, Any]) -> dict[str, Any]:
    """The figures of the longer of two jobs, but with the rate of its additional frames, and with the mean
    start-up of both jobs. The rate is NaN if the longer job took no more time."""
    frames, seconds = (long[name] - short[name] for name in ("frames", "seconds"))
    means = {name: (short[name] + long[name]) / 2 for name in ("start_up", "ray_s")}
    rate = frames / seconds if frames > 0 and seconds > 0 else math.nan
    return {**long, **means, "rate": rate, "few": short, "many": long}


def _figures(
    limits: list[dict[str, Any]], whole: dict[str, Any], settings: config.Config, cafi_frames: int
) -> Figures:
    """The figures of all measurements: of the limit, the mean of both and both."""
    numbers = ("start_up", "rate", "cpu_rate", "gpu_rate", "peak_mb")
    means: dict[str, Any] = {
        name: _mean(each[name] for each in limits) for name in numbers if name in limits[0]
    }
    for name in ("cpu_ms", "gpu_ms"):
        if name in limits[0]:
            means[name] = {step: _mean(each[name][step] for each in limits) for step in limits[0][name]}
    figures = {"limit": {**limits[0], **means, "runs": limits}, "job": whole}
    if cafi_frames:
        few = settings.model_copy(update={"limit": cafi_frames})
        figures["CAFI"] = _on_one_machine(cafi.measure, few)
    return figures


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


# --- processes -----------------------------------------------------------------------------------


def _job(settings: config.Config) -> dict[str, Any]:
    """Run the job into a table that is deleted afterwards, next to the one that the settings name."""
    out = f"{settings.out}-benchmark-{new_run_id()}"
    try:
        return in_own_process(job.run, settings.model_copy(update={"out": out}))
    finally:
        with contextlib.suppress(FileNotFoundError):
            filesystem.filesystem(out, settings.s3).rm(filesystem.path_of(out), recursive=True)


def _on_one_machine(measure: Measure, settings: config.Config) -> dict[str, Any]:
    return in_own_process(functools.partial(on_one_machine, measure), settings)


def on_one_machine(measure: Measure, settings: config.Config) -> dict[str, Any]:
    """Run a measurement on this machine, or, on a cluster, on a node that has the devices of its models."""
    if not os.environ.get("RAY_ADDRESS"):
        if device.missing() is None:
            settings = on_gpus(settings, torch.cuda.device_count())
        return measure(settings)
    on_card = "cuda" in (settings.find_face.runs_on, settings.serfiq.runs_on, settings.dbcnn.runs_on)
    with cluster.ray_for(settings):
        try:
            return ray.get(ray.remote(num_gpus=int(on_card))(measure).remote(settings))
        except ray.exceptions.RayTaskError as error:
            raise JobError(f"benchmark: {error}") from None


# --- tables --------------------------------------------------------------------------------------


def show(figures: dict[str, Figures]) -> None:
    """Print the tables."""
    console = rich.console.Console()
    console.print(rates_of(figures))
    console.print()
    console.print(times_of(figures))
    print(NOTES)
    if any(math.isnan(found["job"]["rate"]) for found in figures.values()):
        print("nan: the time for the frames was less than the variation of the start-up: give more --frames")
    for title, found in figures.items():
        if found["job"]["gpus"]:
            print(f"{title}: mean load of the GPUs: {found['job']['gpus']}")


def rates_of(figures: dict[str, Figures]) -> rich.table.Table:
    """One row per workload and measurement."""
    table = rich.table.Table(box=None, pad_edge=False)
    titles = ("", "", "frames", "frames/s", "of limit", "start-up, s", "Ray, s", "peak MB")
    for index, title in enumerate(titles):
        table.add_column(title, justify="left" if index < 2 else "right")
    for workload, measured in figures.items():
        most = measured["limit"]["rate"]
        for index, (name, found) in enumerate(measured.items()):
            table.add_row(
                "" if index else workload,
                name,
                f"{found['frames']:,}",
                f"{found['rate']:.2f}",
                f"{found['rate'] / most:.3f}",
                f"{found['start_up']:.1f}",
                f"{found['ray_s']:.1f}" if "ray_s" in found else "",
                f"{found['peak_mb']:,.0f}",
            )
    return table


def times_of(figures: dict[str, Figures]) -> rich.table.Table:
    """Time per frame: one row per step, one column per workload."""
    table = rich.table.Table(box=None, pad_edge=False)
    table.add_column("milliseconds per frame")
    for workload in figures:
        table.add_column(workload, justify="right")
    times = [with_sums(found["limit"]["cpu_ms"]) for found in figures.values()]
    for step, title in ROWS_OF_TIMES.items():
        if any(step in each for each in times):
            table.add_row(title, *(f"{each[step]:.2f}" if step in each else "" for each in times))
    on_gpu = [found["limit"].get("gpu_ms", {}) for found in figures.values()]
    for name in dict.fromkeys(name for each in on_gpu for name in each):
        table.add_row(f"{name}, on a GPU", *(f"{each[name]:.2f}" if name in each else "" for each in on_gpu))
    return table


def with_sums(cpu_ms: dict[str, float]) -> dict[str, float]:
    """The time of each step, with all of `find_face` under that name, what its steps leave of it under
    `other`, and the sum of all under `all`."""
    sums = {**cpu_ms, "all": sum(cpu_ms.values())}
    if FIND_FACE in cpu_ms:
        sums["other"] = cpu_ms[FIND_FACE]
        sums[FIND_FACE] += sum(cpu_ms.get(step, 0.0) for step in STEPS)
    return sums
