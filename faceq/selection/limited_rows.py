"""The rows of a table, for work over all of them in bounded memory."""

from faceq.query.rows import Rows
from faceq.storage.settings import S3Settings

MEMORY = "1500MB"


def limited_rows(uri: str, s3: S3Settings, *, faces: bool = False, tracks: bool = False) -> Rows:
    """The rows of a table, with a memory limit for DuckDB. What needs more is written to a temporary folder.

    faces, tracks: see `Rows`.

    Raises:
        UsageError: there is no such table.
        StorageError: it cannot be read.
    """
    return Rows(uri, s3, faces=faces, tracks=tracks, memory_limit=MEMORY)
