"""Check that rows of two runs are comparable: settings that affect values must be equal in all runs of a
table."""

import json
from collections.abc import Mapping
from typing import Any

from faceq.errors import UsageError

EARLIER_DEFAULTS: dict[str, Any] = {
    "face_finding": 1,
    "faces": "largest",
    "max_faces": None,
    "main": "largest",
    "quality_scale": None,
    "precision": {"serfiq": "f32", "dbcnn": "f32"},
    "animated": "first",
}
"""Values of settings that older records do not contain, because the settings did not exist yet. If you add a
key to `comparison_record`, add it here too, so that tables of older versions can be continued."""

SETTINGS = {"video_fps": "video.fps", "video_every": "video.every", "animated": "read.animated"}
"""Names of settings, where the record has another key."""


def check(uri: str, run: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Check that a new run may add rows to those of an earlier run.

    Settings that only `run` contains are not compared: older records also contain `fiq_threshold`, which may
    change from run to run. Parts of a record that do not affect values, such as a licence, are not compared
    either.

    Args:
        uri: URI of the table, for the message.
        run: the record of an earlier run.
        mine: the settings of the new run, as `comparison_record` returns them.

    Raises:
        UsageError: the rows would not be comparable. The message says what differs.
    """
    earlier = {key: run.get(key, EARLIER_DEFAULTS.get(key)) for key in mine}
    _check_face_finding(uri, earlier, mine)
    if (earlier.get("faces"), mine.get("faces")) == ("largest", "all"):
        # The same values, and one more column, as after an update of faceq. `main` is compared. The other way
        # round, a frame that is scored again would lose its other faces.
        mine = {key: value for key, value in mine.items() if key not in ("faces", "max_faces")}
        earlier = {key: earlier[key] for key in mine}
    differences = "; ".join(_differences(_values(earlier), _values(mine)))
    if differences:
        raise UsageError(
            f"{uri}: already contains a table made with other settings ({differences}): choose another "
            "folder for --out, use the same settings, or replace the table with --overwrite"
        )


def _check_face_finding(uri: str, run: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Check the version of face finding. It has its own message, because no settings can make such rows
    comparable."""
    before, now = run.get("face_finding"), mine.get("face_finding")
    if before != now:
        other = "an older" if (before or 0) < (now or 0) else "a newer"
        raise UsageError(
            f"{uri}: already contains a table of {other} faceq, which found and aligned faces differently "
            f"(face_finding was {before}, is now {now}), so that scores cannot be compared: choose another "
            "folder for --out, or replace the table with --overwrite"
        )


def _values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with only the SHA-256 of each model: its licence does not affect values."""
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
        before, now = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += _differences(before, now, f"{where}{key}.")
        elif before != now:
            name = SETTINGS.get(key, key)
            found.append(f"{where}{name} was {_short(before)}, is now {_short(now)}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
