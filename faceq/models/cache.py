"""The model cache: its folder, and the state of the files in it."""

import os
from pathlib import Path

from faceq.errors import UsageError
from faceq.models.zoo import Model, sha256


def cache_dir() -> Path:
    """The folder of the model cache: FACEQ_CACHE, or the user's cache folder if that is not set."""
    chosen = os.environ.get("FACEQ_CACHE")
    if chosen:
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faceq"
    except RuntimeError:  # HOME is not set, and the user is not in the password database
        raise UsageError(
            "models: this user has no home folder: set FACEQ_CACHE to a folder for the model cache"
        ) from None


def local_path(model: Model) -> Path:
    """The path of the verified copy, whether or not it exists yet."""
    if model.is_own:
        return Path(model.file)
    if model.is_shipped:
        return Path(__file__).parent / model.sources[0].removeprefix("package:")
    return cache_dir() / model.file


def state(model: Model) -> str:
    """`ok`, `absent`, or a message that says what is wrong with the local copy and what to do about it."""
    path = local_path(model)
    try:
        if not path.exists():
            return "absent"
        found = sha256(path)
    except OSError as error:
        return f"unreadable: {path}: {error.strerror}: change its permissions, or set FACEQ_CACHE"
    if found.startswith(model.sha256):
        return "ok"
    remedy = "install faceq again" if model.is_shipped else f"`faceq models pull {model.name}` replaces it"
    return f"corrupt: sha256 of {path} is {found[:12]}…, expected {model.sha256[:12]}…: {remedy}"
