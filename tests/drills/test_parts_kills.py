"""Jobs that read a tar in parts and are killed: the rows are those of an undisturbed job without parts."""

import os
import random
import signal
import tarfile
import time
from pathlib import Path

import psutil
import pytest
from job_process import Job, title

from jobs import demo

pytestmark = pytest.mark.timeout(1200)

FRAMES = 300
SMALL_PARTS = "from faceq.sources import parts; parts.PART_BYTES['tar'] = 128 << 10"


@pytest.fixture(scope="module")
def shards(tmp_path_factory, astronaut) -> Path:
    """A tar that is cut off, with sidecars and damaged frames."""
    folder = tmp_path_factory.mktemp("parts") / "in"
    face = demo._frame_around(astronaut, [200, 60, 80, 110])
    noisy = (demo._jpeg(demo.degraded(face, "noise", 1 + i % 2, i)) for i in range(FRAMES))
    members = ((f"{i:03}.jpg", data if i % 17 else data[:2000]) for i, data in enumerate(noisy))
    demo.write_shards(folder, members, each=FRAMES)
    (path,) = folder.glob("*.tar")
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    os.truncate(path, last.offset_data + 1000)
    return folder


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory) -> list[dict]:
    job = Job(shards, tmp_path_factory.mktemp("undisturbed"))
    job.end()
    rows = job.rows()
    assert len(rows) == FRAMES and len({row["frame_id"] for row in rows}) == FRAMES
    return rows


def test_killed_as_a_whole_and_continued_with_and_without_parts(shards, undisturbed, tmp_path):
    for number, first in enumerate([SMALL_PARTS, "", SMALL_PARTS]):
        job = Job(shards, tmp_path, first=first)
        while len(job.files()) < 3 * (number + 1):
            assert job.process.poll() is None, job.said()
            time.sleep(0.1)
        below = psutil.Process(job.process.pid).children(recursive=True)
        os.killpg(job.process.pid, signal.SIGKILL)
        job.process.wait()
        psutil.wait_procs(below, timeout=60)
    last = Job(shards, tmp_path, first=SMALL_PARTS)
    last.end()
    assert "indexing a large file" in last.said() and last.rows() == undisturbed


def test_workers_killed(shards, undisturbed, tmp_path):
    chance = random.Random(5)
    job = Job(shards, tmp_path, first=SMALL_PARTS)
    killed = []
    while job.process.poll() is None:
        time.sleep(0.1)
        workers = job.workers() if job.process.poll() is None else []
        busy = [worker for worker in workers if "IDLE" not in title(worker)]
        if busy and len(killed) < 6:
            reading = [worker for worker in busy if "Read" in title(worker)]
            victim = chance.choice(reading or busy)
            killed.append(title(victim).strip())
            victim.kill()
            time.sleep(chance.uniform(2, 6))
    print("killed:", killed)
    assert len(killed) >= 3
    assert job.process.returncode == 0, job.said()
    assert job.rows() == undisturbed
