"""Single files that a command writes: checked before the work, and written whole."""

import os

from faceq.errors import StorageError, UsageError
from faceq.storage.faults import failure
from faceq.storage.filesystem import filesystem, is_remote, is_special, path_of, storage_errors
from faceq.storage.settings import S3Settings


def check_output(uri: str, s3: S3Settings) -> None:
    """That a file can be written there, as far as can be seen before the work that it shall hold.

    Raises:
        UsageError: a folder, a file in a folder that is not there, another kind of URI.
        StorageError: a file in a folder that may not be written into.
    """
    filesystem(uri, s3)  # says so of another kind
    path = path_of(uri)
    folder = os.path.dirname(path)
    local = not is_remote(uri)
    if uri.endswith("/") or not folder or (local and os.path.isdir(path)):
        raise UsageError(f"{uri}: cannot be written: it is a folder or a bucket: name a file")
    if local and not os.path.isdir(folder):
        raise UsageError(f"{uri}: cannot be written: there is no folder {folder}")
    # A pipe or a device is written to as it is, a file replaced.
    target = path if is_special(path) else folder
    if local and not os.access(target, os.W_OK):
        raise StorageError(
            f"{uri}: cannot be written: you may not write into {target}: change its permissions, or name "
            "another folder"
        )


def write_output(uri: str, data: bytes, s3: S3Settings) -> None:
    """Write a file that a command was asked for; raises as `faults.failure` where that fails."""
    try:
        with filesystem(uri, s3).open(path_of(uri), "wb") as file:
            file.write(data)
    except (OSError, *storage_errors()) as error:
        raise failure(f"{uri}: cannot be written", error) from None
