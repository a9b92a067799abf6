"""Local disks and S3 behind one interface: fsspec file systems, S3 by botocore's usual settings."""

import contextlib
import errno
import functools
import io
import os
import re
import tempfile
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import fsspec
from fsspec.implementations.local import LocalFileSystem, get_umask

from faceq.errors import UsageError
from faceq.messages.masking import holds_secret
from faceq.storage.settings import S3Settings

ATTEMPTS = 6
"""Requests to S3 for one answer. With the backoff of `standard`, 20 seconds at most between two, the last
comes about 15 seconds after the first: an endpoint with a typing error is told before one loses patience."""

READ_AHEAD = 8 << 20
"""Bytes of a request to S3 beyond those asked for, where a file is read from front to back."""


_Kind = type[Exception]


def storage_errors() -> tuple[_Kind, _Kind, _Kind, _Kind]:
    """What a storage that fails raises beside OSError.

    A function: `except` asks it only once something was raised, and who stays on local disks does not wait
    for S3's libraries to be imported.
    """
    import aiohttp  # noqa: PLC0415
    import botocore.exceptions  # noqa: PLC0415
    import botocore.parsers  # noqa: PLC0415

    return (
        botocore.exceptions.BotoCoreError,
        botocore.exceptions.ClientError,
        # What s3fs gives up with: a body that ended too early (five times), an answer that is no XML.
        aiohttp.ClientError,
        botocore.parsers.ResponseParserError,
    )


def answer_of(error: BaseException) -> dict[str, Any]:
    """S3's own answer to the request that an error comes from, as botocore gives it; empty without one.

    s3fs turns an answer into an OSError and keeps the original as its cause.
    """
    seen: BaseException | None = error
    while seen is not None:
        answer = getattr(seen, "response", None)
        if isinstance(answer, dict) and "Error" in answer:
            return answer
        seen = seen.__cause__
    return {}


def is_storage_error(error: BaseException) -> bool:
    """Whether the storage failed; for broken content pyarrow raises OSError, too, but without a number."""
    if answer_of(error) or isinstance(error, storage_errors()):
        return True
    named = PermissionError | FileNotFoundError | ConnectionError | TimeoutError
    return isinstance(error, named) or (isinstance(error, OSError) and error.errno is not None)


def is_remote(uri: str) -> bool:
    return "://" in uri and not uri.startswith("file://")


def check_uri(uri: str) -> None:
    """That a remote place is of a kind that can be read, and is named without what opens it: a table records
    the names of its sources. Raises UsageError."""
    if not uri.startswith("s3://"):
        hint = ": give the s3:// URI of a signed URL's object, and credentials" if holds_secret(uri) else ""
        raise UsageError(f"{uri}: only local paths and s3:// are supported{hint}")
    if holds_secret(uri):
        raise UsageError(
            f"{uri}: holds a key or a signature: name s3://BUCKET/KEY alone; credentials come from the AWS "
            "variables or a profile"
        )


def filesystem(uri: str, s3: S3Settings) -> fsspec.AbstractFileSystem:
    """The file system of a local path or an `s3://` URI.

    S3's endpoint, region and credentials come from the AWS variables and profiles, `s3` going before
    them; with `s3.anonymous` no request is signed, with `s3.requester_pays` each says who pays. Retries and
    their backoff are botocore's (AWS_MAX_ATTEMPTS, AWS_RETRY_MODE), and s3fs tries five times around those
    where a connection breaks or a body ends too early.

    Raises:
        UsageError: another kind of URI, or one that holds keys.
    """
    if not is_remote(uri):
        return AtomicLocalFileSystem()
    check_uri(uri)
    options: dict[str, Any] = {"endpoint_url": s3.endpoint_url, "profile": s3.profile}
    # botocore itself reads AWS_DEFAULT_REGION only; the other SDKs, and people, say AWS_REGION.
    region = s3.region or os.environ.get("AWS_REGION")
    if region:
        options["client_kwargs"] = {"region_name": region}
    options |= {"anon": s3.anonymous, "requester_pays": s3.requester_pays}
    options["config_kwargs"] = {"retries": _retries(s3)}
    from faceq.storage.s3_files import S3Files  # noqa: PLC0415 - see `storage_errors`

    return S3Files(**{key: value for key, value in options.items() if value})


