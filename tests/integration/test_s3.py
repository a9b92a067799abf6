"""Jobs with `s3://` as input and output, on a real S3 server."""

import os
import subprocess
import sys

import boto3
import pyarrow.dataset as pds
import pytest
from here import score_here
from real_s3 import BUCKET

from faceq import config
from faceq.cli import main
from faceq.job import pipeline
from faceq.table.schema import SCHEMA
from faceq.table.store import Table


@pytest.fixture(scope="module")
def uploaded(s3: str, photos) -> str:
    client = boto3.client("s3")
    for name in ("t1.jpg", "mask_blue.jpg", "Tom_Hanks_54745.png"):
        # A key with a space and a percent sign must be recorded unchanged.
        client.upload_file(str(photos / name), BUCKET, f"in/50% of {name}")
    return f"{s3}/in"


def test_the_table_on_s3_equals_the_table_on_disk(local_ray, uploaded, s3, photos, tmp_path):
    settings = config.build({"input": [uploaded], "out": f"{s3}/table", "fiq_threshold": 0})
    summary = pipeline.score(settings)
    assert (summary.run.frames, summary.run.rows) == (3, 3)
    remote = Table(f"{s3}/table", settings.s3).rows(SCHEMA.names).sort_by("source").to_pylist()
    assert remote[0]["source"] == f"{uploaded}/50% of Tom_Hanks_54745.png"

    local = score_here(str(photos), str(tmp_path / "table"), fiq_threshold=0)
    on_disk = Table(local, settings.s3).rows(SCHEMA.names).to_pylist()
    values = {row["source"].split("/")[-1]: row for row in on_disk}
    for row in remote:
        twin = values[row["source"].split("50% of ")[-1]]
        same = set(SCHEMA.names) - {"frame_id", "source", "run_id"}
        assert {k: row[k] for k in same} == {k: twin[k] for k in same}


def test_local_and_remote_pictures_together(light_job, uploaded, photos, tmp_path):
    chosen = config.build({"input": [uploaded, str(photos / "t1.jpg")], "out": str(tmp_path / "table")})
    pipeline.score(chosen)
    rows = Table(chosen.out, chosen.s3).rows(["source", "error"]).to_pylist()
    assert len(rows) == 4
    assert [row for row in rows if row["error"]] == []


def test_a_second_run_finds_everything_done(light_job, uploaded, s3):
    settings = config.build({"input": [uploaded], "out": f"{s3}/twice", "fiq_threshold": 0})
    pipeline.score(settings)
    again = pipeline.score(settings)
    assert (again.run.frames, again.run.already_done) == (0, 3)
    assert Table(settings.out, settings.s3).rows(["frame_id"]).num_rows == 3


def test_a_missing_bucket_is_wrong_usage(s3, tmp_path, capsys):
    assert main.main(["score", "s3://no-such-bucket/in", "--out", str(tmp_path / "t")]) == 2
    assert "s3://no-such-bucket/in" in capsys.readouterr().err


def test_wrong_credentials_have_exit_status_1(s3, uploaded, tmp_path, aws):
    stranger = {**os.environ, "AWS_ACCESS_KEY_ID": "somebody-else"}
    command = [sys.executable, "-m", "jobs.score", uploaded, "--out", str(tmp_path / "t")]
    done = subprocess.run(command, env=stranger, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{uploaded}: cannot be listed: " in done.stderr and "(InvalidAccessKeyId)" in done.stderr
    assert done.stderr.count("\n") == 1
    assert aws["AWS_SECRET_ACCESS_KEY"] not in done.stderr


def test_other_readers_open_the_table(light_job, uploaded, s3):
    settings = config.build({"input": [uploaded], "out": f"{s3}/read", "fiq_threshold": 0})
    pipeline.score(settings)
    table = Table(settings.out, settings.s3)
    rows = pds.dataset(table.path, filesystem=table.arrow_files, partitioning="hive").to_table()
    assert sorted(rows["status"].to_pylist()) == ["no_face", "scored", "scored"]
