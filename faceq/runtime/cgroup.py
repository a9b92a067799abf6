"""CPU and memory limits that a container or a batch system sets for this process through Linux control
groups.

Ray reads only the limits of the topmost group that is visible. A job under systemd, Slurm or a nested
container has its limits in groups below that one. This module therefore considers all groups from that of the
process up to the mount.
"""

from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc/self")


def cpu_quota(proc: Path = _PROC) -> float | None:
    """CPU quota of this process in CPUs: the smallest quota of its groups; None if there is no quota.

    Args:
        proc: folder with the files `cgroup` and `mountinfo` of the process.
    """
    quotas = [_v2_quota(group) for group in _groups(proc, None)]
    quotas += [_v1_quota(group) for group in _groups(proc, "cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_limit(proc: Path = _PROC) -> int | None:
    """Memory limit of this process in bytes: the smallest limit of its groups; None if there is no limit."""
    limits = [_number(group / "memory.max") for group in _groups(proc, None)]
    limits += [_number(group / "memory.limit_in_bytes") for group in _groups(proc, "memory")]
    return min((limit for limit in limits if limit is not None), default=None)


def _v2_quota(group: Path) -> float | None:
    words = _text(group / "cpu.max").split()
    if len(words) != 2 or not words[0].isdigit() or not int(words[1]):
        return None  # the file is missing, or says "max 100000"
    return int(words[0]) / int(words[1])


def _v1_quota(group: Path) -> float | None:
    quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    return quota / period if quota and period else None  # -1: no quota


def _groups(proc: Path, controller: str | None) -> Iterator[Path]:
    """The folders of the group of the process and of all visible groups above it.

    Args:
        controller: a controller of cgroups version 1; None: the groups of version 2.
    """
    mount = _mount(proc, controller)
    if mount is None:
        return
    folder, root = mount
    for line in _text(proc / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers != "" if controller is None else controller not in controllers.split(","):
            continue
        own = Path(path)
        # In a container, the mount may show only the group of the container, while the path starts at the
        # root of the host.
        below = own.relative_to(root) if own.is_relative_to(root) else Path()
        if ".." in below.parts:
            below = Path()
        yield folder / below
        yield from (folder / above for above in below.parents)


def _mount(proc: Path, controller: str | None) -> tuple[Path, Path] | None:
    """The folder where the hierarchy of the controller is mounted, and the group that is its root there."""
    for line in _text(proc / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        root, folder = before.split()[3:5]
        kind, _, options = after.split(maxsplit=2)
        if kind == "cgroup2" if controller is None else kind == "cgroup" and controller in options.split(","):
            return Path(folder.replace("\\040", " ")), Path(root)
    return None


def _number(path: Path) -> int | None:
    """The number in a file; None if there is no file, or if it contains no limit (`max`, -1)."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # not Linux, no such controller, or no permission
        return ""
