"""How commands end: by signals, and with no reader for their output."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from here import many_small_tars, small_scored_input

from faceq import config
from faceq.cli import main
from faceq.errors import JobError
from faceq.job import pipeline
from faceq.storage.settings import S3Settings
from faceq.table import lock
from faceq.table.runs import Run
from faceq.table.store import Table

FRAMES = 240


@pytest.fixture(scope="module")
def shards(tmp_path_factory, astronaut) -> Path:
    return many_small_tars(tmp_path_factory.mktemp("ending") / "in", astronaut, FRAMES)


@pytest.fixture(scope="module")
def scored(tmp_path_factory, astronaut) -> tuple[str, str]:
    return small_scored_input(tmp_path_factory.mktemp("scored"), astronaut)


def rows_in(table: str) -> int:
    return Table(table, S3Settings()).count()


def test_a_command_that_ignores_sighup_keeps_ignoring_it(tmp_path):
    """`nohup` starts commands like this. The handlers of a program that calls a command are restored."""
    code = (
        "import os, signal, sys\n"
        "from faceq.cli import main, plan\n"
        "signal.signal(signal.SIGTERM, handler := lambda *_: None)\n"
        "text = plan.capacity.text\n"
        "plan.capacity.text = lambda *given: (os.kill(os.getpid(), signal.SIGHUP), text(*given))[1]\n"
        "status = main.main(['plan', '--frames', '1000', '--gpu', 'g5'])\n"
        "assert signal.getsignal(signal.SIGTERM) is handler\n"
        "sys.exit(status)\n"
    )
    ignoring = f"trap '' HUP; exec {sys.executable} -c \"$0\""
    done = subprocess.run(["bash", "-c", ignoring, code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "g5" in done.stdout, done.stderr


@pytest.mark.parametrize("command", ["plan --frames 9 --gpu g5", "--help", "models list"])
def test_a_command_that_only_prints_ends_with_its_reader(command):
    line = f"{sys.executable} -m faceq {command} | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_is_deleted_for_a_job_whose_models_cannot_be_fetched(scored, model_dir, monkeypatch):
    source, table = scored
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    asked = ["score", source, "--out", table, "--preset", "insightface", "--accept-licence"]
    assert main.main([*asked, "--overwrite"]) == 1
    assert rows_in(table) == 3 and len(Table(table, S3Settings()).runs()) == 1


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
