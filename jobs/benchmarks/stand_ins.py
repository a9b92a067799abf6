"""The three stages of the job with made-up values instead of models, to measure the rest of the job.

They take and return the same columns as the real stages, except pixels. They have their own module because
Ray's workers import it.
"""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from faceq.config import Config
from faceq.job import graph
from faceq.stages.chosen_models import ChosenModels
from faceq.table.measure_columns import MEASURES
from faceq.table.schema import pending, scatter_column


def install() -> None:
    """Make all later jobs of this process run these stages."""
    graph.find_face = find_face
    graph.FiqStage = FiqStage  # type: ignore[misc, assignment]
    graph.QualityStage = QualityStage  # type: ignore[misc, assignment]


def find_face(batch: pa.Table, census: Any, config: Config, models: ChosenModels) -> pa.Table:
    size = len(batch)
    ray.get(census.decoded.remote(0, size, 0, None))
    batch = batch.drop_columns(["image"])
    for name, values in (
        *(("width", [384] * size), ("height", [384] * size), ("n_faces", [1] * size)),
        *((name, _made_up(batch, name)) for name in ("face_x", "face_y", "face_w", "face_h", "det_score")),
        ("landmarks", [[0.0] * 10] * size),
        *((name, _made_up(batch, name)) for name in ("yaw", "pitch", "roll", "mask_coverage")),
        *((name, _made_up(batch, name)) for name in ("face_confidence", "align_error")),
        *((measure.name, _made_up(batch, measure.name)) for measure in MEASURES),
        ("dhash", batch["frame_id"].to_pylist()),
    ):
        batch = scatter_column(batch, name, np.arange(size), values)
    return batch


class FiqStage:
    def __init__(self, config: Config, models: ChosenModels, census: Any) -> None:
        pass

    def __call__(self, batch: pa.Table) -> pa.Table:
        for name in ("serfiq_raw", "serfiq", "embedding_norm"):
            batch = scatter_column(batch, name, np.arange(len(batch)), _made_up(batch, name))
        return batch


class QualityStage:
    def __init__(self, config: Config, models: ChosenModels, census: Any) -> None:
        self._census = census

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = pending(batch)
        batch = scatter_column(batch, "dbcnn", rows, 100 * _made_up(batch, "dbcnn"))
        batch = scatter_column(batch, "status", rows, ["scored"] * len(rows))
        self._census.frames_finished.remote(Counter(batch["status"].to_pylist()))
        return batch


def _made_up(batch: pa.Table, name: str) -> np.ndarray:
    """(len(batch),) float64, 0..1, always the same for a frame."""
    ids = batch["frame_id"].to_numpy() % (1 << 32)
    return (ids * (2 * len(name) + 1) % 1_000_003) / 1_000_003