def _retries(s3: S3Settings) -> dict[str, Any]:
    """botocore's settings for retries, where no variable and no profile has others.

    Mode `standard`: unlike `legacy` it takes every broken connection for one to try again, and draws all
    retries of a process from one quota, so that a store that is down is not asked for hours.
    """
    profile = _profile(s3.profile, *map(os.environ.get, _WHERE_PROFILES_ARE))
    retries: dict[str, Any] = {}
    if not (os.environ.get("AWS_RETRY_MODE") or profile.get("retry_mode")):
        retries["mode"] = "standard"
    if not (os.environ.get("AWS_MAX_ATTEMPTS") or profile.get("max_attempts")):
        retries["total_max_attempts"] = ATTEMPTS
    return retries


_WHERE_PROFILES_ARE = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "HOME",
)


@functools.lru_cache
def _profile(name: str | None, *where: str | None) -> Mapping[str, Any]:
    """The settings of a profile, read once for each place that it may come from: a session of botocore takes
    20 ms to make, and a job asks for a file system at every file.

    Args:
        where: the variables that say where profiles are.
    """
    import botocore.session  # noqa: PLC0415 - see `storage_errors`

    try:
        found: Mapping[str, Any] = botocore.session.Session(profile=name).get_scoped_config()
    except botocore.exceptions.BotoCoreError:
        return {}  # whoever uses the file system is told of it
    return found


def absolute(uri: str) -> str:
    """The name by which a source or a table is recorded: an absolute local path, or the URI as it is.

    Only in a `file://` URI, as `Path.as_uri` gives it, does `%20` stand for a space.
    """
    if is_remote(uri):
        return uri.rstrip("/")
    if uri.startswith("file://"):
        uri = unquote(uri.removeprefix("file://").removeprefix("localhost"), errors="surrogateescape")
    path = os.path.abspath(uri)
    return path[1:] if path.startswith("//") else path  # POSIX lets two slashes be; here they are one


def path_of(uri: str) -> str:
    """What the URI's file system calls it: an absolute local path, or `bucket/key`."""
    return absolute(uri).removeprefix("s3://")


def is_special(path: str) -> bool:
    """Whether a pipe, a device or a folder has that name: a file cannot take its place."""
    return os.path.exists(path) and not os.path.isfile(path)


def is_temporary(name: str) -> bool:
    """Whether a file is one that AtomicLocalFileSystem did not finish, by its name."""
    return bool(_TEMPORARY.fullmatch(name))


_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}", re.DOTALL)
"""A dot, the file's name, and what `tempfile` puts behind it."""


class AtomicLocalFileSystem(LocalFileSystem):
    """Local disk on which a written file appears whole or not at all, as an object on S3 does.

    A file is written beside its place under a name that dataset readers pass over (it starts with a
    dot), and is renamed when it is closed without an error. It is on the disk by then, and its name when
    `close` returns: what was reported as written survives a power loss.
    """

    protocol = "faceq-local"
    cachable = False

    def __init__(self, **options: Any):
        super().__init__(**{"auto_mkdir": True, **options})

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        # /dev/stdout, say, is no file that another could take the place of.
        if mode != "wb" or is_special(path):
            return super()._open(path, mode, block_size=block_size, **options)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return _AppearsWhenClosed(path)


class _AppearsWhenClosed(io.BufferedWriter):
    """A binary file that takes its name when it is closed; not if something could not be written."""

    def __init__(self, path: str):
        folder, name = os.path.split(path)
        handle, self._temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
        # mkstemp makes files private to their owner; a table is as readable as any other file.
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
        # Dropped without a close: whoever wrote it did not finish.
        self._failed = True
        super().__del__()

    def discard(self) -> None:
        """Close it, and let no file appear."""
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
        """Bring the content to the disk, while the file is open."""
        self.flush()
        try:
            os.fsync(self.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # there is no such thing here
                raise


_synced: set[tuple[str, int]] = set()
"""Folders, by path and inode, whose own names this process has brought to the disk."""


def _sync_names(folder: str) -> None:
    """Bring the names of a folder's files to the disk, and, once in a process, those of the folders that it
    lies in: whoever made them."""
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
