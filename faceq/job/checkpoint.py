"""The number of rows that are written together: what a killed job may lose.

A killed job loses the rows that are not written yet. On a large machine a thousand rows take moments; where a
frame takes seconds, they take an hour.
"""

import math
import os
from collections.abc import Iterable

import ray

from faceq.config import Config
from faceq.job import capacity
from faceq.sources.listing import Shard

MOST_ROWS, LEAST_ROWS = 1000, 50

WORK_S = 5
"""Seconds of work whose rows are written together, estimated for CPUs that have nothing else to do. Frames
between the stages are lost in addition. On a machine that is ten times slower, a kill still loses about a
minute of work."""

LEAST_SHARE = 0.1
"""Maximum share of a small job whose rows wait to be written together: a job of a few hundred frames takes
seconds, and should not lose a large part of them."""

LEAST_BATCH = 8
"""Minimum number of frames in a batch: one mini-batch."""


def with_checkpoint_rows(config: Config, shards: Iterable[Shard]) -> Config:
    """The settings with `rows_per_file` and with batches that take a few seconds at most, if neither is set.

    On clusters and GPUs a thousand rows are seconds of work. On the CPUs of one machine both follow from the
    cost of a frame, and the number of rows also from the size of the input, `shards`. They are chosen once,
    before the job starts.
    """
    stages = {"find_face": config.find_face, "serfiq": config.serfiq, "dbcnn": config.dbcnn}
    on_gpu = any(stage.runs_on == "cuda" for stage in stages.values())
    if os.environ.get("RAY_ADDRESS") or on_gpu or len(ray.nodes()) > 1:
        return config.model_copy(update={"rows_per_file": config.rows_per_file or MOST_ROWS})
    seconds = capacity.cpu_seconds(config.preset, config.serfiq_passes)
    frames = _frames_in(shards, capacity.COSTS[config.preset].read_bytes)
    rows = round(min(WORK_S * ray.cluster_resources().get("CPU", 1) / seconds, LEAST_SHARE * frames))
    batch = max(LEAST_BATCH, round(WORK_S / seconds))
    smaller = {
        name: stage.model_copy(update={"batch_size": batch})
        for name, stage in stages.items()
        if batch < stage.batch_size and "batch_size" not in stage.model_fields_set
    }
    rows = config.rows_per_file or min(MOST_ROWS, max(LEAST_ROWS, rows))
    return config.model_copy(update={"rows_per_file": rows, **smaller})


def _frames_in(shards: Iterable[Shard], frame_bytes: float) -> float:
    """Estimated number of frames of an input, by its bytes; infinity if its size is not known."""
    return sum(
        1 if shard.kind == "picture" else math.inf if shard.size is None else shard.size / frame_bytes
        for shard in shards
    )
