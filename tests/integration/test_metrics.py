"""The metrics that Ray's endpoint serves: they equal the summary of the job and its table."""

import collections
import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import PHOTOS
from prometheus_client.parser import text_string_to_metric_families
from real_s3 import free_port

import faceq
from faceq.job.counts import STAGES
from faceq.job.metrics import METRICS

IMAGES = 12

JOB = """
import sys, time, urllib.request
from faceq import config
from faceq.cli import main
from faceq.job.cluster import ray_for

port, out, rows = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with ray_for(config.Config(num_cpus=2, metrics_port=port)):
    status = main.main(["score", *sys.argv[4:], "--log-format", "json"])
    deadline, counted = time.monotonic() + 20, 0
    while counted < rows and time.monotonic() < deadline:
        time.sleep(0.2)
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        samples = [line for line in text.splitlines() if line.startswith("ray_faceq_rows_total{")]
        counted = sum(float(line.rsplit(" ", 1)[1]) for line in samples)
open(out, "w").write(text)
sys.exit(status)
"""
"""Runs `faceq score` on a Ray that serves metrics. Saves them when all rows are counted, or after 20 s:
processes send theirs once a second."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A job with rows of three statuses: its metrics by name and tag, its summary, log, table and images."""
    folder = tmp_path_factory.mktemp("seen")
    images = [folder / f"{number}.jpg" for number in range(IMAGES)]
    for number, path in enumerate(images):
        path.write_bytes((PHOTOS / ("mask_white.jpg" if number == 1 else "t1.jpg")).read_bytes())
    images[0].write_bytes(images[0].read_bytes()[:500])
    missing = folder / "missing.jpg"
    (folder / "list.csv").write_text("\n".join(["uri", *map(str, [*images, missing])]))
    given = ["--manifest", folder / "list.csv", "--out", folder / "table", "--summary", folder / "s.json"]
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(free_port()), folder / "metrics", str(IMAGES + 1), *given],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        "metrics": scraped((folder / "metrics").read_text()),
        "summary": json.loads((folder / "s.json").read_text()),
        "log": done.stderr,
        "table": str(folder / "table"),
        "images": images,
    }


def scraped(text: str) -> dict[str, dict[str, float]]:
    """Values of faceq's metrics, by name and the value of their own tag."""
    tags = {metric.name: metric.tag for metric in METRICS}
    found: dict[str, dict[str, float]] = collections.defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removeprefix("ray_")
            if name.startswith("faceq_"):
                found[name][sample.labels.get(tags[name], "")] = sample.value
                found["run_id"][sample.labels["run_id"]] = 1
    return dict(found)


def test_metrics_equal_the_summary_and_the_table(seen):
    metrics, summary = seen["metrics"], seen["summary"]
    counts = collections.Counter(faceq.read_table(seen["table"])["status"].to_pylist())
    assert metrics["faceq_rows_total"] == dict(counts) == {k: v for k, v in summary["statuses"].items() if v}
    assert metrics["faceq_frames_read_total"] == {"": summary["frames"]} == {"": IMAGES + 1}
    assert metrics["faceq_frames_expected"] == {"": summary["rows"]}
    assert metrics["faceq_refused_reads_total"] == {"": 1}
    size = sum(path.stat().st_size for path in seen["images"])
    assert metrics["faceq_read_bytes_total"] == {"": size}
    assert list(metrics["run_id"]) == [summary["run_id"]]
    assert {"unreadable", "scored"} < set(counts)


def test_every_stage_has_passed_every_frame_and_nothing_waits(seen):
    metrics = seen["metrics"]
    assert metrics["faceq_stage_frames_total"] == dict.fromkeys(STAGES, IMAGES + 1)
    assert metrics["faceq_frames_waiting"] == dict.fromkeys(STAGES[1:], 0)
    seconds = metrics["faceq_stage_seconds_total"]
    assert set(seconds) == set(STAGES) and all(0 < each < 300 for each in seconds.values())


def test_every_metric_is_served_but_that_of_events_which_did_not_happen(seen):
    assert {metric.name for metric in METRICS} - set(seen["metrics"]) == {"faceq_retries_total"}


def test_every_line_of_the_log_is_an_object(seen):
    lines = [json.loads(line) for line in seen["log"].splitlines()]
    assert lines and all({"time", "level", "logger", "message"} <= set(line) for line in lines)


def test_the_summary_is_that_of_the_table(seen):
    summary = seen["summary"]
    assert (summary["state"], summary["exit_status"], summary["table"]) == ("done", 0, seen["table"])
    assert summary["rows"] == summary["rows_in_table"] == IMAGES + 1
    (error, _) = summary["errors"]
    assert set(summary["quantiles"]) == {"serfiq", "dbcnn"} and error
    assert Path(seen["table"]).is_dir() and summary["seconds"] > 0
