"""Write single output files of a command: check that they can be written before the work starts, and write
them atomically."""

import os

from faceq.errors import StorageError, UsageError
from faceq.storage.faults import failure
from faceq.storage.filesystem import check_writable, filesystem, is_remote, path_of, storage_errors
from faceq.storage.local_files import is_special
from faceq.storage.settings import S3Settings


def check_output(uri: str, s3: S3Settings) -> None:
    """Check that a file can be written, as far as this is known before the work starts.

    Raises:
        UsageError: the path is a folder, its folder does not exist, or the URI is of an unsupported kind.
        StorageError: there is no permission to write into the folder.
    """
    check_writable(uri)
    filesystem(uri, s3)  # raises if its scheme is not installed
    path = path_of(uri)
    folder = os.path.dirname(path)
    local = not is_remote(uri)
    if uri.endswith("/") or not folder or (local and os.path.isdir(path)):
        raise UsageError(f"{uri}: cannot be written: it is a folder or a bucket: give the path of a file")
    if local and not os.path.isdir(folder):
        raise UsageError(f"{uri}: cannot be written: there is no folder {folder}")
    # A pipe or a device is written to directly; a file is replaced by a new one in its folder.
    target = path if is_special(path) else folder
    if local and not os.access(target, os.W_OK):
        raise StorageError(
            f"{uri}: cannot be written: no permission to write to {target}: change its permissions, or "
            "choose another folder"
        )


def write_output(uri: str, data: bytes, s3: S3Settings) -> None:
    """Write an output file of a command. If that fails, raises the error that `faults.failure` returns."""
    try:
        with filesystem(uri, s3).open(path_of(uri), "wb") as file:
            file.write(data)
    except (OSError, *storage_errors()) as error:
        raise failure(f"{uri}: cannot be written", error) from None
