"""Half files and spilled rows are where nobody else can plant a link or look."""

import os
import stat
from pathlib import Path

import pytest

from faceq import cli
from faceq.config import S3
from faceq.export import _written_whole
from faceq.private_files import private_folder
from faceq.query import Rows
from jobs import synthetic


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("private") / "table"
    synthetic.write(folder, 1_000)
    return str(folder)


def test_an_export_writes_through_no_planted_link(table, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (".rows.csv.part", "rows.csv"):
        (tmp_path / name).symlink_to(victim)
    assert cli.main(["query", table, "--export", str(tmp_path / "rows.csv")]) == 0
    assert victim.read_text() == "precious"
    assert (tmp_path / "rows.csv").read_text().startswith("frame_id,")


def test_exports_at_once_to_one_file_do_not_mix(tmp_path):
    path = str(tmp_path / "rows.csv")
    with _written_whole(path, S3()) as one, _written_whole(path, S3()) as other:
        Path(one).write_text("one")
        Path(other).write_text("other")
    assert Path(path).read_text() == "one"  # the last that was ready
    assert os.listdir(tmp_path) == ["rows.csv"]


def test_rows_are_spilled_into_a_folder_that_only_this_user_may_enter(table):
    with Rows(table, S3()) as rows:
        ((folder,),) = rows.sql("SELECT current_setting('temp_directory')").fetchall()
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        assert str(os.getpid()) not in folder
    assert not os.path.exists(folder)


def test_a_private_folder_stays_after_an_error_only(tmp_path):
    place = tmp_path / ".a.part"
    with pytest.raises(ValueError, match="broke off"), private_folder(place) as folder:
        (folder / "half").write_bytes(b"half")
        raise ValueError("broke off")
    with private_folder(place) as folder:
        assert folder == place and (folder / "half").read_bytes() == b"half"
    assert os.listdir(tmp_path) == []
