"""Model licences that must be accepted, and which of them were accepted on this machine."""

import contextlib
import json
import logging
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import filelock

from faceq.errors import LicenceError
from faceq.models.cache import cache_dir
from faceq.models.zoo import find

log = logging.getLogger(__name__)


def accept_terms(name: str, accept: bool) -> None:
    """Ensure that a model's licence is accepted; once accepted, this machine does not ask again.

    The terms are logged when they are accepted for the first time.

    Args:
        name: of the zoo, or a file of your own, which has no terms here.
        accept: the user accepts the model licences.

    Raises:
        LicenceError: the licence is not accepted, now or before.
    """
    model = find(name)
    if not model.terms or model.licence in _accepted():
        return
    if not accept:
        raise LicenceError(
            f"models: {model.name} comes under terms that must be accepted before its first use "
            f"({model.licence}): {model.terms} If you accept them say --accept-licence, or "
            "accept_licence: true in the configuration, or once on this machine "
            f"`faceq models pull {model.name} --accept-licence`"
        )
    log.info("models: %s: terms accepted (%s): %s", model.name, model.licence, model.terms)
    with contextlib.suppress(OSError):  # a cache that others filled, read-only: said again the next time
        _remember(model.licence)


def _acceptances() -> Path:
    return cache_dir() / "accepted.json"


def _accepted() -> dict[str, str]:
    """Licences that were accepted on this machine, and when (UTC)."""
    try:
        accepted = json.loads(_acceptances().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return accepted if isinstance(accepted, dict) else {}


def _remember(licence: str) -> None:
    path = _acceptances()
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        accepted = {**_accepted(), licence: datetime.now(UTC).isoformat(timespec="seconds")}
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".accepted-") as folder:
            temporary = Path(folder) / path.name
            temporary.write_text(json.dumps(accepted, indent=1), encoding="utf-8")
            os.replace(temporary, path)
