"""Local disk with atomic writes."""

import contextlib
import errno
import io
import os
import re
import tempfile
from typing import Any

from fsspec.implementations.local import LocalFileSystem, get_umask


def is_special(path: str) -> bool:
    """Whether the path is a pipe, a device or a folder, which a file cannot replace."""
    return os.path.exists(path) and not os.path.isfile(path)


def is_temporary(name: str) -> bool:
    """Whether a file name is that of an unfinished file of AtomicLocalFileSystem."""
    return bool(_TEMPORARY.fullmatch(name))


_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}", re.DOTALL)
"""A dot, the name of the file, a dot, and the suffix from `tempfile`."""


class AtomicLocalFileSystem(LocalFileSystem):
    """Local disk with atomic writes: a file appears complete or not at all, like an object on S3.

    A file is written in its own folder under a temporary name that dataset readers skip (it starts with a
    dot). When it is closed without an error, its content is synced to the disk, then it is renamed, and the
    folder is synced before `close` returns. A file that was reported as written therefore survives a power
    loss.
    """

    protocol = "faceq-local"
    cachable = False

    def __init__(self, **options: Any):
        super().__init__(**{"auto_mkdir": True, **options})

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        # A device such as /dev/stdout cannot be replaced by a file.
        if mode != "wb" or is_special(path):
            return super()._open(path, mode, block_size=block_size, **options)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return _AtomicFile(path)


class _AtomicFile(io.BufferedWriter):
    """A binary file that gets its final name when it is closed, unless a write failed."""

    def __init__(self, path: str):
        folder, name = os.path.split(path)
        handle, self._temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
        # mkstemp makes files private to their owner; a table gets the usual permissions.
        os.chmod(self._temporary, 0o666 & ~get_umask())
        super().__init__(io.FileIO(handle, "wb"))
        self._target = path
        self._failed = False

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BaseException:
            self._failed = True
            raise

    def __exit__(self, kind: Any, *rest: Any) -> None:
        self._failed = self._failed or kind is not None
        self.close()

    def __del__(self) -> None:
        # Not closed before it was deleted: the writer did not finish.
        self._failed = True
        super().__del__()

    def discard(self) -> None:
        """Close the file and delete it."""
        self._failed = True
        self.close()

    def close(self) -> None:
        if self.closed:
            return
        try:
            if not self._failed:
                self._sync()
            super().close()
        except BaseException:
            self._failed = True
            with contextlib.suppress(OSError):
                super().close()
            raise
        finally:
            if self._failed:
                os.unlink(self._temporary)
            else:
                os.replace(self._temporary, self._target)
                _sync_names(os.path.dirname(self._target))

    def _sync(self) -> None:
        """Sync the content to the disk. The file must be open."""
        self.flush()
        try:
            os.fsync(self.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # fsync is not supported here
                raise


_synced: set[tuple[str, int]] = set()
"""Folders, by path and inode, whose entries in their parent folders this process has synced to the disk."""


def _sync_names(folder: str) -> None:
    """Sync the entries of a folder to the disk, and, once per process, those of the folders above it, even if
    another process created them."""
    outer = os.path.dirname(folder)
    with contextlib.suppress(OSError):  # a file system on which folders cannot be opened or synced
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
            key = folder, os.fstat(handle).st_ino
        finally:
            os.close(handle)
        if outer != folder and key not in _synced:
            _sync_names(outer)
            _synced.add(key)
