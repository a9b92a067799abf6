"""Jobs whose processes die repeatedly, or whose machine lacks resources.

The cases: workers killed as soon as they start (by SIGSEGV in the read stage, actors while they load), a full
temporary folder, a full /dev/shm, and a control group with little memory. Each job ends by itself, with every
row, or with exit status 1 and a reason. It can be resumed afterwards.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from job_process import Job, title

from jobs import demo

pytestmark = pytest.mark.timeout(3600)
FRAMES = 120


@pytest.fixture(scope="module")
def shards(tmp_path_factory, astronaut) -> Path:
    folder = tmp_path_factory.mktemp("bounds") / "in"
    face = demo._frame_around(astronaut, [200, 60, 80, 110])
    members = ((f"{i}.jpg", demo._jpeg(demo.degraded(face, "noise", 1 + i % 2, i))) for i in range(FRAMES))
    demo.write_shards(folder, members)
    return folder


class Killer(threading.Thread):
    """Sends a signal once to every worker of a job whose process title contains a word, as soon as it has
    this title. A second signal would interrupt Ray's handler, which reports a crash and then ends the
    process."""

    def __init__(self, job: Job, word: str, number: signal.Signals):
        super().__init__(daemon=True)
        self.job, self.word, self.number = job, word, number
        self.killed: set[int] = set()

    def run(self) -> None:
        while self.job.process.poll() is None:
            try:
                below = psutil.Process(self.job.process.pid).children(recursive=True)
            except psutil.Error:
                return
            for process in below:
                name = title(process)
                if name.startswith("ray::") and self.word in name and process.pid not in self.killed:
                    try:
                        process.send_signal(self.number)
                        self.killed.add(process.pid)
                    except psutil.Error:
                        pass
            time.sleep(0.02)  # a task that writes a small file takes a tenth of a second


@pytest.mark.parametrize(
    ("word", "number", "reason", "most"),
    [
        ("ReadFrameSource", signal.SIGSEGV, "its worker processes died repeatedly", 600),
        pytest.param(
            "result_rows",
            signal.SIGSEGV,
            "its worker processes died repeatedly",
            600,
            marks=pytest.mark.full,
        ),
        # Ray restarts an actor without limit.
        pytest.param(
            "AllStages",
            signal.SIGKILL,
            "no progress for 10 minutes while worker processes died",
            1500,
            marks=pytest.mark.full,
        ),
    ],
)
def test_workers_that_die_at_every_start(shards, tmp_path, word, number, reason, most):
    job = Job(shards, tmp_path)
    killer = Killer(job, word, number)
    killer.start()
    started = time.monotonic()
    status = job.process.wait(most)
    print(
        f"{word}: exit status {status} after {time.monotonic() - started:.0f} s, {len(killer.killed)} killed"
    )
    last = job.said().strip().splitlines()[-1]
    assert status == 1 and reason in last and "the last one process" in last, job.said()
    again = Job(shards, tmp_path)
    again.process.wait(600)
    assert again.process.returncode == 0 and len(again.rows()) == FRAMES


def _in_a_namespace(tmp_path: Path, mounts: str, shards: Path, **environment: str) -> tuple[int, str, float]:
    """Run a job in its own mount namespace. Returns exit status, output, and seconds."""
    if os.geteuid():
        pytest.skip("needs root, to mount")
    command = f"{sys.executable} -m faceq score {shards} --out {tmp_path}/table"
    started = time.monotonic()
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", f"{mounts} && exec {command}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        timeout=600,
    )
    return done.returncode, done.stdout + done.stderr, time.monotonic() - started


def test_a_full_temporary_folder(shards, tmp_path):
    (tmp_path / "full").mkdir()
    mounts = f"mount -t tmpfs -o size=120k none {tmp_path}/full"
    status, said, seconds = _in_a_namespace(tmp_path, mounts, shards, RAY_TMPDIR=str(tmp_path / "full"))
    print(f"full temporary folder: exit status {status} after {seconds:.0f} s")
    assert status == 1 and "Ray needs 100 MB there for its logs" in said.strip().splitlines()[-1]


def test_a_full_shared_memory(shards, tmp_path):
    mounts = "mount -t tmpfs -o size=40m none /dev/shm && (dd if=/dev/zero of=/dev/shm/fill bs=1M || true)"
    status, said, seconds = _in_a_namespace(tmp_path, mounts, shards)
    print(f"full /dev/shm: exit status {status} after {seconds:.0f} s")
    assert status == 0, said


@pytest.mark.parametrize("limit", [4 << 30, pytest.param(3 << 29, marks=pytest.mark.full)])
def test_a_control_group_with_little_memory(shards, tmp_path, limit):
    """The kernel kills processes of the group, mostly workers. The job ends with every row, or reports why
    not."""
    group = Path("/sys/fs/cgroup/memory") / f"faceq-drill-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("cannot create control groups of version 1")
    (group / "memory.limit_in_bytes").write_text(str(limit))
    command = f"{sys.executable} -m faceq score {shards} --out {tmp_path}/table"
    started = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", f"echo $$ > {group}/tasks && exec {command}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    peak = int((group / "memory.max_usage_in_bytes").read_text())
    seconds = time.monotonic() - started
    print(
        f"group of {limit / 1e9:.1f} GB: exit status {done.returncode}, {seconds:.0f} s, {peak / 1e9:.1f} GB"
    )
    while (group / "tasks").read_text():
        time.sleep(0.5)  # for Ray's last processes
    group.rmdir()
    last = (done.stdout + done.stderr).strip().splitlines()[-1]
    assert done.returncode == 0 or (done.returncode == 1 and last.startswith("faceq: ")), last
