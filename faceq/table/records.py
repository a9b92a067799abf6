"""Parse and validate the records of runs.

A record file may be damaged: disks fill up, synchronisation tools make copies, and people edit files. Records
are validated when they are read, so that other code can rely on their keys.
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
"""Keys that a record of an older faceq may lack, and the types of their values."""

_DEFAULTS = {"state": "ended", "started": "", "finished": None}
_OWNER = ("host", "pid", "machine", "began")


def name_of(run_id: str) -> str:
    """The file name of a run's record."""
    return f"run-{run_id}.json"


def parse(content: bytes, name: str, table: str) -> dict[str, Any]:
    """Parse the record of a run.

    Args:
        content: content of the file.
        name: name of the file.
        table: URI of the table, for messages.

    Returns:
        The record. It has run_id and version (str), config (dict), input (list of str), state, started,
        finished, and in the states `claiming` and `running` the owner.

    Raises:
        StorageError: the file is not a valid record.
    """
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise damaged(table, name, f"it is not JSON: {error}" if content else "it is empty") from None
    if not isinstance(record, dict):
        raise damaged(table, name, "it is not a JSON object")
    wrong = _wrong(record)
    if wrong is None and name_of(record["run_id"]) != name:
        wrong = f"it is the record of another run, {record['run_id']!r}"
    if wrong is not None:
        raise damaged(table, name, wrong)
    return {**_DEFAULTS, **record}


def damaged(table: str, name: str, why: str) -> StorageError:
    """The error to raise for a damaged record."""
    return StorageError(
        f"{table}: the record _faceq/{name} is damaged ({one_line(why)}): restore it from a backup, "
        "or delete it and run the job again, which keeps the existing rows"
    )


def _wrong(record: dict[str, Any]) -> str | None:
    """A description of what is wrong with a record; None if it is valid."""
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
