"""How far a job is, for people: Ray Data's own bars on a terminal, one line now and then in a log."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray

EVERY_S = 10


def on_terminal() -> bool:
    """Whether somebody watches: Ray Data draws its bars on a terminal only."""
    return sys.stdout.isatty()


@contextlib.contextmanager
def logged(census: Any) -> Iterator[None]:
    """While the block runs, print a line with the census's figures every EVERY_S seconds.

    On a terminal it prints nothing. In a log Ray Data would print two lines for each step of the
    graph each time, and no total, as long as the number of frames is not known.
    """
    if on_terminal():
        yield
        return
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(census, ended), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _watch(census: Any, ended: threading.Event) -> None:
    started = time.monotonic()
    while not ended.wait(EVERY_S):
        try:
            read, unreadable, scored = ray.get(census.progress.remote())
        except ray.exceptions.RayError:
            return  # the job is coming down; its own error says why
        rate = f"{scored / (time.monotonic() - started):.1f} frames/s"
        print(f"faceq: {read:,} read, {unreadable:,} unreadable, {scored:,} through, {rate}", flush=True)
