"""How many rows are written together: what a kill may lose.

A job that is killed loses the rows that are not written yet. On a large machine a thousand rows are a
moment's work; where a frame takes seconds they are an hour's.
"""

import os

import ray

from faceq import plan
from faceq.config import Config

MOST_ROWS, LEAST_ROWS = 1000, 50

WORK_S = 5
"""Seconds' worth of rows that are written together, reckoned with CPUs that have nothing else to do; those
between the stages come to it. On a machine that is ten times as slow a kill still loses about a minute."""

LEAST_BATCH = 8
"""Frames of a batch, at least: one mini-batch."""


def paced(config: Config) -> Config:
    """The settings with `rows_per_file` and with batches that take some seconds at most, if neither is set.

    On clusters and cards a thousand rows are seconds of work. On one machine's CPUs both follow from what a
    frame costs there. They are chosen once, before the job starts.
    """
    stages = {"find_face": config.find_face, "serfiq": config.serfiq, "dbcnn": config.dbcnn}
    on_gpu = any(stage.runs_on == "cuda" for stage in stages.values())
    if os.environ.get("RAY_ADDRESS") or on_gpu or len(ray.nodes()) > 1:
        return config.model_copy(update={"rows_per_file": config.rows_per_file or MOST_ROWS})
    seconds = plan.cpu_seconds(config.preset, config.serfiq_passes)
    rows = round(WORK_S * ray.cluster_resources().get("CPU", 1) / seconds)
    batch = max(LEAST_BATCH, round(WORK_S / seconds))
    smaller = {
        name: stage.model_copy(update={"batch_size": batch})
        for name, stage in stages.items()
        if batch < stage.batch_size and "batch_size" not in stage.model_fields_set
    }
    rows = config.rows_per_file or min(MOST_ROWS, max(LEAST_ROWS, rows))
    return config.model_copy(update={"rows_per_file": rows, **smaller})
