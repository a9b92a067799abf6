"""The job, measured as `faceq score` runs it."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import psutil
import ray

from faceq.config import Config
from faceq.job import cluster, pipeline
from jobs.benchmarks.gpu_load import GpuLoad


def run(settings: Config) -> dict[str, Any]:
    """Run the job on this machine, or on the cluster that RAY_ADDRESS names, in a process that was started
    for it.

    Returns:
        frames, seconds (from the start of the graph to its end), start_up (seconds from the start of the
        process to the first finished frames), ray_s (the part of it in which the job waits for Ray to start),
        rate (frames/s without start-up, as in the summary of the job), gpus (mean load by node).
    """
    found: dict[str, Any] = {}

    @contextlib.contextmanager
    def watched(config: Config) -> Iterator[Config]:
        began = time.monotonic()
        with cluster.ray_for(config) as chosen:
            found["ray_s"] = time.monotonic() - began
            # Ray Data logs its statistics of each stage: wall and CPU time, rows, block sizes.
            context = ray.data.DataContext.get_current()
            with mock.patch.object(context, "enable_auto_log_stats", True), GpuLoad() as load:
                yield chosen
                found["gpus"] = load.mean()

    before = time.time() - psutil.Process().create_time()
    with mock.patch.object(pipeline, "ray_for", watched):
        done = pipeline.score(settings)
    start_up = before + done.before_seconds + done.first_seconds
    rate = done.frames_per_second
    return {"frames": done.run.rows, "seconds": done.seconds, "start_up": start_up, "rate": rate, **found}
