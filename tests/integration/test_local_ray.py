"""The local Ray of a job: its resources, who can connect to it, and what it prints."""

import os
import re
import resource
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from faceq import __version__
from faceq.errors import JobError
from faceq.job import local_ray
from faceq.runtime import cgroup, device


def test_cpus_and_memory_decide_how_many_cpus_ray_gets(monkeypatch):
    monkeypatch.setattr(device, "usable_cpus", lambda: 64)
    for limit, cpus in ((64 * local_ray.MEMORY_PER_CPU, 64), (5 * local_ray.MEMORY_PER_CPU, 5), (1 << 20, 2)):
        monkeypatch.setattr(cgroup, "memory_limit", lambda limit=limit: limit)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"total": 1 << 40}))
        assert local_ray.cpus() == cpus


def test_a_cpu_quota_counts_even_if_the_machine_has_more_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    for quota, cpus in ((None, 64), (2.0, 2), (2.9, 2), (0.5, 1), (100.0, 64)):
        monkeypatch.setattr(cgroup, "cpu_quota", lambda quota=quota: quota)
        assert device.usable_cpus() == cpus


def test_a_full_temporary_folder_is_reported_before_ray_starts(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "not" / "there" / "yet"))
    local_ray.check_room(2)
    monkeypatch.setattr(local_ray, "TEMP_BYTES", 1 << 60)
    with pytest.raises(JobError, match=r"not/there/yet.* MB are free, and Ray needs .* set RAY_TMPDIR"):
        local_ray.check_room(2)


def test_a_low_limit_of_open_files_is_reported_before_ray_starts(photos, tmp_path):
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "faceq",
            "score",
            str(photos / "t1.jpg"),
            "--out",
            str(tmp_path / "t"),
        ],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=few,
    )
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()
    assert re.fullmatch(r"faceq: a process may open 256 files here, and Ray needs [\d,]+ for .*", said[-1])


def _listening(job: psutil.Process) -> set[str]:
    """Addresses on which a job and its child processes listen."""
    found = set()
    for process in [job, *job.children(recursive=True)]:
        try:
            connections = process.net_connections(kind="inet")
        except psutil.Error:  # the process has ended
            continue
        found |= {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    return found


def test_a_local_ray_is_private_and_only_faceq_prints(photos, tmp_path):
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0" * 64)  # as Ray itself writes it
    token.chmod(0o644)
    (tmp_path / "job.yaml").write_text(f"input: {photos}/t1.jpg\nout: {tmp_path}/t\nnum_cpus: 2\n")
    heard: set[str] = set()
    cache = os.environ.get("FACEQ_CACHE", str(Path.home() / ".cache" / "faceq"))
    with open(tmp_path / "log", "wb") as log:
        job = subprocess.Popen(
            [sys.executable, "-m", "jobs.score", "--config", str(tmp_path / "job.yaml")],
            env={**os.environ, "HOME": str(tmp_path), "FACEQ_CACHE": cache},
            stdout=log,
            stderr=log,
        )
    while job.poll() is None:
        heard |= _listening(psutil.Process(job.pid))
        time.sleep(0.3)
    said = (tmp_path / "log").read_text()
    assert job.returncode == 0, said
    assert heard and all(address.endswith("127.0.0.1") or address == "::1" for address in heard)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    before, _, after = said.partition(f"\nfaceq {__version__}, preset")
    assert after, said
    assert all(line.startswith("faceq: ") for line in before.splitlines() if line), before
    assert "\x1b" not in said


def test_a_token_is_created_if_there_is_none_even_without_a_home(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    local_ray._keep_token_private()
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600 and len(token.read_text()) == 64
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that it is restored
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    local_ray._keep_token_private()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_sigterm_ends_a_command_cleanly_even_after_ray_has_stopped():
    """When Ray shuts down, it restores the default handler of SIGTERM, which would kill the process without a
    message."""
    code = (
        "import os, signal, time\n"
        "from faceq import config\n"
        "from faceq.cli import signals\n"
        "from faceq.job.cluster import ray_for\n"
        "with signals.raised() as ending:\n"
        "    try:\n"
        "        with ray_for(config.Config(num_cpus=2)):\n"
        "            pass\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(60)\n"
        "    except signals.Interrupted:\n"
        "        print('status', ending.status)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[-2:]) == (0, ["status", "143"]), done.stderr[-2000:]
