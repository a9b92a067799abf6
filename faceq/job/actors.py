"""The stages that run in pools of actors: SER-FIQ, DB-CNN, or all stages in the same process.

The job's own process imports this module, too. Therefore only the actors import the stages, with torch.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from faceq.config import Config
from faceq.job.census import OutageError
from faceq.job.counts import DBCNN, SERFIQ, Work
from faceq.job.tasks import FindFaceActor
from faceq.job.telling import telling
from faceq.job.worker_setup import set_up
from faceq.stages.chosen_models import ChosenModels


class FiqStage:
    """`ScoreFiq` that records its warnings, and stops the job if nearly no face has features."""

    def __init__(self, config: Config, models: ChosenModels, census: Any):
        from faceq.stages import scores  # noqa: PLC0415 - torch takes seconds to import

        set_up(config.serfiq.threads)
        self._census = census
        self._without = scores.NO_FEATURES
        with telling(census):
            self._stage = scores.ScoreFiq(config, models, note=census.note.remote)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return _scored(SERFIQ, self._stage, batch, self._census, self._without)


class QualityStage:
    """`ScoreQuality` that reports finished frames to the census, and stops the job if nearly no face has a
    score."""

    def __init__(self, config: Config, models: ChosenModels, census: Any):
        from faceq.stages import scores  # noqa: PLC0415 - torch takes seconds to import

        set_up(config.dbcnn.threads)
        self._census = census
        self._without = scores.NO_QUALITY
        with telling(census):
            self._stage = scores.ScoreQuality(config, models)

    def __call__(self, batch: pa.Table) -> pa.Table:
        batch = _scored(DBCNN, self._stage, batch, self._census, self._without)
        self._census.frames_finished.remote(Counter(batch["status"].to_pylist()))
        return batch


class AllStages:
    """Finds faces and computes both scores, in a process that keeps all models."""

    def __init__(self, config: Config, models: ChosenModels, census: Any):
        self._find_face = FindFaceActor(census, config, models)
        self._serfiq = FiqStage(config, models, census)
        self._dbcnn = QualityStage(config, models, census)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return self._dbcnn(self._serfiq(self._find_face(batch)))


def _scored(
    name: str, stage: Callable[[pa.Table], pa.Table], batch: pa.Table, census: Any, error: str
) -> pa.Table:
    """The batch as the stage returns it. Reports to the census what the stage logs, how long it took, and how
    many faces now have the `error` because a model gave no score for them; OutageError if this holds for
    nearly all faces of the job."""
    faces = batch["status"].null_count
    started = time.perf_counter()
    with telling(census):
        batch = stage(batch)
    work = Work(len(batch), time.perf_counter() - started)
    without = (pc.sum(pc.equal(batch["error"], error)).as_py() or 0) if faces else 0
    told = census.scored.remote(name, work, faces, without, error)
    if without:  # good batches do not wait for the answer
        outage = ray.get(told)
        if outage:
            raise OutageError(outage)
    return batch
