"""A job's local Ray: who can connect to it, and what it prints."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil

from faceq import __version__


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
