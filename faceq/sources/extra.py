"""What came with a frame, as one JSON object: the column `extra` of the result table."""

import contextlib
import datetime
import decimal
import json
import math
import uuid
from collections.abc import Mapping
from typing import Any

from faceq.errors import FaceqError

LEFT_OUT = "_left_out"
"""Key of the object with the names of the values that it does not have."""

MOST_NAMES = 100
"""Maximum number of names in LEFT_OUT."""

_AS_TEXT = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)


class BinaryValueError(FaceqError):
    """A value that JSON cannot hold: bytes, or something that contains bytes."""


class Extra:
    """Collects values into a JSON object of limited size.

    A name that is already used gets `#2`, `#3`, …. Values that are binary or too large are left out, and
    LEFT_OUT names them.

    Args:
        most: maximum size of the object without LEFT_OUT, bytes of UTF-8.
    """

    def __init__(self, most: int):
        self._left = most - len("{}")
        self._parts: list[str] = []  # `"name": value`
        self._left_out: list[str] = []
        self._more = 0  # values that are left out and not named
        self._used = {LEFT_OUT: 1}  # how often each name was given

    def add(self, name: str, value: Any) -> None:
        """Add a value that consists of what Arrow's `to_pylist` returns."""
        try:
            self._add(name, dumped(json_value(value)))
        except (BinaryValueError, RecursionError):
            self.leave_out(name)

    def add_file(self, name: str, content: bytes) -> None:
        """Add the content of a file, parsed if the name ends in `json`, as text otherwise. JSON that is not
        valid, or nested too deeply, is added as text."""
        try:
            value: Any = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            self.leave_out(name)
            return
        if "\0" in value:
            self.leave_out(name)
            return
        if name.rpartition(".")[2].lower() == "json":
            with contextlib.suppress(ValueError, RecursionError):  # keep the text
                value = json_value(json.loads(value))
        self._add(name, dumped(value))

    def leave_out(self, name: str) -> None:
        """Name a value that is left out."""
        self._leave_out(self._unique(name))

    def _leave_out(self, name: str) -> None:
        if len(self._left_out) < MOST_NAMES:
            self._left_out.append(name)
        else:
            self._more += 1

    def text(self) -> str | None:
        """The object; None if nothing was added."""
        parts = list(self._parts)
        if self._left_out:
            more = [f"and {self._more} more"] if self._more else []
            parts.append(f"{dumped(LEFT_OUT)}: {dumped([*self._left_out, *more])}")
        return f"{{{', '.join(parts)}}}" if parts else None

    def _add(self, name: str, value: str) -> None:
        name = self._unique(name)
        part = f"{dumped(name)}: {value}"
        size = len(f"{part}, ".encode())
        if size > self._left:
            self._leave_out(name)
            return
        self._left -= size
        self._parts.append(part)

    def _unique(self, name: str) -> str:
        unique = name
        while unique in self._used:
            self._used[name] += 1
            unique = f"{name}#{self._used[name]}"
        self._used[unique] = 1
        return unique


def json_value(value: Any) -> Any:
    """A value as one that JSON has: dates and decimals become text, NaN and infinity null.

    Raises:
        BinaryValueError: it is, or contains, bytes.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): json_value(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(part) for part in value]
    if isinstance(value, _AS_TEXT):
        text = value.isoformat() if hasattr(value, "isoformat") else str(value)
        return None if text in ("NaT", "NaN") else text
    raise BinaryValueError(type(value).__name__)


def dumped(value: Any) -> str:
    """A value as JSON. Lone surrogates, which neither UTF-8 nor DuckDB's JSON has, become U+FFFD."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def joined(first: str | None, second: str | None, most: int) -> str | None:
    """The members of both objects. Where both have a name, that of the second gets a number."""
    if first is None or second is None:
        return first or second
    extra = Extra(most)
    for each in (first, second):
        values = json.loads(each)
        for name in values.pop(LEFT_OUT, []):
            extra.leave_out(name)
        for name, value in values.items():
            extra.add(name, value)
    return extra.text()
