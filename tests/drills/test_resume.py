"""Jobs that are killed as a whole or in part: readers never see a partial file, and no row is lost or
duplicated."""

import contextlib
import io
import os
import random
import signal
import tarfile
import time
from collections import Counter
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from job_process import VALUES, Job, title

from faceq import config
from faceq.job import pipeline
from faceq.table.store import Table
from jobs import demo

FRAMES = 240


@pytest.fixture(scope="module")
def shards(tmp_path_factory, astronaut) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "in"
    face = demo._frame_around(astronaut, [200, 60, 80, 110])
    spoiled = ((f"{i}.jpg", demo._jpeg(demo.degraded(face, "noise", 1 + i % 2, i))) for i in range(FRAMES))
    # Some frames are unreadable: their rows must survive too.
    members = ((name, data if i % 17 else data[:2000]) for i, (name, data) in enumerate(spoiled))
    demo.write_shards(folder, members)
    return folder


@pytest.fixture(scope="module")
def undisturbed(shards, local_ray, tmp_path_factory) -> list[dict]:
    """The rows of an undisturbed run, by source."""
    out = str(tmp_path_factory.mktemp("undisturbed") / "table")
    chosen = config.build({"input": [str(shards)], "out": out})
    pipeline.score(chosen)
    return Table(out, chosen.s3).rows(VALUES).sort_by("frame_id").to_pylist()


def test_a_job_killed_as_a_whole_resumes(shards, undisturbed, tmp_path):
    job = Job(shards, tmp_path)
    job.until(lambda: len(job.files()) >= 3)
    below = psutil.Process(job.process.pid).children(recursive=True)
    os.killpg(job.process.pid, signal.SIGKILL)
    job.process.wait()
    psutil.wait_procs(below, timeout=60)  # Ray's workers have their own process groups and may still write
    table = Table(job.settings.out, job.settings.s3)
    before = {
        row["frame_id"]
        for row in table.rows(["frame_id", "status"]).to_pylist()
        if row["status"] != "unreadable"  # these are retried, because the storage may have been the cause
    }
    assert 0 < len(before) < FRAMES
    Job(shards, tmp_path).end()
    assert job.rows() == undisturbed
    # The rows of the first run were kept, not scored again. (Run ids sort by start time.)
    rows = table.rows(["frame_id", "run_id"]).to_pylist()
    first = min(row["run_id"] for row in rows)
    assert {row["frame_id"] for row in rows if row["run_id"] == first} == before


def test_a_new_job_starts_at_once_after_only_the_driver_was_killed(shards, undisturbed, tmp_path):
    """The last workers of the first job may still write while the second job starts."""
    job = Job(shards, tmp_path)
    job.until(lambda: len(job.files()) >= 2)
    job.process.kill()
    job.process.wait()
    Job(shards, tmp_path).end()
    assert job.rows() == undisturbed


def test_a_reader_of_s3_never_sees_a_partial_file(s3, shards, undisturbed, tmp_path):
    """The reader reads the whole table in a loop while the job runs, is killed, and runs again."""
    out = f"{s3}/read-while-written"
    job = Job(shards, tmp_path, out=out)
    table, read = Table(out, job.settings.s3), 0
    kills = 0
    while job.process.poll() is None:
        for path in table.row_files():
            with contextlib.suppress(FileNotFoundError):  # a file with unreadable rows that are retried
                pq.read_table(path, filesystem=table.arrow_files, partitioning=None)
                read += 1
        time.sleep(0.1)  # leave CPU time to the job
        if not kills and read > 20:
            os.killpg(job.process.pid, signal.SIGKILL)
            job.process.wait()
            kills += 1
            job = Job(shards, tmp_path, out=out)
    job.end()
    assert kills == 1 and read > 40
    assert job.rows() == undisturbed


