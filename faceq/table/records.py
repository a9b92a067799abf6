"""Records of runs as they lie in a table: checked once, where they are read.

Disks fill up, tools that synchronise folders make copies, and people edit. Who uses a record may rely on its
keys.
"""

import json
from typing import Any

from faceq.errors import StorageError
from faceq.messages.one_line import one_line

_TEXTS = ("run_id", "version")
_OPTIONAL: dict[str, tuple[type, ...]] = {
    "state": (str,),
    "started": (str,),
    "finished": (str, type(None)),
    "frames": (int, type(None)),
    "rows": (int, type(None)),
    "sequence": (int,),
    "owner": (dict,),
    "models": (dict,),
    "counts": (dict,),
    "notes": (list,),
}
"""Keys that a record of an older faceq may lack, and their types where they are there."""

_DEFAULTS = {"state": "ended", "started": "", "finished": None}
_OWNER = ("host", "pid", "machine", "began")


def name_of(run_id: str) -> str:
    """The file name of a run's record."""
    return f"run-{run_id}.json"


def parse(content: bytes, name: str, table: str) -> dict[str, Any]:
    """A run's record.

    Args:
        content: of its file.
        name: of its file.
        table: where it lies, for messages.

    Returns:
        The record. It has run_id and version (str), config (dict), input (list of str), state, started,
        finished, and in the states `claiming` and `running` the owner.

    Raises:
        StorageError: it is no such record.
    """
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise damaged(table, name, f"it is no JSON: {error}" if content else "it is empty") from None
    if not isinstance(record, dict):
        raise damaged(table, name, "it is no JSON object")
    wrong = _wrong(record)
    if wrong is None and name_of(record["run_id"]) != name:
        wrong = f"it is the record of another run, {record['run_id']!r}"
    if wrong is not None:
        raise damaged(table, name, wrong)
    return {**_DEFAULTS, **record}


def damaged(table: str, name: str, why: str) -> StorageError:
    """The error to raise for a record that cannot be used."""
    return StorageError(
        f"{table}: the record _faceq/{name} is damaged ({one_line(why)}): restore it from a backup, "
        "or delete it and run the job again, which keeps the rows that are there"
    )


def _wrong(record: dict[str, Any]) -> str | None:
    """What is wrong with a record; None if nothing is."""
    for key in _TEXTS:
        if not isinstance(record.get(key), str) or not record[key]:
            return f"its {key} is {_short(record.get(key))}"
    if not isinstance(record.get("config"), dict):
        return f"its config is {_short(record.get('config'))}"
    inputs = record.get("input")
    if not isinstance(inputs, list) or not all(isinstance(each, str) for each in inputs):
        return f"its input is {_short(inputs)}"
    for key, kinds in _OPTIONAL.items():
        if key in record and not isinstance(record[key], kinds):
            return f"its {key} is {_short(record[key])}"
    if record.get("state") in ("claiming", "running"):
        owner = record.get("owner")
        if not isinstance(owner, dict) or any(key not in owner for key in _OWNER):
            return f"its owner is {_short(owner)}"
    return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
