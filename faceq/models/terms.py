"""Acceptance of model licences, and a record of those accepted on this machine."""

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
    """Ensure that the licence of a model is accepted. This machine asks only once per licence.

    When a licence is accepted for the first time, its terms are logged.

    Args:
        name: the name of a model in the model zoo. A file of your own needs no acceptance.
        accept: whether the user accepts the model licences.

    Raises:
        LicenceError: the licence has not been accepted, neither now nor before.
    """
    model = find(name)
    if not model.terms or model.licence in _accepted():
        return
    if not accept:
        raise LicenceError(
            f"models: {model.name}: you must accept its licence before the first use ({model.licence}): "
            f"{model.terms} To accept it, add --accept-licence, or set accept_licence: true in the "
            f"configuration, or run `faceq models pull {model.name} --accept-licence` once on this machine"
        )
    log.info("models: %s: terms accepted (%s): %s", model.name, model.licence, model.terms)
    with contextlib.suppress(OSError):  # the cache may be read-only; then the terms are logged each time
        _remember(model.licence)


def _acceptances() -> Path:
    return cache_dir() / "accepted.json"


def _accepted() -> dict[str, str]:
    """Licences that were accepted on this machine, with the time of acceptance (UTC)."""
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
