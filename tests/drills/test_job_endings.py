"""How jobs in their own processes end: by signals, and with no reader for their output."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from here import many_small_tars, small_scored_input
from job_process import Job

from faceq import config
from faceq.errors import JobError
from faceq.job import pipeline
from faceq.storage.settings import S3Settings
from faceq.table import lock
from faceq.table.runs import Run
from faceq.table.store import Table

FRAMES = 600


@pytest.fixture(scope="module")
def shards(tmp_path_factory, astronaut) -> Path:
    return many_small_tars(tmp_path_factory.mktemp("ending") / "in", astronaut, FRAMES)


@pytest.fixture(scope="module")
def scored(tmp_path_factory, astronaut) -> tuple[str, str]:
    return small_scored_input(tmp_path_factory.mktemp("scored"), astronaut)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        # One signal; a second one during the cleanup; repeated signals by an impatient user.
        ([signal.SIGHUP], 129),
        ([signal.SIGTERM, signal.SIGTERM], 143),
        ([signal.SIGINT, signal.SIGINT, signal.SIGINT], 130),
    ],
)
def test_a_signal_keeps_written_rows_and_unlocks_the_table(shards, tmp_path, sent, status):
    job = Job(shards, tmp_path)
    job.until(lambda: len(job.files()) >= 2)
    time.sleep(1)  # until the tasks that have just written have reported their rows
    for number in sent:
        job.process.send_signal(number)
        time.sleep(0.3)
    assert job.process.wait(60) == status, job.said()
    name = "Ctrl-C" if status == 130 else sent[0].name
    last = job.said().strip().splitlines()[-1]
    table = Table(job.settings.out, job.settings.s3)
    rows = f"{table.count():,} rows written; "
    assert last == f"faceq: stopped by {name}: {rows}run the same command again to continue"
    (record,) = table.runs()
    assert record["state"] == "ended" and record["finished"] is None
    assert not list(Path(table.path, "_faceq").glob("heartbeat*"))
    assert 0 < table.count() < FRAMES
    with lock.exclusive(table, Run("20261123T170000Z-00000000", "0", [], {}, {}, "", owner=lock.owner())):
        pass  # the table is unlocked


@pytest.mark.parametrize("streams", ["2>&1 | head -1", ">&- 2>&-", ">/dev/full 2>&1"])
def test_a_job_continues_if_nobody_reads_its_output(scored, tmp_path, streams):
    source, table = scored
    there = shutil.copytree(table, tmp_path / "table")
    job = f"{sys.executable} -m faceq score {source} --out {there} --overwrite"
    written, _, read = streams.partition(" | ")
    command = f"({job} {written}; echo $? >{tmp_path}/status)" + (f" 2>&1 | {read}" if read else "")
    subprocess.run(["bash", "-c", command], check=False, capture_output=True)
    assert (tmp_path / "status").read_text().strip() == "0"
    (record,) = Table(str(there), S3Settings()).runs()
    assert record["finished"] and record["run_id"] != Table(table, S3Settings()).record()["run_id"]
    assert Table(str(there), S3Settings()).count() == 3


def test_a_job_that_has_lost_the_table_stops(local_ray, shards, tmp_path, monkeypatch):
    """It stops while it runs, not at its end, even if a program runs it in a thread."""
    monkeypatch.setattr(lock, "BEAT_S", 1)
    chosen = config.build({"input": [str(shards)], "out": str(tmp_path / "table"), "rows_per_file": 16})
    table = Table(chosen.out, chosen.s3)
    failed: list[BaseException] = []

    def job() -> None:
        try:
            pipeline.score(chosen)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=job)
    thread.start()
    while len(table.row_files()) < 2 and thread.is_alive():
        time.sleep(0.1)
    other = Run("20261123T170000Z-00000000", "0", [], {}, {}, "", state="running", owner=lock.owner())
    table.save(other)
    thread.join()
    assert isinstance(failed[0], JobError) and f"{other.run_id} took over this table" in str(failed[0])
    assert 0 < table.count() < FRAMES
    (mine,) = [run for run in table.runs() if run["run_id"] != other.run_id]
    assert mine["state"] == "ended" and mine["finished"] is None
