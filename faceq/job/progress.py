"""How far a job is, what its workers log, and why it is stopped if it is: for whoever started the job."""

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray._common.utils import get_default_ray_temp_dir

from faceq.job import local_ray, resources, watchdog, workers
from faceq.stages.placement import Request

log = logging.getLogger(__name__)

EVERY_S = 10
"""Seconds between two lines in a log, and between two looks for dead workers."""

_LAST_WORDS_S = 2
"""Seconds that the end of a job waits for what workers have logged last."""


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    tasks_ended: of `tasks` read tasks. read, unreadable, through: frames; `through` have passed all stages.
    rate: frames/s of the last seconds, so that growth shows. cpus, gpus: what the cluster has.
    """

    tasks_ended: int
    tasks: int
    read: int
    unreadable: int
    through: int
    rate: float
    cpus: float
    gpus: float = 0

    def __str__(self) -> str:
        machines = f"{self.cpus:g} CPUs" + (f", {self.gpus:g} GPUs" if self.gpus else "")
        return (
            f"{self.tasks_ended:,} of {self.tasks:,} read tasks, {self.read:,} frames read, "
            f"{self.unreadable:,} unreadable, {self.through:,} through, "
            f"{self.rate:,.1f} frames/s on {machines}"
        )


class Reporter(Protocol):
    """Takes a job's progress, from a thread of its own.

    every_s: seconds between two calls of `show`.
    """

    @property
    def every_s(self) -> float: ...

    def show(self, progress: Progress) -> None:
        """Called again and again while the job runs."""

    def end(self) -> None:
        """Called when the job has ended, in whatever way."""


class LogReporter:
    """Logs the progress; the record has its figures as `record.progress`, a dict."""

    @property
    def every_s(self) -> float:
        return EVERY_S

    def show(self, progress: Progress) -> None:
        log.info("%s", progress, extra={"progress": dataclasses.asdict(progress)})

    def end(self) -> None:
        """Nothing is left to do."""


@contextlib.contextmanager
def watched(
    job: str, asked: Sequence[Request], census: Any, tasks: int, reporter: Reporter | None
) -> Iterator[None]:
    """While the block runs, report how far the job is, and stop it where it cannot go on.

    Ray Data's own bars show neither unreadable frames nor a total, and in a log they are two lines for each
    step of the graph each time.

    Args:
        job: what `watchdog.stopping` knows it by.
        asked: what the stages need at least.
        tasks: read tasks of the job.
        reporter: None: the log.
    """
    watch = _Watch(job, asked, census, tasks, reporter or LogReporter())
    thread = threading.Thread(target=watch.run, name="faceq-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.ended.set()
        thread.join()
        watch.leave()


class _Watch:
    def __init__(self, job: str, asked: Sequence[Request], census: Any, tasks: int, reporter: Reporter):
        self.ended = threading.Event()
        self._job, self._asked, self._census, self._tasks = job, asked, census, tasks
        self._reporter = reporter
        self._heard = 0

    def run(self) -> None:
        dog = watchdog.Watchdog(workers.deaths, self._shortage, _broken)
        before, since = 0, time.monotonic()
        rate = 0.0
        while not self.ended.wait(self._reporter.every_s):
            try:
                counts = self._counts()
                there = ray.cluster_resources()
                now = time.monotonic()
                if now - since >= EVERY_S:
                    through = counts[3]
                    rate, before, since = max(0, through - before) / (now - since), through, now
                    said, reason = dog.look(counts)
                    for text in said:
                        log.warning("%s", text)
                    if reason:
                        watchdog.stop(self._job, reason)
            except ray.exceptions.RayError:
                continue  # the census is busy or starts again; or the job ends, and its own error says why
            ended, read, unreadable, through = counts
            machines = there.get("CPU", 0), there.get("GPU", 0)
            self._reporter.show(Progress(ended, self._tasks, read, unreadable, through, rate, *machines))

    def leave(self) -> None:
        """Log what workers have logged last, and end the report."""
        with contextlib.suppress(ray.exceptions.RayError):
            self._counts(_LAST_WORDS_S)
        self._reporter.end()

    def _counts(self, timeout: float = EVERY_S) -> tuple[int, int, int, int]:
        counts, said = ray.get(self._census.news.remote(self._heard), timeout=timeout)
        self._heard += len(said)
        for level, name, text in said:
            logging.getLogger(name).log(level, "%s", text)
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
