"""Jobs that are killed at random moments. `test_resume.py` has short versions of some of these drills.

With `--full`, a job has 2,000 frames. The driver is killed at five random moments and restarted each time. It
gets SIGTERM at twenty moments. Worker processes are killed while a job runs, and one of three nodes is lost.
Meanwhile, a reader opens the table in a loop. Another drill has a million single images: it measures when the
first one is finished and how much memory the driver uses.
"""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from job_process import VALUES, Job, title
from PIL import Image
from ray.cluster_utils import Cluster

from faceq import config
from faceq.job import pipeline
from faceq.table.store import Table
from jobs import demo

pytestmark = pytest.mark.timeout(3600)
KILLS = 5


@pytest.fixture(scope="module")
def count(full) -> int:
    """Number of frames of a job."""
    return 2000 if full else 500


@pytest.fixture(scope="module")
def shards(count, tmp_path_factory, astronaut) -> Path:
    """Small frames of 112 pixels, each slightly different. Every 17th frame is damaged."""
    folder = tmp_path_factory.mktemp("drill") / "in"
    face = Image.fromarray(demo._frame_around(astronaut, [200, 60, 80, 110])).resize((160, 160))
    chance = np.random.default_rng(0)

    def members():
        for index in range(count):
            noise = chance.integers(-20, 20, (160, 160, 3))
            data = demo._jpeg(np.clip(np.asarray(face).astype(int) + noise, 0, 255).astype(np.uint8))
            yield f"{index:05}.jpg", data if index % 17 else data[:1000]

    demo.write_shards(folder, members())
    return folder


class Reader(threading.Thread):
    """Reads the whole table in a loop and records errors."""

    def __init__(self, table: Table):
        super().__init__(daemon=True)
        self.table, self.stop = table, threading.Event()
        self.read, self.errors = 0, []

    def run(self) -> None:
        while not self.stop.wait(0.2):
            try:
                for path in self.table.row_files():
                    pq.read_table(path)
                self.read += 1
            except FileNotFoundError:
                pass  # a file with rows of unreadable frames that are retried
            except Exception as error:
                self.errors.append(error)

    def end(self) -> None:
        self.stop.set()
        self.join()
        print(f"reader: read the whole table {self.read:,} times")
        assert self.read > 0 and not self.errors


