"""What the census counts for the metrics, and how they are exported."""

import pytest
from ray.util import metrics as ray_metrics

from faceq.job import metrics
from faceq.job.census import Census
from faceq.job.counts import Counts, Work

Counting = Census.__ray_metadata__.modified_class


@pytest.fixture
def recorded(monkeypatch) -> dict[tuple[str, ...], float]:
    """What is recorded, by name and values of the tags: increments of counters are added up."""
    found: dict[tuple[str, ...], float] = {}

    def record(self: ray_metrics.Metric, value: float, tags: dict[str, str]) -> None:
        key = (self._name, *tags.values())
        before = found.get(key, 0) if isinstance(self, ray_metrics.Counter) else 0
        found[key] = before + value

    monkeypatch.setattr(ray_metrics.Metric, "_record", record)
    return found


def test_counters_grow_by_what_was_added_and_gauges_show_the_last_value(recorded):
    exporter = metrics.Exporter("run-1")
    for read, frames in ((32, None), (32, None), (70, 70)):
        exporter.show(Counts(read=read, frames=frames, rows={"scored": read // 2}))
    assert recorded["faceq_frames_read_total", "run-1"] == 70
    assert recorded["faceq_rows_total", "run-1", "scored"] == 35
    assert recorded["faceq_frames_expected", "run-1"] == 70


def test_counters_go_on_after_the_process_that_counts_has_been_restarted(recorded):
    exporter = metrics.Exporter("run-1")
    for read in (100, 10, 30):
        exporter.show(Counts(read=read))
    assert recorded["faceq_frames_read_total", "run-1"] == 130


def test_frames_wait_for_the_stage_that_they_have_not_passed():
    passed = {"read": 96, "find_face": 64, "serfiq": 64, "dbcnn": 32}
    waiting = {"find_face": 32, "serfiq": 0, "dbcnn": 32, "write": 32}
    assert Counts(passed=passed).waiting() == waiting
    assert Counts(passed={"read": 32, "find_face": 64}).waiting()["find_face"] == 0  # a batch ran twice


def test_what_runs_again_is_counted_as_a_retry_and_its_frames_once():
    census = Counting(shards=1, tasks=1)
    for _ in range(2):
        census.begin_reading(0, 9)
        census.read(0, 32, 0, 32, [], 0, (0, 31), Work(32, 1.5), 1000)
    census.begin(5, 9)
    census.begin(5, 9)
    census.decoded(5, 32, 0, None, Work(32, 2.0))
    for _ in range(2):
        census.rows_written(0, {"scored": 30, "no_face": 2}, 0.5)
    counts = census.progress()
    assert (counts.read, counts.size, counts.restarts) == (32, 1000, {"read": 1, "find_face": 1})
    assert counts.passed == {"read": 32, "find_face": 32, "write": 32}
    assert counts.rows == {"scored": 30, "no_face": 2}
    assert counts.seconds == {"read": 1.5, "find_face": 2.0, "serfiq": 0, "dbcnn": 0, "write": 1.0}


def test_names_follow_the_conventions_of_prometheus():
    for each in metrics.METRICS:
        assert each.name.startswith("faceq_") and each.description.endswith(".")
        # The unit is last, before `total`.
        assert ("seconds" in each.name) == each.name.endswith("_seconds_total")
        assert ("bytes" in each.name) == each.name.endswith("_bytes_total")
