"""Standard output and standard error, whatever is behind them: an ASCII terminal, a full disk, nothing."""

import contextlib
import io
import os
import sys
from typing import TextIO

from faceq.visible import ON_A_PLAIN_TERMINAL, visible


def prepare() -> None:
    """Make both streams take any letter, and see to it that they are there.

    A process may be started with a closed standard output. The next file that it opens would take its place,
    and get what is printed.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ON_A_PLAIN_TERMINAL)


def say(line: str) -> None:
    """One line to standard error; nothing where that cannot be written, since nobody could be told."""
    with contextlib.suppress(OSError, ValueError):
        print(visible(line), file=sys.stderr, flush=True)


def output_fails() -> bool:
    """Whether standard output does not take what was printed, and keeps it from then on."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        drop(sys.stdout)
        return True
    return False


def drop(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere. Python would complain again when it flushes at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
