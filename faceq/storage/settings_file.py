"""Read settings files in YAML."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from faceq.errors import StorageError, UsageError
from faceq.messages.one_line import one_line


def read(path: str | None, assignments: Iterable[tuple[str, Any]] = ()) -> dict[str, Any]:
    """The settings in a YAML file, if any, overridden by `assignments` of values to dotted keys.

    Raises UsageError or StorageError if the file cannot be read or does not hold `key: value` lines.
    """
    values = {} if path is None else _read(path)
    for key, value in assignments:
        _put(values, key, value)
    return values


def _read(path: str) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"config: {path}: there is no such file") from None
    except PermissionError:
        raise StorageError(f"config: {path}: cannot be read: change its permissions") from None
    except RecursionError:
        raise UsageError(f"config: {path}: is nested too deeply") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"config: {path}: {one_line(error)}") from None
    if loaded is not None and not isinstance(loaded, dict):
        raise UsageError(f"config: {path}: expected `key: value` lines, got {type(loaded).__name__}")
    return dict(loaded or {})


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, and keep the other keys of its section."""
    section, _, rest = key.partition(".")
    if rest:
        inner = values.get(section)
        values[section] = dict(inner) if isinstance(inner, Mapping) else {}
        _put(values[section], rest, value)
    else:
        values[section] = value
