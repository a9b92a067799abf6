"""Whether rows of two runs are comparable: what decides a value must be equal in all runs of a table."""

import json
from collections.abc import Mapping
from typing import Any

from faceq.errors import UsageError

WHEN_UNNAMED: dict[str, Any] = {"face_finding": 1, "quality_scale": None}
"""The value of a setting in runs whose record does not name it: what held before there was such a setting.
Whoever adds a key to `comparison_record` adds it here, so that tables of older versions can be continued."""


def check(uri: str, run: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """That a new run may add rows to those of an earlier one.

    Settings that only `run` names are not compared: `fiq_threshold`, which older records name beside the
    others, may change from run to run. Neither is what a record says beyond the values, such as a licence.

    Args:
        uri: of the table, for the message.
        run: an earlier run's record.
        mine: the new run's settings, as `comparison_record` gives them.

    Raises:
        UsageError: their values are not comparable; says what differs.
    """
    there = {key: run.get(key, WHEN_UNNAMED.get(key)) for key in mine}
    _check_face_finding(uri, there, mine)
    differences = "; ".join(_differences(_values(there), _values(mine)))
    if differences:
        raise UsageError(
            f"{uri}: already holds a table made with other settings ({differences}): name another folder for "
            "--out, use the same settings, or replace it by --overwrite"
        )


def _check_face_finding(uri: str, run: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """A table of another faceq has a message of its own: no settings make its rows comparable."""
    there, now = run.get("face_finding"), mine.get("face_finding")
    if there != now:
        other = "an older" if (there or 0) < (now or 0) else "a newer"
        raise UsageError(
            f"{uri}: already holds a table of {other} faceq, which found and aligned faces in another way "
            f"(face_finding {there} there, {now} now), so that scores cannot be compared: name another "
            "folder for --out, or replace the table by --overwrite"
        )


def _values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings; of each model only its SHA-256, since what its licence says changes no value."""
    models = settings.get("models")
    if not isinstance(models, Mapping):
        return dict(settings)
    digests = {
        name: {"sha256": model.get("sha256")} if isinstance(model, Mapping) else model
        for name, model in models.items()
    }
    return {**settings, "models": digests}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> list[str]:
    found = []
    for key in sorted({*old, *new}):
        there, now = old.get(key), new.get(key)
        if isinstance(there, Mapping) and isinstance(now, Mapping):
            found += _differences(there, now, f"{where}{key}.")
        elif there != now:
            found.append(f"{where}{key} {_short(there)} there, {_short(now)} now")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
