"""Local disks and S3 behind one interface: fsspec file systems. S3 uses the usual settings of botocore."""

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
"""Number of attempts for one request to S3. With the backoff of the mode `standard`, at most 20 seconds
between two attempts, the last one starts about 15 seconds after the first. A mistyped endpoint is thus
reported soon."""

READ_AHEAD = 8 << 20
"""Number of extra bytes to request from S3 when a file is read sequentially."""


_Kind = type[Exception]


def storage_errors() -> tuple[_Kind, _Kind, _Kind, _Kind]:
    """The exceptions other than OSError that a failing storage raises.

    This is a function because `except` evaluates it only when an exception is raised: a program that uses
    only local disks does not wait for the import of the S3 libraries.
    """
    import aiohttp  # noqa: PLC0415
    import botocore.exceptions  # noqa: PLC0415
    import botocore.parsers  # noqa: PLC0415

    return (
        botocore.exceptions.BotoCoreError,
        botocore.exceptions.ClientError,
        # Raised by s3fs when it gives up: an incomplete body (after five attempts), a response that is not
        # XML.
        aiohttp.ClientError,
        botocore.parsers.ResponseParserError,
    )


def answer_of(error: BaseException) -> dict[str, Any]:
    """The response of S3 to the request that caused an error, as botocore returns it; empty if there is none.

    s3fs converts an error response to an OSError and keeps the original error as its cause.
    """
    current: BaseException | None = error
    while current is not None:
        answer = getattr(current, "response", None)
        if isinstance(answer, dict) and "Error" in answer:
            return answer
        current = current.__cause__
    return {}


def is_storage_error(error: BaseException) -> bool:
    """Whether the storage failed. For damaged content pyarrow also raises OSError, but without an errno."""
    if answer_of(error) or isinstance(error, storage_errors()):
        return True
    named = PermissionError | FileNotFoundError | ConnectionError | TimeoutError
    return isinstance(error, named) or (isinstance(error, OSError) and error.errno is not None)


def is_remote(uri: str) -> bool:
    return "://" in uri and not uri.startswith("file://")


def check_uri(uri: str) -> None:
    """Check that a remote URI is an `s3://` URI without credentials: a table records the URIs of its sources.
    Raises UsageError."""
    if not uri.startswith("s3://"):
        advice = ": for a signed URL, give the s3:// URI of its object, and credentials"
        hint = advice if holds_secret(uri) else ""
        raise UsageError(f"{uri}: only local paths and s3:// are supported{hint}")
    if holds_secret(uri):
        raise UsageError(
            f"{uri}: contains a key or a signature: give only s3://BUCKET/KEY; credentials come from the AWS "
            "variables or a profile"
        )


def filesystem(uri: str, s3: S3Settings) -> fsspec.AbstractFileSystem:
    """The file system of a local path or an `s3://` URI.

    Endpoint, region and credentials of S3 come from the AWS environment variables and profiles; `s3`
    overrides them. With `s3.anonymous`, requests are not signed. With `s3.requester_pays`, every request
    agrees to pay. Retries and their backoff are those of botocore (AWS_MAX_ATTEMPTS, AWS_RETRY_MODE). If a
    connection breaks or a body is incomplete, s3fs makes up to five such attempts.

    Raises:
        UsageError: the URI is of another kind, or contains keys.
    """
    if not is_remote(uri):
        return AtomicLocalFileSystem()
    check_uri(uri)
    options: dict[str, Any] = {"endpoint_url": s3.endpoint_url, "profile": s3.profile}
    # botocore reads only AWS_DEFAULT_REGION; the other SDKs, and most users, use AWS_REGION.
    region = s3.region or os.environ.get("AWS_REGION")
    if region:
        options["client_kwargs"] = {"region_name": region}
    options |= {"anon": s3.anonymous, "requester_pays": s3.requester_pays}
    options["config_kwargs"] = {"retries": _retries(s3)}
    from faceq.storage.s3_files import S3Files  # noqa: PLC0415 - see `storage_errors`

    return S3Files(**{key: value for key, value in options.items() if value})


def _retries(s3: S3Settings) -> dict[str, Any]:
    """Retry settings for botocore; environment variables and the profile override them.

    The mode is `standard`. Unlike `legacy`, it retries after every broken connection, and it takes all
    retries of a process from one quota, so that faceq does not send requests for hours to a store that is
    down.
    """
    profile = _profile(s3.profile, *map(os.environ.get, _PROFILE_VARIABLES))
    retries: dict[str, Any] = {}
    if not (os.environ.get("AWS_RETRY_MODE") or profile.get("retry_mode")):
        retries["mode"] = "standard"
    if not (os.environ.get("AWS_MAX_ATTEMPTS") or profile.get("max_attempts")):
        retries["total_max_attempts"] = ATTEMPTS
    return retries


_PROFILE_VARIABLES = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "HOME",
)


@functools.lru_cache
def _profile(name: str | None, *variables: str | None) -> Mapping[str, Any]:
    """The settings of a profile. They are cached, because a botocore session takes 20 ms to create and a job
    asks for a file system once per file.

    Args:
        name: the name of the profile; None: the default profile.
        variables: values of the environment variables that choose the profile. They are only the cache key.
    """
    import botocore.session  # noqa: PLC0415 - see `storage_errors`

    try:
        found: Mapping[str, Any] = botocore.session.Session(profile=name).get_scoped_config()
    except botocore.exceptions.BotoCoreError:
        return {}  # the file system raises the error on first use
    return found


def absolute(uri: str) -> str:
    """The name under which a source or a table is recorded: an absolute local path, or the unchanged URI.

    Percent-encoding, such as `%20` for a space, is decoded only in a `file://` URI, as `Path.as_uri` returns
    it.
    """
    if is_remote(uri):
        return uri.rstrip("/")
    if uri.startswith("file://"):
        uri = unquote(uri.removeprefix("file://").removeprefix("localhost"), errors="surrogateescape")
    path = os.path.abspath(uri)
    return path[1:] if path.startswith("//") else path  # abspath keeps two leading slashes, as POSIX demands


def path_of(uri: str) -> str:
    """The path in the file system of the URI: an absolute local path, or `bucket/key`."""
    return absolute(uri).removeprefix("s3://")


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
