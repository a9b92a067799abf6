"""Reports how far a job is, shows what its workers log, and stops the job when it cannot go on."""

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray._common.utils import get_default_ray_temp_dir

from faceq.job import local_ray, metrics, resources, watchdog, workers
from faceq.job.counts import Counts
from faceq.job.rate import Rate
from faceq.stages.placement import Request
from faceq.table.schema import STATUSES

log = logging.getLogger(__name__)

EVERY_S = 10
"""Seconds between two progress lines in a log, and between two checks for dead workers."""

METRICS_S = 2
"""Maximum number of seconds between two updates of the metrics."""

_LAST_WORDS_S = 2
"""Seconds that the end of a job waits for the last log messages of workers."""


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    tasks_ended: read tasks that have ended, of `tasks`. read, unreadable: frames, see `Counts`. finished:
    frames that have passed all stages; statuses: these by status. written: rows in files of the table, which
    a killed job keeps; rows: these by status. frames: frames that this run scores in all, None while not
    known. rate: frames/s of the last seconds, so that growth shows; None before the first. seconds_left: None
    where `frames` or `rate` is. elapsed_s: seconds since reading began. cpus, gpus: of the cluster. limited:
    the job takes only the first frames of its input (`limit`): not all read tasks run, and `read` counts
    frames beyond them. run_id: of the job.
    """

    tasks_ended: int
    tasks: int
    read: int
    unreadable: int
    finished: int
    rate: float | None
    cpus: float
    gpus: float = 0
    written: int = 0
    frames: int | None = None
    statuses: Mapping[str, int] = field(default_factory=dict)
    seconds_left: float | None = None
    elapsed_s: float = 0.0
    limited: bool = False
    run_id: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)

    def parts(self) -> list[str]:
        """What a person reads, the most important part first."""
        if not self.finished:
            read = f"{self.read:,} frames read, none finished yet"
            return [
                f"loading models and reading frames, {duration(self.elapsed_s)}",
                "no frame finished yet" if self.limited else read,
            ]
        parts = [self._of_frames()]
        if self.rate is not None:
            parts.append(f"{self.rate:,.1f} frames/s on {self._machines()}")
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        if self.tasks_ended < self.tasks and not self.limited:
            parts.append(f"{self.tasks_ended:,} of {self.tasks:,} read tasks ended")
        if self.written:
            parts.append(f"{self.written:,} rows written, safe to stop")
        counts = [(status, self.statuses.get(status, 0)) for status in reversed(STATUSES)]
        parts.append(", ".join(f"{count:,} {status}" for status, count in counts if count))
        return [part for part in parts if part]

    def __str__(self) -> str:
        return "; ".join(self.parts())

    def _of_frames(self) -> str:
        if self.frames:
            # Frames of a task that ran twice count twice.
            share = min(1.0, self.finished / self.frames)
            return f"{min(self.finished, self.frames):,} of {self.frames:,} frames finished ({share:.0%})"
        if self.limited:
            return f"{self.finished:,} frames finished"
        return f"{self.finished:,} of at least {max(self.read, self.finished):,} frames finished"

    def _machines(self) -> str:
        return f"{self.cpus:g} CPUs" + (f", {self.gpus:g} GPUs" if self.gpus else "")


def duration(seconds: float) -> str:
    """
    >>> duration(7.4), duration(200), duration(9000)
    ('7 s', '3 min 20 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


class Reporter(Protocol):
    """Receives a job's progress, in a thread of its own.

    every_s: seconds between two calls of `show`.
    """

    @property
    def every_s(self) -> float: ...

    def show(self, progress: Progress) -> None:
        """Called repeatedly while the job runs."""

    def end(self, last: Progress | None) -> None:
        """Called when the job has ended, successfully or not.

        Args:
            last: how far the job was; None if that is not known.
        """


class LogReporter:
    """Logs the progress; the record has the figures as `record.progress`, a dict.

    last: see `Reporter.end`.
    """

    last: Progress | None = None

    @property
    def every_s(self) -> float:
        return EVERY_S

    def show(self, progress: Progress) -> None:
        log.info("%s", progress, extra={"progress": dataclasses.asdict(progress)})

    def end(self, last: Progress | None) -> None:
        self.last = last


@contextlib.contextmanager
def watched(
    job: str,
    asked: Sequence[Request],
    census: Any,
    tasks: int,
    reporter: Reporter | None,
    limited: bool = False,
) -> Iterator[None]:
    """While the block runs, report how far the job is, and stop it when it cannot go on.

    Ray Data's own progress bars show neither unreadable frames nor a total. In a log they write two lines for
    each step of the graph each time.

    Args:
        job: the id that `stopping.callback` got.
        asked: the minimum that the stages request.
        census: the job's `Census`.
        tasks: number of read tasks of the job.
        reporter: None: the log.
        limited: the job has a `limit`.
    """
    watch = _Watch(job, asked, census, tasks, reporter or LogReporter(), limited)
    thread = threading.Thread(target=watch.run, name="faceq-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.ended.set()
        thread.join()
        watch.leave()


class _Watch:
    def __init__(
        self,
        job: str,
        asked: Sequence[Request],
        census: Any,
        tasks: int,
        reporter: Reporter,
        limited: bool,
    ):
        self.ended = threading.Event()
        self._job, self._asked, self._census, self._tasks = job, asked, census, tasks
        self._reporter = reporter
        self._limited = limited
        self._heard = 0
        self._rate = Rate()
        self._metrics = metrics.Exporter(job)
        self._started = time.monotonic()

    def run(self) -> None:
        dog = watchdog.Watchdog(workers.deaths, self._shortage, _broken)
        looked = shown = time.monotonic()
        tick = min(self._reporter.every_s, METRICS_S)
        while not self.ended.wait(tick):
            try:
                counts = self._counts()
                now = time.monotonic()
                if now - looked >= EVERY_S:
                    looked = now
                    self._guard(dog, counts)
                if now - shown < self._reporter.every_s - tick / 2:
                    continue
                there = ray.cluster_resources()
            except ray.exceptions.RayError:
                continue  # the census is busy or restarts; or the job ends and its own error says why
            shown = now
            self._reporter.show(self._progress(counts, there, now))

    def leave(self) -> None:
        """Log the last messages of workers, and end the report."""
        last = None
        with contextlib.suppress(ray.exceptions.RayError):
            counts = self._counts(_LAST_WORDS_S)
            last = self._progress(counts, ray.cluster_resources(), time.monotonic())
        self._reporter.end(last)

    def _guard(self, dog: watchdog.Watchdog, counts: Counts) -> None:
        said, reason = dog.look((counts.tasks_ended, counts.read, counts.unreadable, counts.finished))
        for text in said:
            log.warning("%s", text)
        if reason:
            watchdog.stop(self._job, reason)

    def _progress(self, counts: Counts, there: Mapping[str, float], now: float) -> Progress:
        rate = self._rate.after(counts.finished, now)
        left = None
        if rate and counts.frames is not None:
            left = max(0, counts.frames - counts.finished) / rate
        return Progress(
            tasks_ended=counts.tasks_ended,
            tasks=self._tasks,
            read=counts.read,
            unreadable=counts.unreadable,
            finished=counts.finished,
            rate=rate,
            cpus=there.get("CPU", 0),
            gpus=there.get("GPU", 0),
            written=counts.written,
            rows=counts.rows,
            frames=counts.frames,
            statuses=counts.statuses,
            seconds_left=left,
            elapsed_s=now - self._started,
            limited=self._limited,
            run_id=self._job,
        )

    def _counts(self, timeout: float = EVERY_S) -> Counts:
        counts, said = ray.get(self._census.news.remote(self._heard), timeout=timeout)
        self._heard += len(said)
        self._metrics.show(counts)
        for level, name, text in said:
            logging.getLogger(name).log(level, "%s", text)
        return counts

    def _shortage(self) -> str | None:
        there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        machines = [resources.Machine(has.get("CPU", 0), has.get("GPU", 0)) for has in there]
        return resources.shortage(self._asked, machines)


def _broken() -> str | None:
    """The reason why workers cannot start on this machine: a full temporary folder. None if there is none."""
    folder = get_default_ray_temp_dir()
    free = local_ray.free_bytes(folder)
    return local_ray.no_room(folder, free) if free < local_ray.LEAST_BYTES else None
