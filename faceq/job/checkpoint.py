"""How many rows are written together: what a kill may lose.

A job that is killed loses the rows that are not written yet. On a large machine a thousand rows are a
moment's work; where a frame takes seconds they are an hour's.
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
"""Seconds' worth of rows that are written together, reckoned with CPUs that have nothing else to do; those
between the stages come to it. On a machine that is ten times as slow a kill still loses about a minute."""

LEAST_SHARE = 0.1
"""Of a small job, at most so much waits for its file: a job of a few hundred frames ends within seconds, and
should lose no more of them for that."""

LEAST_BATCH = 8
"""Frames of a batch, at least: one mini-batch."""


def with_checkpoint_rows(config: Config, shards: Iterable[Shard]) -> Config:
    """The settings with `rows_per_file` and with batches that take some seconds at most, if neither is set.

    On clusters and cards a thousand rows are seconds of work. On one machine's CPUs both follow from what a
    frame costs there, the number of rows also from the size of the input, `shards`. They are chosen once,
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
    """About how many frames an input has, by its bytes; infinity where nobody has asked for them."""
    return sum(
        1 if shard.kind == "picture" else math.inf if shard.size is None else shard.size / frame_bytes
        for shard in shards
    )