def test_a_job_survives_the_death_of_worker_processes(shards, undisturbed, tmp_path):
    job = Job(shards, tmp_path)
    chance = random.Random(1)
    killed = []
    for count in (1, 3, 5):
        job.until(lambda count=count: len(job.files()) >= count and job.workers())
        victim = chance.choice(job.workers())
        killed.append(title(victim))
        victim.kill()
    job.end()
    assert job.rows() == undisturbed, killed


def test_an_image_that_kills_the_decoder_is_a_row(tmp_path, astronaut):
    """Simulates a native crash: a process that opens this image gets SIGKILL."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, PIL.Image\n"
        "opened = PIL.Image.open\n"
        "def open(file, *arguments, **options):\n"
        "    if hasattr(file, 'getvalue') and file.getvalue().endswith(b'crash'):\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return opened(file, *arguments, **options)\n"
        "PIL.Image.open = open\n"
    )
    good = demo._jpeg(astronaut)
    names = [f"{i:02}.jpg" for i in range(12)]
    killers = {"00.jpg", "03.jpg", "04.jpg", "08.jpg", "11.jpg"}
    demo.write_shards(tmp_path / "in", ((n, good + (b"crash" if n in killers else b"")) for n in names))
    job = Job(tmp_path / "in", tmp_path, {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}"})
    job.end()
    rows = {row["member"]: row for row in job.rows()}
    assert sorted(rows) == names
    assert {name for name, row in rows.items() if row["status"] == "unreadable"} == killers
    assert all("ended the worker process" in rows[name]["error"] for name in killers)
    assert all(rows[name]["status"] == "scored" for name in set(names) - killers)


KILLS_READERS = """
import os, tarfile

opened, parsed = os.open, tarfile.TarInfo.frombuf.__func__

def open(path, *arguments, **options):
    if isinstance(path, str) and os.path.basename(path).startswith("killer"):
        os.kill(os.getpid(), 9)
    return opened(path, *arguments, **options)

def frombuf(cls, header, *arguments):
    if header.startswith(b"killer"):
        os.kill(os.getpid(), 9)
    return parsed(cls, header, *arguments)

os.open = open
tarfile.TarInfo.frombuf = classmethod(frombuf)
"""
"""Simulates a crash of a reader, and the kill of a process that uses too much memory."""


def test_a_frame_that_kills_its_reader_is_a_row(tmp_path, astronaut):
    """The frame is at the start, in the middle of a batch, or after several batches. No frame before it is
    lost or duplicated, and the other shards are read."""
    (tmp_path / "sitecustomize.py").write_text(KILLS_READERS)
    shards = tmp_path / "in"
    shards.mkdir()
    # So large that several blocks of a tar are emitted before the process dies.
    good = demo._jpeg(astronaut[60:188, 160:288]) + bytes(500_000)
    expected: Counter[tuple[str, str | None, int]] = Counter()
    for name, count, place in (("a", 90, 70), ("b", 20, 0), ("c", 40, None), ("d", 32, 32)):
        path = shards / f"{name}.tar"
        with tarfile.open(path, "w") as tar:
            for index in range(count + (place == count)):
                killer = index == place
                info = tarfile.TarInfo(f"{'killer' if killer else ''}{index:02}.jpg")
                info.size = len(good)
                tar.addfile(info, io.BytesIO(good))
                if place is None or index < place:
                    expected[str(path), info.name, 0] += 1
        if place is not None:
            expected[str(path), None, -1] += 1
    for index in range(40):
        path = shards / f"{'killer' if index in (0, 17, 18, 39) else ''}{index:02}.jpg"
        path.write_bytes(good)
        expected[str(path), None, 0] += 1
    job = Job(shards, tmp_path, {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}"})
    job.end()
    rows = job.rows()
    assert Counter((row["source"], row["member"], row["frame_index"]) for row in rows) == expected
    killed = [row for row in rows if row["status"] == "unreadable"]
    assert len(killed) == 3 + 4
    for row in killed:
        assert "reading it ended the worker process" in row["error"]
        assert ("the rest is not read" in row["error"]) == (row["frame_index"] == -1)
