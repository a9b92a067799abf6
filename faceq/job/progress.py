"""How far a job is, for people: one line that changes on a terminal, a line now and then in a log. Beside it,
what workers have to tell, and why the job is stopped if it is."""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir

from faceq.cli import streams
from faceq.job import local_ray, resources, watchdog, workers

EVERY_S = 10
"""Seconds between two lines in a log, and between two looks for dead workers."""

_ON_TERMINAL_S = 1

_LAST_WORDS_S = 2
"""Seconds that the end of a job waits for what workers have told last."""


@contextlib.contextmanager
def watched(job: str, asked: Sequence[resources.Request], census: Any, tasks: int) -> Iterator[None]:
    """While the block runs, show how far the job is, and stop it where it cannot go on.

    Ray Data's own bars show neither unreadable frames nor a total, and in a log they are two lines for each
    step of the graph each time.

    Args:
        job: what `watchdog.stopping` knows it by.
        asked: what the stages need at least.
        tasks: read tasks of the job.
    """
    watch = _Watch(job, asked, census, tasks)
    thread = threading.Thread(target=watch.run, name="faceq-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.ended.set()
        thread.join()
        watch.leave()


class _Watch:
    def __init__(self, job: str, asked: Sequence[resources.Request], census: Any, tasks: int):
        self.ended = threading.Event()
        self._job, self._asked, self._census, self._tasks = job, asked, census, tasks
        self._line = _Line()
        self._heard = 0

    def run(self) -> None:
        dog = watchdog.Watchdog(workers.deaths, self._shortage, _broken)
        before, since = 0, time.monotonic()
        rate = 0.0
        while not self.ended.wait(_ON_TERMINAL_S if self._line.on_terminal else EVERY_S):
            try:
                counts = self._counts()
                there = ray.cluster_resources()
                now = time.monotonic()
                if now - since >= EVERY_S:
                    through = counts[3]
                    rate, before, since = max(0, through - before) / (now - since), through, now
                    said, reason = dog.look(counts)
                    for text in said:
                        self._line.say(text)
                    if reason:
                        watchdog.stop(self._job, reason)
            except ray.exceptions.RayError:
                continue  # the census is busy or starts again; or the job ends, and its own error says why
            self._line.show(line(counts[0], self._tasks, *counts[1:], rate, there))

    def leave(self) -> None:
        """Say what workers have told last; take the line off the terminal."""
        with contextlib.suppress(ray.exceptions.RayError):
            self._counts(_LAST_WORDS_S)
        self._line.clear()

    def _counts(self, timeout: float = EVERY_S) -> tuple[int, int, int, int]:
        counts, said = ray.get(self._census.news.remote(self._heard), timeout=timeout)
        self._heard += len(said)
        for text in said:
            self._line.say(text)
        return tuple(counts)

    def _shortage(self) -> str | None:
        there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        machines = [resources.Machine(has.get("CPU", 0), has.get("GPU", 0)) for has in there]
        return resources.shortage(self._asked, machines)


def _broken() -> str | None:
    """What keeps workers from starting on this machine: a full temporary folder."""
    folder = get_default_ray_temp_dir()
    free = local_ray.free_bytes(folder)
    return local_ray.no_room(folder, free) if free < local_ray.LEAST_BYTES else None


class _Line:
    """The line that says how far the job is, in its place on a terminal, or one after the other in a log."""

    def __init__(self) -> None:
        self.on_terminal = sys.stdout.isatty()
        self._shown = ""

    def show(self, text: str) -> None:
        if self.on_terminal:
            width = shutil.get_terminal_size().columns
            self._shown = text[: width - 1]
            self._write(f"\r{self._shown}\x1b[K")
        else:
            self._write(f"{text}\n")

    def say(self, text: str) -> None:
        """A line on standard error, above the one that says how far the job is."""
        if self.on_terminal and self._shown:
            self._write("\r\x1b[K")
        streams.say(text.removeprefix("faceq: "))
        if self.on_terminal and self._shown:
            self._write(self._shown)

    def clear(self) -> None:
        if self.on_terminal and self._shown:
            self._write("\r\x1b[K")
            self._shown = ""

    def _write(self, text: str) -> None:
        # Nobody reads any more: the job goes on.
        with contextlib.suppress(OSError):
            sys.stdout.write(text)
            sys.stdout.flush()


def line(
    done: int,
    tasks: int,
    read: int,
    unreadable: int,
    through: int,
    rate: float,
    there: Mapping[str, float],
) -> str:
    """What the line says: read tasks that have ended, and of how many; frames; frames/s of the last seconds,
    so that growth shows; what the cluster has."""
    machines = f"{there.get('CPU', 0):g} CPUs" + (f", {there['GPU']:g} GPUs" if there.get("GPU") else "")
    return (
        f"faceq: {done:,} of {tasks:,} read tasks, {read:,} frames read, {unreadable:,} unreadable, "
        f"{through:,} through, {rate:,.1f} frames/s on {machines}"
    )
