"""`jobs/slurm.sbatch` starts Ray nodes, runs the job, and resumes after it was stopped.

Slurm's commands are replaced: `srun` starts each task on this machine. Ray, its nodes and the job are real.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from clusters import write_input
from places import ROOT

import faceq
from faceq.storage.settings import S3Settings
from faceq.table.store import Table

FRAMES = 240

COMMANDS = {
    # Each task in a process group of its own, which gets the signals of the step.
    "srun": """
        set -m
        tasks=1 out=/dev/null
        while [ "${1#--}" != "$1" ]; do
            case $1 in --ntasks=*) tasks=${1#*=} ;; --output=*) out=${1#*=} ;; esac
            shift
        done
        trap 'for job in $(jobs -p); do kill -TERM -- "-$job"; done' TERM
        for _ in $(seq "$tasks"); do SLURM_CPUS_ON_NODE=1 "$@" >> "$out" 2>&1 & done
        while [ -n "$(jobs -pr)" ]; do wait; done
    """,
    "squeue": "echo RUNNING",
    "scontrol": 'echo "$@" >> scontrol.log',
    "hostname": "echo 127.0.0.1",
}


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a batch script in an allocation of two nodes. Ends what is left running in it."""
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    for name, text in COMMANDS.items():
        (fakes / name).write_text(f"#!/bin/bash\n{text}\n")
        (fakes / name).chmod(0o755)
    job = next(job for job in range(os.getpid() % 9_000, 10_000) if is_free(20_000 + job))
    environment = {
        **os.environ,
        "PATH": f"{fakes}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": str(job),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURMD_NODENAME": "n1",
        "FACEQ_DRILL": uuid.uuid4().hex,
    }
    yield environment
    end_steps(environment)


def end_steps(environment: dict[str, str]) -> None:
    """End all processes of a job, as Slurm does when its script has ended."""
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("FACEQ_DRILL") == environment["FACEQ_DRILL"]:
                process.kill()
                left.append(process)
    psutil.wait_procs(left)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def sbatch(environment: dict[str, str], folder: Path, *arguments: object) -> "subprocess.Popen[bytes]":
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(
            ["bash", str(ROOT / "jobs" / "slurm.sbatch"), *map(str, arguments)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )


def ids(folder: Path) -> list[int]:
    return Table(str(folder / "scores"), S3Settings()).rows(["frame_id"])["frame_id"].to_pylist()


@pytest.mark.timeout(900)
def test_a_job_that_reaches_its_time_limit_is_requeued_and_resumes_on_both_nodes(slurm, tmp_path, astronaut):
    shards = write_input(tmp_path / "in", astronaut, FRAMES)
    given = [shards, "--out", "scores", "--set", "rows_per_file=8", "--summary", "s.json"]
    first = sbatch(slurm, tmp_path, *given)
    deadline = time.monotonic() + 300
    while len(list(tmp_path.glob("scores/status=scored/*.parquet"))) < 2:
        assert first.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)  # only the script gets it
    assert first.wait(120) == 143, (tmp_path / "log").read_text()[-3000:]
    assert (tmp_path / "scontrol.log").read_text() == f"requeue {slurm['SLURM_JOB_ID']}\n"
    stopped = json.loads((tmp_path / "s.json").read_text())
    # Unreadable frames of a run that did not finish are tried again.
    kept = len(faceq.read_table(str(tmp_path / "scores"), "status <> 'unreadable'"))
    assert (stopped["state"], stopped["exit_status"], 0 < kept < FRAMES) == ("stopped", 143, True)
    log = tmp_path / f"faceq-{slurm['SLURM_JOB_ID']}-ray.log"
    assert log.read_text().count("Ray runtime started") == 2

    end_steps(slurm)
    assert sbatch(slurm, tmp_path, *given).wait(500) == 0, (tmp_path / "log").read_text()[-3000:]
    done = json.loads((tmp_path / "s.json").read_text())
    assert (done["state"], done["already_done"], done["rows"]) == ("done", kept, FRAMES - kept)
    assert len(ids(tmp_path)) == len(set(ids(tmp_path))) == FRAMES
    assert (tmp_path / "scontrol.log").read_text().count("requeue") == 1


def test_a_job_that_fails_has_its_own_status_and_is_not_requeued(slurm, tmp_path):
    slurm["SLURM_JOB_NUM_NODES"] = "1"
    assert sbatch(slurm, tmp_path, tmp_path / "none", "--out", "scores").wait(200) == 2
    assert "there is no such file" in (tmp_path / "log").read_text()
    assert not (tmp_path / "scontrol.log").exists()


def test_a_job_whose_ray_ends_is_stopped_and_left_to_slurm(slurm, tmp_path, astronaut):
    """As at the beginning of a preemption: only the steps get a signal."""
    slurm["SLURM_JOB_NUM_NODES"] = "1"
    shards = write_input(tmp_path / "in", astronaut, FRAMES)
    job = sbatch(slurm, tmp_path, shards, "--out", "scores")
    deadline = time.monotonic() + 200
    while "reading frames" not in (tmp_path / "log").read_text():
        assert job.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.1)
    (step,) = (each for each in psutil.Process(job.pid).children() if "srun" in " ".join(each.cmdline()))
    step.terminate()
    assert job.wait(200) == 143, (tmp_path / "log").read_text()[-3000:]
    assert "slurm.sbatch: Ray has ended on n1" in (tmp_path / "log").read_text()
    assert not (tmp_path / "scontrol.log").exists()
