"""Messages about settings that are not valid."""

import difflib
from typing import Any, get_args

from pydantic import BaseModel


def explain(error: Any, model: type[BaseModel], assigned: tuple[str, ...]) -> str:
    """One of pydantic's validation errors on one line, with the closest name for an unknown key.

    Args:
        error: an item of `ValidationError.errors()`.
        model: the class that was validated.
        assigned: dotted keys of values that come from `--set`.
    """
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        parent: type[BaseModel] | None = model
        for part in error["loc"][:-1]:
            parent = section_of(parent.model_fields[part].annotation) if parent else None
        known = list(parent.model_fields) if parent else []
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
        return f"unknown key {key!r}: {hint}"
    message = error["msg"].removeprefix("Value error, ")
    if not key:  # about several keys, which the message names
        return message
    origin = "--set " if any(f"{key}.".startswith(f"{name}.") for name in assigned) else ""
    return f"{origin}{key}: {message[0].lower()}{message[1:]} (got {error['input']!r})"


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The settings class of a field (Calibration for `Calibration | None`); None for a plain value."""
    kinds = get_args(annotation) or (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
