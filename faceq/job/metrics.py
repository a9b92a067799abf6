"""The counts of a job as metrics, which Ray's endpoints for Prometheus serve.

The job's own process exports them: it asks the census for the counts anyway, so stages do no work for them.
Ray puts `ray_` before each name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ray.util import metrics

from faceq.job.counts import Counts

RUN_ID = "run_id"
"""The tag that every metric has."""


@dataclass(frozen=True)
class Metric:
    """A metric of a job.

    name: without the prefix `ray_`. description: also on the endpoint. values: from the counts to the value
    for each value of `tag`; without a tag, the key is "". A name that ends in `_total` is that of a counter,
    any other that of a gauge.
    """

    name: str
    description: str
    values: Callable[[Counts], Mapping[str, float]]
    tag: str = ""

    @property
    def is_counter(self) -> bool:
        return self.name.endswith("_total")

    @property
    def arguments(self) -> tuple[str, str, tuple[str, ...]]:
        """Name, description and tags."""
        return self.name, self.description, (RUN_ID, self.tag) if self.tag else (RUN_ID,)


METRICS = (
    Metric("faceq_frames_read_total", "Frames without a row that were read.", lambda c: {"": c.read}),
    Metric(
        "faceq_read_bytes_total",
        "Bytes of the frames that were read: encoded images, or packed frames of videos.",
        lambda c: {"": c.size},
    ),
    Metric(
        "faceq_refused_reads_total", "Frames that the storage did not deliver.", lambda c: {"": c.refused}
    ),
    Metric(
        "faceq_retries_total",
        "Tasks (stage read) and batches (stage find_face) that began again because their process had died.",
        lambda c: c.restarts,
        "stage",
    ),
    Metric("faceq_stage_frames_total", "Frames that have passed a stage.", lambda c: c.passed, "stage"),
    Metric(
        "faceq_stage_seconds_total",
        "Seconds that the processes of a stage have spent on batches, all processes together.",
        lambda c: c.seconds,
        "stage",
    ),
    Metric("faceq_rows_total", "Rows written to the table, by status.", lambda c: c.rows, "status"),
    Metric(
        "faceq_frames_waiting",
        "Frames that have passed the stage before and not yet this one: its queue and its current batches.",
        Counts.waiting,
        "stage",
    ),
    Metric(
        "faceq_frames_expected",
        "Frames that this run scores in all; absent while that is not known.",
        lambda c: {} if c.frames is None else {"": c.frames},
    ),
)
"""All metrics of a job."""


class Exporter:
    """Exports the counts of a run. Every metric has the run's id as its tag `run_id`."""

    def __init__(self, run_id: str):
        self._tags = {RUN_ID: run_id}
        self._before: dict[tuple[str, str], float] = {}
        self._counters = {each.name: metrics.Counter(*each.arguments) for each in METRICS if each.is_counter}
        self._gauges = {each.name: metrics.Gauge(*each.arguments) for each in METRICS if not each.is_counter}

    def show(self, counts: Counts) -> None:
        """Set all metrics to the counts."""
        for each in METRICS:
            for tag, value in each.values(counts).items():
                self._set(each, tag, value)

    def _set(self, each: Metric, tag: str, value: float) -> None:
        tags = {**self._tags, each.tag: tag} if each.tag else self._tags
        if not each.is_counter:
            self._gauges[each.name].set(value, tags)
            return
        before = self._before.get((each.name, tag), 0)
        if value != before:
            # Lower than before: the process that counts was restarted and began at zero.
            self._counters[each.name].inc(value - before if value > before else value, tags)
            self._before[each.name, tag] = value
