"""The two scoring stages of the job without models, for tests of the job that do not need real scores.

The job reads and decodes frames and detects faces as usual. Then every face gets the same scores. A worker
process starts in a third of the time, because it does not import torch.
"""

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

SERFIQ, DBCNN = 0.9, 60.0


class FiqStage:
    def __init__(self, config: Any, models: Any, census: Any):
        self._threshold = config.fiq_threshold

    def __call__(self, batch: pa.Table) -> pa.Table:
        faces = pc.is_null(batch["status"])
        for name, value in (("serfiq_raw", 0.8), ("serfiq", SERFIQ), ("embedding_norm", 10.0)):
            batch = _with(batch, name, pc.if_else(faces, value, None))
        if self._threshold > SERFIQ:
            batch = _with(batch, "status", pc.if_else(faces, "below_fiq", batch["status"]))
            batch = _with(batch, "mask_coverage", pc.if_else(faces, None, batch["mask_coverage"]))
        return batch.drop_columns(["aligned"])


class QualityStage:
    def __init__(self, config: Any, models: Any, census: Any):
        self._census = census

    def __call__(self, batch: pa.Table) -> pa.Table:
        faces = pc.is_null(batch["status"])
        batch = _with(batch, "dbcnn", pc.if_else(faces, DBCNN, None))
        batch = _with(batch, "status", pc.if_else(faces, "scored", batch["status"]))
        self._census.frames_finished.remote(Counter(batch["status"].to_pylist()))
        return batch.drop_columns(["crop", "outline", "crop_map"])


def _with(batch: pa.Table, name: str, column: pa.Array) -> pa.Table:
    index = batch.schema.get_field_index(name)
    return batch.append_column(name, column) if index < 0 else batch.set_column(index, name, column)
