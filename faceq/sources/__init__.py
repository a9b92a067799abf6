"""From sources (pictures, tars, Parquet files, videos) to a stream of encoded frames, so that no source is
ever held whole in memory. What cannot be read is a frame with an error, never an exception."""

from faceq.sources.read import read_again, read_shards
from faceq.sources.reading import Findings

__all__ = ["Findings", "read_again", "read_shards"]
