"""Read sources (images, tars, Parquet files, videos) as a stream of encoded frames.

No source is ever loaded into memory as a whole. Whatever cannot be read becomes a frame with an error, never
an exception.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faceq.sources.read import read_again, read_shards, use_videos
    from faceq.sources.reading import Findings

__all__ = ["Findings", "read_again", "read_shards", "use_videos"]

_MODULES = {"Findings": "reading", "read_again": "read", "read_shards": "read", "use_videos": "read"}


def __getattr__(name: str) -> Any:
    # Import on first use: the stages that score faces need `faceq.sources.frame`, but no reader, and readers
    # take a quarter of a second to import.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"faceq.sources.{_MODULES[name]}"), name)
