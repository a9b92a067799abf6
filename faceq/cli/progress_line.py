"""How far a job is, for people: one line that changes on a terminal, a line now and then in a log."""

import contextlib
import shutil
import sys
import threading
from collections.abc import Iterator

from faceq.cli.logs import Handler
from faceq.job import progress

_ON_TERMINAL_S = 1


class ProgressLine:
    """Reports a job's progress on standard output. What is logged meanwhile stands above the line.

    Args:
        shown: writes what is logged.
    """

    def __init__(self, shown: Handler):
        self._on_terminal = sys.stdout.isatty()
        self._line = ""
        self._writing = threading.RLock()
        shown.around = self._above

    @property
    def every_s(self) -> float:
        return _ON_TERMINAL_S if self._on_terminal else progress.EVERY_S

    def show(self, progress: progress.Progress) -> None:
        with self._writing:
            if self._on_terminal:
                width = shutil.get_terminal_size().columns
                self._line = f"faceq: {progress}"[: width - 1]
                _write(f"\r{self._line}\x1b[K")
            else:
                _write(f"faceq: {progress}\n")

    def end(self) -> None:
        """Take the line off the terminal."""
        with self._writing:
            if self._line:
                _write("\r\x1b[K")
            self._line = ""

    @contextlib.contextmanager
    def _above(self) -> Iterator[None]:
        with self._writing:
            if self._line:
                _write("\r\x1b[K")
            yield
            if self._line:
                _write(self._line)


def _write(text: str) -> None:
    # Nobody reads any more: the job goes on.
    with contextlib.suppress(OSError):
        sys.stdout.write(text)
        sys.stdout.flush()
