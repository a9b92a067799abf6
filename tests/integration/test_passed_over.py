"""A job reports and records skipped files. An input without frames is an error."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from places import PHOTOS

from faceq.cli import main
from faceq.storage.settings import S3Settings
from faceq.table.store import Table

pytestmark = pytest.mark.usefixtures("light_job")
PHOTO = (PHOTOS / "mask_blue.jpg").read_bytes()


def write_tar(path: Path, *names: str) -> None:
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(PHOTO)
            tar.addfile(info, io.BytesIO(PHOTO))


@pytest.fixture
def score(tmp_path, capsys):
    """Runs `faceq score` into one table. Returns its exit status and its output."""

    def run(*arguments: str) -> tuple[int, str]:
        status = main.main(["score", *arguments, "--out", str(tmp_path / "table")])
        said = capsys.readouterr()
        # Ray may print more after faceq's last line.
        own = [line for line in said.err.splitlines() if line.startswith("faceq: ")]
        return status, own[-1] if status else said.out

    return run


def runs(folder: Path) -> list[dict]:
    return Table(str(folder / "table"), S3Settings()).runs()


def test_an_input_without_a_frame_is_wrong_usage_and_leaves_the_table_as_it_was(tmp_path, score):
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in" / "a.tar", "a.mp3", "b.txt")
    (tmp_path / "in" / "notes.md").write_text("text")
    status, said = score(str(tmp_path / "in"))
    assert status == 2
    assert f"{tmp_path}/in: no frames here: skipped " in said and "1 .md" in said
    assert runs(tmp_path) == []
    # A run without rows does not tie the table to its settings.
    (tmp_path / "face.jpg").write_bytes(PHOTO)
    assert score(str(tmp_path / "face.jpg"), "--fiq-threshold", "0")[0] == 0
    # A table with rows does not lose any.
    assert score(str(tmp_path / "in"), "--fiq-threshold", "0")[0] == 2
    assert len(runs(tmp_path)) == 1 and Table(str(tmp_path / "table"), S3Settings()).count() == 1
    assert score(str(tmp_path / "face.jpg"), "--fiq-threshold", "0")[0] == 0


def test_an_empty_shard_is_named(tmp_path, score):
    write_tar(tmp_path / "empty.tar")
    assert score(str(tmp_path / "empty.tar")) == (2, f"faceq: {tmp_path}/empty.tar: no frames here")


def test_skipped_files_are_counted_in_summary_and_record(tmp_path, score):
    (tmp_path / "in").mkdir()
    for name in ("a.txt", "b.TXT", "c", ".hidden", "photo.jpg"):
        (tmp_path / "in" / name).write_bytes(PHOTO)
    # The table is in the input folder, but not part of the input.
    assert main.main(["score", str(tmp_path / "in"), "--out", str(tmp_path / "in" / "table")]) == 0
    status, said = score(str(tmp_path / "in"))
    assert status == 0
    assert "files without frames: 2 .txt, 1 (no extension)" in said
    (record,) = (tmp_path / "table" / "_faceq").glob("run-*.json")
    assert json.loads(record.read_text())["passed_over"] == {".txt": 2, "(no extension)": 1}
    assert runs(tmp_path / "in")[0]["passed_over"] == {".txt": 2, "(no extension)": 1}


def test_any_name_reads_files_whose_bytes_are_frames(tmp_path, score):
    (tmp_path / "in").mkdir()
    for name in ("0123abcd", "photo.jpg_large"):
        (tmp_path / "in" / name).write_bytes(PHOTO)
    (tmp_path / "in" / "notes.txt").write_text("text")
    status, said = score(str(tmp_path / "in"))
    assert status == 2 and "--any-name reads files whatever their extension" in said
    status, said = score(str(tmp_path / "in"), "--any-name")
    assert status == 0 and "files without frames: 1 .txt" in said
    rows = Table(str(tmp_path / "table"), S3Settings()).rows(["source", "status"]).to_pylist()
    assert {row["source"].rpartition("/")[2] for row in rows} == {"0123abcd", "photo.jpg_large"}
    assert {row["status"] for row in rows} == {"no_face"}
    status, said = score(str(tmp_path / "in"), "--any-name")
    assert status == 0 and "nothing to do" in said
