"""An S3 server that answers SlowDown, resets connections, truncates bodies and is slow: whole jobs, and more
seeds than in `tests/integration/test_s3_faults.py`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faulty_s3 import by_chance, check_listing, check_reading, check_writing, proxy, read, upload
from places import ROOT

from faceq.storage.settings import S3Settings
from faceq.table.schema import SCHEMA
from faceq.table.store import Table

EVERY_KIND = 114
"""With this seed, `by_chance` draws 13 faults for the first 70 requests: every kind at least once, and two
truncated bodies. A job makes more requests than that: it reads 63 objects."""


@pytest.fixture(autouse=True)
def as_shipped(monkeypatch):
    """Use faceq's own retry settings instead of those of the other tests."""
    monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)


@pytest.fixture(scope="module")
def uploaded(s3) -> str:
    return upload()


@pytest.mark.parametrize("seed", range(2, 10))
def test_frames_listings_and_tables_are_the_same_despite_faults(seed, uploaded, s3, monkeypatch):
    undisturbed = read(uploaded, S3Settings())
    assert len(undisturbed) == 150 and all(frame.error is None for frame in undisturbed)
    check_reading(seed, uploaded, undisturbed)
    check_writing(seed, s3)
    check_listing(seed, uploaded, monkeypatch)


@pytest.fixture(scope="module")
def expected(uploaded, s3, tmp_path_factory) -> list[dict]:
    """The rows of a job without faults."""
    return score(uploaded, f"{s3}/faults/table", tmp_path_factory.mktemp("undisturbed"), S3Settings())


def score(uri: str, out: str, folder: Path, s3: S3Settings) -> list[dict]:
    """The rows of a job with its own Ray. None of them is unreadable."""
    command = [sys.executable, "-m", "jobs.score", uri, "--out", out, "--fiq-threshold", "0"]
    environment = {key: value for key, value in os.environ.items() if key != "AWS_MAX_ATTEMPTS"}
    if s3.endpoint_url:
        environment["AWS_ENDPOINT_URL"] = s3.endpoint_url
    with open(folder / "job.log", "wb") as log:
        done = subprocess.run(
            command, env=environment, stdout=log, stderr=log, cwd=ROOT, timeout=280, check=False
        )
    assert done.returncode == 0, (folder / "job.log").read_text()[-3000:]
    columns = [name for name in SCHEMA.names if name != "run_id"]
    rows = Table(out, S3Settings()).rows(columns).sort_by("frame_id").to_pylist()
    assert len(rows) == len({row["frame_id"] for row in rows}) == 150
    assert [row["error"] for row in rows if row["error"]] == []
    return rows


def test_a_job_through_the_proxy_equals_one_without(uploaded, expected, s3, tmp_path):
    with proxy(by_chance(EVERY_KIND)) as (settings, met):
        assert score(uploaded, f"{s3}/faults/table-faulty", tmp_path, settings) == expected
    assert met.total() > 10
    # Without `truncate`, because it may hit responses that have no body.
    assert {"slow_down", "reset", "lost", "delay"} <= met.keys()


@pytest.mark.full
@pytest.mark.parametrize("seed", range(10))
def test_a_job_under_more_seeds(seed, uploaded, expected, s3, tmp_path):
    with proxy(by_chance(seed)) as (settings, _):
        assert score(uploaded, f"{s3}/faults/table-{seed}", tmp_path, settings) == expected
