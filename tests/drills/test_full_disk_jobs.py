"""Jobs whose table is on a disk that fills up."""

import pytest
from disks import fill, needs_mounts, small_disk
from places import PHOTOS

import faceq
from faceq.cli import main


@needs_mounts
@pytest.mark.parametrize("leave", [0, 4096, 3 * 4096])
def test_a_job_resumes_where_a_full_disk_stopped_it(local_ray, tmp_path, capsys, leave):
    """With no space at all, with space for the heartbeat only, and with space for the run record but no
    rows."""
    with small_disk(tmp_path / "disk") as disk:
        filler = fill(disk, leave)
        command = ["score", str(PHOTOS), "--out", str(disk / "table"), "--fiq-threshold", "0"]
        assert main.main(command) == 1
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("faceq: ")]
        assert "No space left" in said[-1]
        filler.unlink()
        assert main.main(command) == 0
        assert len(faceq.read_table(str(disk / "table"))) == 6
