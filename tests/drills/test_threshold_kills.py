"""Kills during a run with a lower threshold, and the rows that a kill loses."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from here import score_here

from faceq.storage.settings import S3Settings
from faceq.table.schema import SCHEMA
from faceq.table.store import Table
from jobs import demo

pytestmark = pytest.mark.timeout(3600)
VALUES = [name for name in SCHEMA.names if name != "run_id"]

_LOGS_EACH_SECOND = """
import sys
import faceq.job.progress
from faceq.cli import main
faceq.job.progress.EVERY_S = 1
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def count(full) -> int:
    """Number of frames of a job."""
    return 500 if full else 200


@pytest.fixture(scope="module")
def shards(count, tmp_path_factory) -> Path:
    """The demo's frames, each two or three times."""
    folder = tmp_path_factory.mktemp("drill") / "in"
    frames = list(demo.frames(demo.source_faces()))
    members = ((f"{i:03}-{frames[i % len(frames)][0]}", frames[i % len(frames)][1]) for i in range(count))
    demo.write_shards(folder, members)
    return folder


class Job:
    def __init__(self, shards: Path, out: Path, threshold: float):
        (out.parent / "job.yaml").write_text("num_cpus: 2\n")
        self.log = out.parent / "log"
        said = ["score", str(shards), "--out", str(out), "--config", str(out.parent / "job.yaml")]
        command = [sys.executable, "-c", _LOGS_EACH_SECOND, *said, "--fiq-threshold", str(threshold)]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def finished(self) -> int:
        return self._last(r"([\d,]+) of (?:at least )?[\d,]+ frames finished")

    def written(self) -> int:
        return self._last(r"([\d,]+) rows written, safe to stop")

    def _last(self, pattern: str) -> int:
        found = re.findall(pattern, self.log.read_text(errors="replace"))
        return int(found[-1].replace(",", "")) if found else 0

    def kill(self) -> None:
        below = psutil.Process(self.process.pid).children(recursive=True)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        psutil.wait_procs(below, timeout=60)

    def end(self) -> None:
        assert self.process.wait(1800) == 0, self.log.read_text(errors="replace")[-3000:]


def test_a_kill_loses_only_rows_that_wait_to_be_written(shards, tmp_path, full):
    """A kill loses only finished rows that wait to be written. Written rows are kept."""
    chance = random.Random(5)
    for kill in range(4 if full else 1):
        out = tmp_path / f"{kill}" / "table"
        out.parent.mkdir()
        job = Job(shards, out, 0)
        while not job.finished():
            assert job.process.poll() is None, job.log.read_text(errors="replace")
            time.sleep(0.2)
        started, wait = time.monotonic(), chance.uniform(5, 60 if full else 10)
        while job.process.poll() is None and time.monotonic() - started < wait:
            time.sleep(0.2)
        if job.process.poll() is not None:
            continue
        finished, written = job.finished(), job.written()
        rate = finished / (time.monotonic() - started)
        job.kill()
        kept = Table(str(out), S3Settings()).count()
        print(f"killed with {finished} frames finished, at {rate:.1f}/s, {written} written: {kept} kept")
        assert finished - kept <= 250 and written <= kept


def test_a_job_that_lowers_the_threshold_is_killed_at_random_moments(shards, count, tmp_path, full):
    chance = random.Random(6)
    table = Table(str(tmp_path / "table"), S3Settings())
    Job(shards, tmp_path / "table", 0.99).end()
    assert table.count() == count
    kills = 0
    for _ in range(6 if full else 2):
        job = Job(shards, tmp_path / "table", 0.3)
        while job.process.poll() is None and not job.finished():
            time.sleep(0.2)
        time.sleep(chance.uniform(0, 40 if full else 3))
        if job.process.poll() is not None:
            break
        job.kill()
        kills += 1
        ids = table.rows(["frame_id"])["frame_id"]
        print(f"kill {kills}: {len(ids)} rows of {len(ids.unique())} frames")
        assert len(ids.unique()) == count
    Job(shards, tmp_path / "table", 0.3).end()
    assert kills
    rows = table.rows(VALUES).sort_by("frame_id").to_pylist()
    fresh = Table(score_here(str(shards), str(tmp_path / "fresh"), fiq_threshold=0.3), S3Settings())
    assert rows == fresh.rows(VALUES).sort_by("frame_id").to_pylist()
