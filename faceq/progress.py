"""How far a job is, for people: Ray Data's own bars on a terminal, one line now and then in a log."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import ray

EVERY_S = 10


def on_terminal() -> bool:
    """Whether somebody watches: Ray Data draws its bars on a terminal only."""
    return sys.stdout.isatty()


@contextlib.contextmanager
def logged(census: Any, tasks: int) -> Iterator[None]:
    """While the block runs, print a line with the census's figures every EVERY_S seconds; `tasks`: read
    tasks of the job.

    On a terminal it prints nothing. In a log Ray Data would print two lines for each step of the
    graph each time, and no total, as long as the number of frames is not known.
    """
    if on_terminal():
        yield
        return
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(census, tasks, ended), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _watch(census: Any, tasks: int, ended: threading.Event) -> None:
    before, since = 0, time.monotonic()
    while not ended.wait(EVERY_S):
        try:
            done, read, unreadable, through = ray.get(census.progress.remote())
            there = ray.cluster_resources()
        except ray.exceptions.RayError:
            return  # the job is coming down; its own error says why
        now = time.monotonic()
        print(
            line(done, tasks, read, unreadable, through, max(0, through - before) / (now - since), there),
            flush=True,
        )
        before, since = through, now


def line(
    done: int,
    tasks: int,
    read: int,
    unreadable: int,
    through: int,
    rate: float,
    there: Mapping[str, float],
) -> str:
    """What the log says: read tasks that have ended, and of how many; frames; frames/s since the last such
    line, so that growth shows; what the cluster has."""
    machines = f"{there.get('CPU', 0):g} CPUs" + (f", {there['GPU']:g} GPUs" if there.get("GPU") else "")
    return (
        f"faceq: {done:,} of {tasks:,} read tasks, {read:,} frames read, {unreadable:,} unreadable, "
        f"{through:,} through, {rate:,.1f} frames/s on {machines}"
    )
