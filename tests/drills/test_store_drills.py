"""Jobs on Google Cloud Storage and Azure that are killed, or whose requests fail by chance: there is one row
per frame, and all rows are equal to those of an undisturbed job. S3 has `test_kills.py` and
`test_s3_faults_jobs.py`."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stores
from faulty_s3 import Fault
from places import ROOT
from stores import FRAMES, Place

from faceq.storage.settings import S3Settings
from faceq.table.schema import SCHEMA
from faceq.table.store import Table

pytestmark = pytest.mark.timeout(1200)
COLUMNS = [name for name in SCHEMA.names if name not in ("run_id", "frame_id", "source")]


@pytest.fixture(scope="module")
def shards() -> dict[str, bytes]:
    return stores.frames()


@pytest.fixture(scope="module", params=["gcs", "azure"])
def place(request: pytest.FixtureRequest, shards) -> Iterator[Place]:
    make = {"gcs": stores.gcs_place, "azure": stores.azure_place}[request.param]
    found = make(request.getfixturevalue(request.param))
    for name, data in shards.items():
        found.put(f"drill/{name}", data)
    yield found


@pytest.fixture(scope="module")
def expected(shards, tmp_path_factory) -> list[dict[str, Any]]:
    """The rows of a job on disks."""
    folder = tmp_path_factory.mktemp("disk")
    on_disk = stores.disk(folder)
    for name, data in shards.items():
        on_disk.put(f"drill/{name}", data)
    run(f"{folder}/drill", f"{folder}/table", folder)
    return rows_of(f"{folder}/table")


def start(uri: str, out: str, folder: Path) -> "subprocess.Popen[bytes]":
    """A job with its own Ray and small row files."""
    (folder / "job.yaml").write_text(f"input: {uri}\nout: {out}\nrows_per_file: 16\nfiq_threshold: 0\n")
    command = [sys.executable, "-m", "jobs.score", "--config", str(folder / "job.yaml")]
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=dict(os.environ))


def run(uri: str, out: str, folder: Path) -> None:
    process = start(uri, out, folder)
    assert process.wait(900) == 0, (folder / "log").read_text()[-3000:]


def rows_of(out: str) -> list[dict[str, Any]]:
    rows = Table(out, S3Settings()).rows(["frame_id", "source", *COLUMNS]).to_pylist()
    assert len(rows) == len({row.pop("frame_id") for row in rows}) == FRAMES
    for row in rows:
        row["source"] = row["source"].rpartition("/")[2]
    return sorted(rows, key=lambda row: (row["source"], row["member"] or ""))


def test_a_job_that_is_killed_continues_where_it_stopped(place, expected, tmp_path):
    """By SIGKILL, as soon as it has written its first rows, and again a moment later."""
    out = f"{place.uri}/killed"
    table = Table(out, S3Settings())
    for files in (1, 4):
        process = start(f"{place.uri}/drill", out, tmp_path)
        while process.poll() is None and len(table.row_files()) < files:
            time.sleep(0.1)
        assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        process.kill()
        process.wait(60)
    run(f"{place.uri}/drill", out, tmp_path)
    assert rows_of(out) == expected


def a_tenth(seed: int) -> stores.Choose:
    """A tenth of the requests fail."""
    chance, lock = random.Random(seed), threading.Lock()

    def choose(method: str, path: str) -> Fault:
        with lock:
            return chance.choices(("slow_down", "reset", "lost", "truncate", None), (4, 2, 2, 2, 90))[0]

    return choose


def test_a_job_on_a_server_that_fails_every_tenth_request_writes_every_row(place, expected, tmp_path):
    out = f"{place.uri}/faulty"
    with place.faulty(a_tenth(7)) as (_, met):
        run(f"{place.uri}/drill", out, tmp_path)
    assert rows_of(out) == expected
    assert met.total() > 10 and {"slow_down", "reset", "lost"} <= met.keys()
