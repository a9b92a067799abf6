"""The local Ray of a job: its resources, its token, and signals while it ends."""

import os
import re
import resource
import socket
import stat
import subprocess
import sys

import psutil
import pytest

from faceq.errors import JobError, UsageError
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


def test_a_port_for_metrics_that_is_in_use_is_reported_before_ray_starts():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"metrics_port={port}: Address already in use: choose a free"):
            local_ray.start(2, {}, port)
    local_ray.check_port(port)


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


def test_repeated_sigterm_ends_a_command_cleanly_while_ray_stops_and_after_it():
    """When Ray shuts down, it restores the default handler of SIGTERM, which would kill the process without a
    message."""
    code = (
        "import os, signal, threading, time\n"
        "from faceq import config\n"
        "from faceq.cli import signals\n"
        "from faceq.job.cluster import ray_for\n"
        "def send():\n"
        "    while True:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(0.01)\n"
        "with signals.raised() as ending:\n"
        "    try:\n"
        "        with ray_for(config.Config(num_cpus=2)):\n"
        "            threading.Thread(target=send, daemon=True).start()\n"
        "            time.sleep(60)\n"
        "    except signals.Interrupted:\n"
        "        time.sleep(1)\n"
        "        print('status', ending.status)\n"
        "        os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[-2:]) == (0, ["status", "143"]), done.stderr[-2000:]


def test_a_local_ray_starts_only_the_processes_that_a_job_uses():
    """Ray would start eight more: a dashboard, monitors, agents, and three actors of Ray Data."""
    code = (
        "import contextlib, psutil, ray\n"
        "from faceq import config\n"
        "from faceq.job.cluster import ray_for\n"
        "class Same:\n"
        "    def __call__(self, batch): return batch\n"
        "with ray_for(config.Config(num_cpus=2)):\n"
        "    data = ray.data.range(8, override_num_blocks=1)\n"
        "    print(data.map_batches(Same, compute=ray.data.ActorPoolStrategy(size=1)).count())\n"
        "    print(len(ray.util.list_named_actors(all_namespaces=True)))\n"
        "    for process in psutil.Process().children(recursive=True):\n"
        "        with contextlib.suppress(psutil.Error):\n"  # it has ended
        "            print(*process.cmdline())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows, actors, *processes = done.stdout.splitlines()
    assert (rows, actors) == ("8", "0")
    kinds = ("gcs_server", "raylet/raylet", "ray_agent.py", "ray::RuntimeEnvAgent", "ray::", "default_worker")
    assert all(any(kind in process for kind in kinds) for process in processes), processes
    assert not any("Monitor" in process or "Dashboard" in process for process in processes), processes
