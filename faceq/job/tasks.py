"""What Ray Data's tasks run between reading frames and writing rows: mainly finding faces.

A worker process imports the module of each function it is sent. Neither this module nor its imports need
torch.
"""

import functools
import time
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from faceq.config import Config
from faceq.job.census import DEATHS_OF_A_KILLER, OutageError
from faceq.job.cluster import MAX_RETRIES
from faceq.job.counts import Work
from faceq.job.telling import telling
from faceq.job.worker_setup import set_up
from faceq.stages.chosen_models import ChosenModels
from faceq.stages.find_face import FindFace
from faceq.table.schema import isin_sorted, scatter_column, to_result_rows

KILLER = (
    "decoding it ended the worker process, twice: its bytes crash a decoder or need more memory than there "
    "is: convert the image or leave it out"
)


def drop_done(batch: pa.Table, done: Any, census: Any) -> pa.Table:
    """The frames that have no row yet; `done`: reference to the sorted ids (int64) of those that have one."""
    ids = batch["frame_id"].to_numpy()
    keep = ~isin_sorted(ids, ray.get(done))
    if len(ids):
        ray.get(census.dropped.remote(int(ids[0]), int(np.count_nonzero(~keep))))
    return batch.filter(pa.array(keep))


def most_starts(batch_size: int) -> int:
    """Maximum number of starts of a batch: each of its frames may end some processes before faceq gives it
    up."""
    return MAX_RETRIES + DEATHS_OF_A_KILLER * batch_size


def find_face(batch: pa.Table, census: Any, config: Config, models: ChosenModels) -> pa.Table:
    """Find faces, with models that are loaded once per worker process. Stops the job if nearly all frames are
    unreadable.

    If a process has died over this batch, the frames are processed one by one. A frame over which two
    processes have died becomes an unreadable row.
    """
    before = batch["status"].null_count
    first = batch["frame_id"][0].as_py() if len(batch) else 0
    starts = most_starts(config.find_face.batch_size)
    died, killers, outage = ray.get(census.begin.remote(first, starts)) if before else (False, [], None)
    if outage:
        raise OutageError(outage)
    with telling(census):
        stage = _loaded(config, models)
        started = time.perf_counter()
        batch = _one_by_one(stage, batch, first, killers, census) if died else stage(batch)
    errors = [row for row in batch.select(["status", "error"]).to_pylist() if row["status"] == "unreadable"]
    example = errors[-1]["error"] if errors else None
    unreadable = len(errors) - (len(batch) - before)
    work = Work(len(batch), time.perf_counter() - started)
    outage = ray.get(census.decoded.remote(first, before, unreadable, example, work))
    if outage:
        raise OutageError(outage)
    return batch


class FindFaceActor:
    """`find_face` in a process that keeps its models; it is ready when they are loaded."""

    def __init__(self, census: Any, config: Config, models: ChosenModels):
        self._census, self._config, self._models = census, config, models
        with telling(census):
            _loaded(config, models)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return find_face(batch, self._census, self._config, self._models)


def _one_by_one(stage: FindFace, batch: pa.Table, key: int, killers: list[int], census: Any) -> pa.Table:
    done = []
    for row, frame in enumerate(batch["frame_id"].to_pylist()):
        one = batch.slice(row, 1)
        if frame in killers:
            one = scatter_column(one, "status", np.array([0]), ["unreadable"])
            one = scatter_column(one, "error", np.array([0]), [KILLER])
        ray.get(census.trying.remote(key, frame))
        done.append(stage(one))
    ray.get(census.trying.remote(key, None))
    return pa.concat_tables(done)


def result_rows(batch: pa.Table, columns: pa.Schema, run_id: str, census: Any) -> pa.Table:
    """`to_result_rows`, before the rows are written; raises OutageError if the job has to stop."""
    outage = ray.get(census.outage.remote())
    if outage:
        raise OutageError(outage)
    return to_result_rows(batch, columns, run_id)


@functools.cache
def _loaded(config: Config, models: ChosenModels) -> FindFace:
    pool = config.find_face
    set_up(1 if pool.runs_on == "cuda" else pool.threads)  # on a GPU, the stage has threads of its own
    return FindFace(config, models)
