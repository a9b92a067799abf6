"""Small disks, for tests of full disks."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

MOUNTS = os.geteuid() == 0 and Path("/proc/mounts").exists()
needs_mounts = pytest.mark.skipif(not MOUNTS, reason="needs root, to mount a small disk")


@contextlib.contextmanager
def small_disk(place: Path, kilobytes: int = 128) -> Iterator[Path]:
    """Mount a small disk at a path, and unmount it at the end of the block."""
    place.mkdir()
    made = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(place)]
    if subprocess.run(made, capture_output=True, check=False).returncode:
        pytest.skip("this container cannot mount disks")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fill a disk up to the given number of free bytes. Returns the filler file."""
    filler = disk / "filler"
    free = os.statvfs(disk)
    filler.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - leave)))
    return filler
