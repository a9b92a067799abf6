"""A job that is killed: readers never meet half a file, and a rerun neither loses nor doubles a row."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from faceq import config
from faceq.runs import Table
from jobs import demo

FRAMES = 240


def _start(folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "jobs.score", "--config", str(folder / "job.yaml")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, start_new_session=True, **quiet)


def _files(folder: Path) -> list[Path]:
    return list((folder / "table").glob("status=*/[!.]*"))


def test_killed_and_started_again(tmp_path, astronaut):
    face = demo._frame_around(astronaut, [200, 60, 80, 110])
    members = ((f"{i}.jpg", demo._jpeg(demo.degraded(face, "noise", 1 + i % 2, i))) for i in range(FRAMES))
    demo.write_shards(tmp_path / "in", members)
    (tmp_path / "job.yaml").write_text(f"input: {tmp_path}/in\nout: {tmp_path}/table\nrows_per_file: 16\n")

    job = _start(tmp_path)
    deadline = time.monotonic() + 120
    while len(_files(tmp_path)) < 3:
        assert job.poll() is None and time.monotonic() < deadline
        for path in _files(tmp_path):
            pq.read_table(path)  # whatever has its name is whole
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()

    settings = config.load(str(tmp_path / "job.yaml"), {})
    table = Table(settings.out, settings.s3)
    before = table.frame_ids()
    assert 0 < len(before) < FRAMES

    assert _start(tmp_path).wait(200) == 0
    rows = table.rows(["frame_id", "member", "run_id"])
    assert sorted(rows["member"].to_pylist()) == sorted(f"{i}.jpg" for i in range(FRAMES))
    # What the first run had written was kept, not scored again. (Run ids sort by when they started.)
    first = min(rows["run_id"].to_pylist())
    kept = [row["frame_id"] for row in rows.to_pylist() if row["run_id"] == first]
    assert sorted(kept) == before.tolist()