@pytest.fixture(scope="module")
def undisturbed(shards, count, tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    job = Job(shards, folder)
    job.process.wait()
    print(f"undisturbed: {time.monotonic() - started:.0f} s")
    rows = job.rows()
    assert len(rows) == count
    return rows


def _until_it_writes(job: Job) -> None:
    """Wait until a job that just started has written a file or has ended."""
    before = len(job.files())
    while len(job.files()) <= before and job.process.poll() is None:
        time.sleep(0.1)


@pytest.mark.full
@pytest.mark.parametrize("whole", [False, True], ids=["driver alone", "all of it"])
def test_killed_at_random_moments(shards, undisturbed, tmp_path, whole):
    chance = random.Random(7 + whole)
    reader, killed = None, 0
    for _ in range(KILLS):
        job = Job(shards, tmp_path)
        if reader is None:
            reader = Reader(Table(job.settings.out, job.settings.s3))
            reader.start()
        # Kill shortly after this attempt started to write. Before, there is little to lose.
        _until_it_writes(job)
        time.sleep(chance.uniform(0, 20))
        if job.process.poll() is not None:
            break  # every frame has its row
        (os.killpg if whole else os.kill)(job.process.pid, signal.SIGKILL)
        job.process.wait()
        killed += 1
        print(f"kill {killed}: {len(job.files())} files")
    assert killed >= 3
    last = Job(shards, tmp_path)
    assert last.process.wait() == 0, last.said()
    reader.end()
    assert last.rows() == undisturbed


def test_terminated_at_random_moments(shards, undisturbed, tmp_path, full):
    """Every other signal arrives while Python and Ray start, the others while rows are written."""
    chance = random.Random(11)
    reader = None
    for term in range(20 if full else 4):
        job = Job(shards, tmp_path)
        if reader is None:
            reader = Reader(Table(job.settings.out, job.settings.s3))
            reader.start()
        if term % 2:
            _until_it_writes(job)
            time.sleep(chance.uniform(0, 8 if full else 2))
        else:
            time.sleep(chance.uniform(0, 25 if full else 12))
        if job.process.poll() is not None:
            assert job.process.returncode == 0, job.said()
            break  # every frame has its row
        job.process.terminate()
        asked = time.monotonic()
        status = job.process.wait(120)
        # Before faceq's first line runs, the signal itself ends the process, which a shell reports as 143.
        assert (status if status >= 0 else 128 - status) == 143, job.said()
        states = [run["state"] for run in reader.table.runs()] if Path(job.settings.out).exists() else []
        assert set(states) <= {"ended"}
        print(f"term {term + 1}: {len(job.files())} files, ended in {time.monotonic() - asked:.1f} s")
    last = Job(shards, tmp_path)
    assert last.process.wait() == 0, last.said()
    reader.end()
    assert last.rows() == undisturbed


@pytest.mark.full
def test_workers_killed(shards, undisturbed, tmp_path):
    chance = random.Random(3)
    job = Job(shards, tmp_path)
    killed = []
    while job.process.poll() is None:
        time.sleep(chance.uniform(6, 12))
        workers = job.workers() if job.process.poll() is None else []
        if workers and len(killed) < 10:
            victim = chance.choice(workers)
            killed.append(title(victim))
            victim.kill()
    print("killed:", killed)
    assert len(killed) >= 5
    assert job.process.returncode == 0, job.said()
    assert job.rows() == undisturbed


@pytest.mark.alone  # it connects this process to a Ray of its own
def test_a_node_is_lost(shards, undisturbed, tmp_path):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    ray.init(address=cluster.address)
    try:
        out = str(tmp_path / "table")
        chosen = config.build({"input": [str(shards)], "out": out, "rows_per_file": 16})
        table = Table(out, chosen.s3)

        def lose() -> None:
            while not Path(out).exists() or len(table.row_files()) < 3:
                time.sleep(0.3)
            cluster.remove_node(nodes[0], allow_graceful=False)
            print("a node is gone")

        loss = threading.Thread(target=lose)
        loss.start()
        pipeline.score(chosen)
        loss.join()
        assert table.rows(VALUES).sort_by("frame_id").to_pylist() == undisturbed
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_million_images_start_within_a_minute_and_two_gigabytes(tmp_path, astronaut, full):
    """All of them are one image, under a thousand names in a folder that has a thousand names."""
    (tmp_path / "0").mkdir()
    (tmp_path / "face.jpg").write_bytes(demo._jpeg(demo._frame_around(astronaut, [200, 60, 80, 110])))
    for index in range(1000):
        (tmp_path / "0" / f"{index:03}.jpg").symlink_to(tmp_path / "face.jpg")
        if index:
            (tmp_path / f"{index}").symlink_to(tmp_path / "0")
    places = [f"{folder}/{index:03}.jpg" for folder in range(1000) for index in range(1000)]
    pq.write_table(pa.table({"uri": places}), tmp_path / "frames.parquet")
    (tmp_path / "job.yaml").write_text(f"manifest: {tmp_path}/frames.parquet\nout: {tmp_path}/table\n")
    started, memory, first = time.monotonic(), 0, None
    with open(tmp_path / "log", "wb") as log:
        command = [sys.executable, "-m", "jobs.score", "--config", str(tmp_path / "job.yaml")]
        job = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        while job.poll() is None and time.monotonic() - started < 180 and (full or first is None):
            memory = max(memory, psutil.Process(job.pid).memory_info().rss)
            if first is None and re.search(
                r"[1-9][\d,]* of (?:at least )?[\d,]+ frames finished", (tmp_path / "log").read_text()
            ):
                first = time.monotonic() - started
            time.sleep(0.5)
        assert job.poll() is None, (tmp_path / "log").read_text()[-3000:]
    finally:
        os.killpg(job.pid, signal.SIGKILL)
    print(f"first frames finished after {first:.0f} s at most, driver {memory / 1e6:.0f} MB")
    assert first < 60 + 10  # the log has a line every ten seconds
    assert memory < 2e9
