"""Read sources (images, tars, Parquet files, videos) as a stream of encoded frames.

No source is ever loaded into memory as a whole. Whatever cannot be read becomes a frame with an error, never
an exception.
"""

from faceq.sources.read import read_again, read_shards
from faceq.sources.reading import Findings

__all__ = ["Findings", "read_again", "read_shards"]
