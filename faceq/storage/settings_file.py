"""Read settings files in YAML."""

from pathlib import Path
from typing import Any

import yaml

from faceq.errors import StorageError, UsageError
from faceq.messages.one_line import one_line


def read(path: str) -> dict[str, Any]:
    """The settings in a YAML file. Raises UsageError or StorageError if it cannot be read or does not hold
    `key: value` lines."""
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
