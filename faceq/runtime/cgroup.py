"""What a container or a batch system allows this process: CPU time and memory, by Linux's control groups.

Ray reads the limits of the topmost group that it sees. A job under systemd, Slurm or a nested container has
its limits in groups below that one, so all groups from the process's own up to the mount count here.
"""

from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc/self")


def cpu_quota(proc: Path = _PROC) -> float | None:
    """CPUs' worth of time that this process may use, the smallest quota of its groups; None without one.

    Args:
        proc: folder with the files `cgroup` and `mountinfo` of the process.
    """
    quotas = [_v2_quota(group) for group in _groups(proc, None)]
    quotas += [_v1_quota(group) for group in _groups(proc, "cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_limit(proc: Path = _PROC) -> int | None:
    """Bytes of memory that this process's groups may hold, the smallest limit; None without one."""
    limits = [_number(group / "memory.max") for group in _groups(proc, None)]
    limits += [_number(group / "memory.limit_in_bytes") for group in _groups(proc, "memory")]
    return min((limit for limit in limits if limit is not None), default=None)


def _v2_quota(group: Path) -> float | None:
    words = _text(group / "cpu.max").split()
    if len(words) != 2 or not words[0].isdigit() or not int(words[1]):
        return None  # no such file, or "max 100000"
    return int(words[0]) / int(words[1])


def _v1_quota(group: Path) -> float | None:
    quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    return quota / period if quota and period else None  # -1: no quota


def _groups(proc: Path, controller: str | None) -> Iterator[Path]:
    """The folders of the process's own group and of those above it, as far as they can be seen.

    Args:
        controller: of version 1; None: the groups of version 2.
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
        # In a container the mount may show the container's group only, while the path counts from the host's.
        below = own.relative_to(root) if own.is_relative_to(root) else Path()
        if ".." in below.parts:
            below = Path()
        yield folder / below
        yield from (folder / above for above in below.parents)


def _mount(proc: Path, controller: str | None) -> tuple[Path, Path] | None:
    """Where the controller's hierarchy is mounted, and the group that is its root there."""
    for line in _text(proc / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        root, folder = before.split()[3:5]
        kind, _, options = after.split(maxsplit=2)
        if kind == "cgroup2" if controller is None else kind == "cgroup" and controller in options.split(","):
            return Path(folder.replace("\\040", " ")), Path(root)
    return None


def _number(path: Path) -> int | None:
    """The number in a file; None where there is no file, or no limit in it (`max`, -1)."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # no Linux, no such controller, or the file is not ours to read
        return ""
