"""Files that belong to a Parquet file: those that its rows name, and a tar that it describes."""

import os

from faceq.errors import FaceqError
from faceq.sources.listing import TAR_ENDINGS, Shard, printable
from faceq.sources.reading import Reading, unread
from faceq.storage.filesystem import filesystem, is_remote, joined, path_of, store_name


class OtherStorageError(FaceqError):
    """A path does not name a file in the shard's own kind of storage."""


def only_path(path: str) -> str:
    """What a row holds, for messages."""
    return f"the image column has no bytes in this row, only the path {printable(path)}"


def place_of(shard: Shard, path: str) -> str:
    """The file that a row names, as its file system does: relative to the shard's folder, or absolute.

    Raises:
        OtherStorageError: it is in another kind of storage.
    """
    if not (is_remote(path) or os.path.isabs(path)):
        if is_remote(shard.source):
            return path_of(joined(os.path.dirname(shard.source), path))
        return os.path.normpath(f"{os.path.dirname(shard.path)}/{path}")
    if store_name(path) != store_name(shard.source):
        raise OtherStorageError(f"{only_path(path)}, which is not in the shard's own storage")
    return path_of(path)


def not_there(path: str, error: Exception, shard: Shard) -> str:
    """Why the file that a row names cannot be read, as text for the row's `error`."""
    if isinstance(error, OtherStorageError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return f"{only_path(path)}, and there is no such file"
    return f"{only_path(path)}: {unread(error, shard)}"


def is_about_tar(shard: Shard, reading: Reading) -> bool:
    """Whether a tar of the same name is beside a Parquet file. img2dataset writes one with the columns url,
    caption, key and so on beside each tar, whose sidecars have the same values."""
    files = filesystem(shard.source, reading.s3)
    stem = os.path.splitext(shard.path)[0]
    return any(files.exists(f"{stem}{ending}") for ending in TAR_ENDINGS)
