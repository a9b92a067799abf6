"""Score face images at scale: how well a face can be recognised (SER-FIQ) and how good it looks (DB-CNN).

The names in `__all__` are the public API. All other modules may change.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faceq.config import Config
    from faceq.errors import (
        DeviceError,
        FaceqError,
        JobError,
        LicenceError,
        ModelError,
        ModelFileError,
        StorageError,
        UsageError,
    )
    from faceq.job.pipeline import score
    from faceq.job.summary import Summary
    from faceq.query.rows import read_table
    from faceq.selection.clips import clips
    from faceq.selection.duplicates import duplicates
    from faceq.selection.people import cluster
    from faceq.selection.select import select
    from faceq.stages.scorer import Scorer, score_images
    from faceq.storage.settings import S3Settings

__version__ = "0.1.0"
"""The version of faceq."""
__all__ = [
    "Config",
    "DeviceError",
    "FaceqError",
    "JobError",
    "LicenceError",
    "ModelError",
    "ModelFileError",
    "S3Settings",
    "Scorer",
    "StorageError",
    "Summary",
    "UsageError",
    "__version__",
    "clips",
    "cluster",
    "duplicates",
    "read_table",
    "score",
    "score_images",
    "select",
]

_MODULES = {
    "Config": "faceq.config",
    "S3Settings": "faceq.storage.settings",
    "Scorer": "faceq.stages.scorer",
    "Summary": "faceq.job.summary",
    "clips": "faceq.selection.clips",
    "cluster": "faceq.selection.people",
    "duplicates": "faceq.selection.duplicates",
    "read_table": "faceq.query.rows",
    "score": "faceq.job.pipeline",
    "score_images": "faceq.stages.scorer",
    "select": "faceq.selection.select",
}
"""Module of each public name. The error classes are not listed here: they are in `faceq.errors`."""


def __getattr__(name: str) -> Any:
    # Import on first use: torch, ONNX Runtime and Ray take seconds to import, and no program needs all of
    # them.
    if name not in __all__:
        raise AttributeError(f"module 'faceq' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES.get(name, "faceq.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
