"""What a worker prints for the user, on its way to the job's own process: Ray keeps the output of workers in
logs."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def telling(census: Any) -> Iterator[None]:
    """Lines that Python code prints on standard error in the block, warnings of loggers without a handler
    among them, are told to the user by the census."""
    lines = _Lines(census)
    with contextlib.redirect_stderr(lines):
        try:
            yield
        finally:
            lines.end()


class _Lines(io.TextIOBase):
    """Text that goes to the census line by line."""

    def __init__(self, census: Any):
        self._census, self._begun = census, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._tell(line)
        return len(text)

    def end(self) -> None:
        self._tell(self._begun)

    def _tell(self, line: str) -> None:
        if line.strip():
            self._census.say.remote(line)
