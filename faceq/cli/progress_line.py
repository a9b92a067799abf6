"""Shows people how far a job is: a live line on a terminal, a line from time to time in a pipe or a file.

Progress goes to standard error, as messages do: standard output has only the summary.
"""

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence

from faceq.cli.logs import Handler
from faceq.job import progress

_ON_TERMINAL_S = 1

_UP_AND_CLEAR = "\x1b[1A\r\x1b[K"


class ProgressLine:
    """Reports a job's progress on standard error. Log messages appear above the live line.

    On a narrow terminal the live line continues on further lines: no part of it is cut off.

    Args:
        shown: writes the log messages.

    Attributes:
        last: how far the job was, when it has ended; None if that is not known.
    """

    last: progress.Progress | None = None

    def __init__(self, shown: Handler):
        self._on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._lines: list[str] = []
        self._writing = threading.RLock()
        shown.around = self._above

    @property
    def every_s(self) -> float:
        return _ON_TERMINAL_S if self._on_terminal else progress.EVERY_S

    def show(self, progress: progress.Progress) -> None:
        with self._writing:
            if self._on_terminal:
                before = self._clearing()
                self._lines = fitted(progress.parts(), shutil.get_terminal_size().columns - 1)
                _write(before + "\n".join(self._lines))
            else:
                _write(f"faceq: {progress}\n")

    def end(self, last: progress.Progress | None) -> None:
        """Remove the line from the terminal."""
        self.last = last
        with self._writing:
            if self._lines:
                _write(self._clearing())
            self._lines = []

    @contextlib.contextmanager
    def _above(self) -> Iterator[None]:
        with self._writing:
            if self._lines:
                _write(self._clearing())
            yield
            if self._lines:
                _write("\n".join(self._lines))

    def _clearing(self) -> str:
        """What clears the lines that are on the terminal, and leaves the cursor at the start of the first."""
        return "\r\x1b[K" + _UP_AND_CLEAR * (len(self._lines) - 1)


def fitted(parts: Sequence[str], width: int) -> list[str]:
    """The parts in lines of at most `width` characters; a part that is longer is cut."""
    lines = [f"faceq: {parts[0]}"]
    for part in parts[1:]:
        if len(f"{lines[-1]}; {part}") <= width:
            lines[-1] += f"; {part}"
        else:
            lines.append(f"  {part}")
    return [line[:width] for line in lines]


def _write(text: str) -> None:
    # If nobody reads any more, the job goes on.
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()
