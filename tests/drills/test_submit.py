"""`ray job submit` to a cluster that the test starts: the table is the same, and failures give the reason."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from clusters import write_input
from places import ROOT
from ray.cluster_utils import Cluster
from ray.job_submission import JobStatus, JobSubmissionClient
from real_s3 import free_port

from faceq import config
from faceq.job import pipeline
from faceq.table.schema import SCHEMA
from faceq.table.store import Table
from jobs import demo

VALUES = [name for name in SCHEMA.names if name != "run_id"]


@pytest.fixture(scope="module")
def dashboard(aws):
    """The address for job submission."""
    port = free_port()
    # Another Ray on the machine may use the default port of the agent that starts jobs.
    ports = {"dashboard_port": port, "dashboard_agent_listen_port": free_port()}
    head = {"num_cpus": 2, "include_dashboard": True, **ports}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while True:
        try:
            JobSubmissionClient(address).submit_job(entrypoint="true")
            break
        except (ConnectionError, RuntimeError):
            assert time.monotonic() < deadline, "no job could be submitted"
            time.sleep(1)
    yield address
    cluster.shutdown()


def submit(address: str, name: str, settings: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    (folder / "job.yaml").write_text(settings, encoding="utf-8")
    ray_command = str(Path(sys.executable).with_name("ray"))
    command = [ray_command, "job", "submit", "--address", address, "--submission-id", name]
    job = [sys.executable, "-m", "jobs.score", "--config", str(folder / "job.yaml")]
    return subprocess.run(
        [*command, "--working-dir", str(ROOT), "--", *job], capture_output=True, text=True, check=False
    )


def test_a_submitted_job_ends_with_the_same_table(dashboard, local_ray, tmp_path, astronaut):
    shards = write_input(tmp_path / "in", astronaut, 60)
    done = submit(dashboard, "good", f"input: {shards}\nout: {tmp_path}/submitted\n", tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    client = JobSubmissionClient(dashboard)
    assert client.get_job_status("good") == JobStatus.SUCCEEDED
    log = client.get_job_logs("good")
    assert "one for each frame" in log and "frames/s" in log
    settings = config.build({"input": str(shards), "out": str(tmp_path / "here")})
    pipeline.score(settings)
    one, other = (
        Table(out, settings.s3).rows(VALUES).sort_by("frame_id").to_pylist()
        for out in (f"{tmp_path}/submitted", settings.out)
    )
    assert len(one) == 60 and one == other


def test_a_stopped_job_keeps_its_rows_and_can_be_submitted_again(dashboard, tmp_path, astronaut):
    """Ray sends SIGTERM, and SIGKILL three seconds later."""
    shards = write_input(tmp_path / "in", astronaut, 600)
    settings = f"input: {shards}\nout: {tmp_path}/table\nrows_per_file: 8\n"
    (tmp_path / "job.yaml").write_text(settings, encoding="utf-8")
    client = JobSubmissionClient(dashboard)
    entry = f"{sys.executable} -m jobs.score --config {tmp_path}/job.yaml"
    client.submit_job(
        entrypoint=entry, submission_id="stopped", runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}}
    )
    deadline = time.monotonic() + 200
    while len(list(tmp_path.glob("table/status=scored/*.parquet"))) < 2:
        assert time.monotonic() < deadline, client.get_job_logs("stopped")
        time.sleep(0.1)
    client.stop_job("stopped")
    while not client.get_job_status("stopped").is_terminal():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert client.get_job_status("stopped") == JobStatus.STOPPED
    kept = Table(f"{tmp_path}/table", config.Config().s3).count()
    asked = time.monotonic()
    done = submit(dashboard, "again", settings, tmp_path)
    print(f"stopped with {kept} of 600 rows; the next one took {time.monotonic() - asked:.0f} s")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = Table(f"{tmp_path}/table", config.Config().s3).rows(["frame_id"])["frame_id"].to_pylist()
    assert len(rows) == len(set(rows)) == 600 > kept > 0


def test_a_failed_job_has_that_status_and_ends_its_log_with_the_reason(dashboard, tmp_path):
    demo.write_shards(tmp_path / "in", ((f"{i}.jpg", b"<html>403</html>") for i in range(300)))
    done = submit(dashboard, "bad", f"input: {tmp_path}/in\nout: {tmp_path}/table\n", tmp_path)
    assert done.returncode == 1
    client = JobSubmissionClient(dashboard)
    assert client.get_job_status("bad") == JobStatus.FAILED
    last = client.get_job_logs("bad").rstrip().splitlines()[-1]
    assert last.startswith("faceq: stopped: ") and "frames are unreadable" in last


def test_wrong_usage_is_a_failed_job_with_its_reason_last(dashboard, tmp_path):
    submit(dashboard, "wrong", f"input: {tmp_path}/none\nout: {tmp_path}/table\n", tmp_path)
    client = JobSubmissionClient(dashboard)
    assert client.get_job_status("wrong") == JobStatus.FAILED
    last = client.get_job_logs("wrong").rstrip().splitlines()[-1]
    assert last == f"faceq: {tmp_path}/none: there is no such file, folder or bucket"
