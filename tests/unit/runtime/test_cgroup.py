"""Limits of control groups, from file trees of real systems with both versions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from faceq.runtime import cgroup

NONE = "9223372036854771712"
"""Version 1 reports this value if memory is not limited."""


def tree(folder: Path, cgroup_file: str, mountinfo: str, files: dict[str, str]) -> Path:
    """Create a /proc/self, and files of groups below `folder`. `{}` in `mountinfo` stands for that folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")
    (folder / "cgroup").write_text(cgroup_file)
    (folder / "mountinfo").write_text(mountinfo.replace("{}", str(folder)))
    return folder


V2 = "35 24 0:30 / {}/fs rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "30 25 0:26 /docker/ab {}/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "31 25 0:27 /docker/ab {}/memory rw,relatime - cgroup cgroup rw,memory\n"
)


@pytest.mark.parametrize(
    ("own", "mounts", "files", "cpus", "memory"),
    [
        # Version 2: a container that sees its own group as the root.
        ("0::/\n", V2, {"fs/cpu.max": "200000 100000", "fs/memory.max": "4294967296"}, 2, 4 << 30),
        # A group further up has the smallest limit. The group itself has a larger one.
        (
            "0::/slurm/job/step\n",
            V2,
            {
                "fs/slurm/job/step/cpu.max": "800000 100000",
                "fs/slurm/job/cpu.max": "150000 100000",
                "fs/slurm/job/memory.max": "1073741824",
                "fs/slurm/memory.max": "max",
                "fs/slurm/cpu.max": "max 100000",
            },
            1.5,
            1 << 30,
        ),
        # Version 1: the path is relative to the host, the mount to the container.
        (
            "5:cpu,cpuacct:/docker/ab\n6:memory:/docker/ab\n",
            V1,
            {
                "cpu/cpu.cfs_quota_us": "300000",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "2147483648",
            },
            3,
            2 << 30,
        ),
        # The group of a batch system inside a container.
        (
            "5:cpu,cpuacct:/docker/ab/job\n6:memory:/docker/ab/job\n",
            V1,
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "cpu/job/cpu.cfs_quota_us": "50000",
                "cpu/job/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "2147483648",
                "memory/job/memory.limit_in_bytes": NONE,
            },
            0.5,
            2 << 30,
        ),
        ("0::/\n", V2, {}, None, None),
        # The process was started outside the group that is visible in the container.
        ("0::/../other\n", V2, {"fs/cpu.max": "400000 100000"}, 4, None),
        ("", "", {}, None, None),
    ],
)
def test_the_smallest_limit_up_the_tree_applies(tmp_path, own, mounts, files, cpus, memory):
    proc = tree(tmp_path, own, mounts, files)
    assert cgroup.cpu_quota(proc) == cpus
    assert cgroup.memory_limit(proc) == memory


def _made(controller: str) -> Path | None:
    """Create a group of version 1. Returns None if this is not permitted."""
    parent = Path("/sys/fs/cgroup") / controller
    group = parent / f"faceq-test-{os.getpid()}"
    if not (parent / "tasks").exists():
        return None
    try:
        group.mkdir()
    except OSError:
        return None
    return group


def test_a_process_in_a_real_group_sees_its_limits():
    cpu, memory = _made("cpu"), _made("memory")
    if not (cpu and memory):
        pytest.skip("cannot create control groups of version 1")
    try:
        (cpu / "cpu.cfs_quota_us").write_text("100000")
        (cpu / "cpu.cfs_period_us").write_text("100000")
        (memory / "memory.limit_in_bytes").write_text(str(3 << 30))
        code = "from faceq.runtime import cgroup, device; print(device.usable_cpus(), cgroup.memory_limit())"
        joined = f'echo $$ > {cpu}/tasks && echo $$ > {memory}/tasks && exec "$0" -c "$1"'
        said = subprocess.run(
            ["bash", "-c", joined, sys.executable, code], capture_output=True, text=True, check=True
        ).stdout.split()
    finally:
        cpu.rmdir()
        memory.rmdir()
    assert said == ["1", str(3 << 30)]
