"""A full disk is a one-line error. Once there is space, the same command continues."""

import pytest
from disks import fill, needs_mounts, small_disk

import faceq
from faceq.cli import main
from faceq.storage.settings import S3Settings
from faceq.table.store import Table


@needs_mounts
@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_an_export_to_a_full_disk_has_exit_status_1(looked_at, tmp_path, capsys, ending):
    with small_disk(tmp_path / "disk") as disk:
        fill(disk, 4096)
        assert main.main(["query", looked_at, "--export", str(disk / f"x{ending}")]) == 1
        said = capsys.readouterr().err
        assert said.startswith("faceq: ") and "No space left" in said and said.count("\n") == 1
        assert [path.name for path in disk.iterdir()] == ["filler"]


@needs_mounts
@pytest.mark.parametrize(("leave", "whole"), [(8192, False), (40 << 10, True)])
def test_a_compaction_resumes_where_a_full_disk_stopped_it(looked_at, tmp_path, capsys, leave, whole):
    """The disk fills up before or after its first file is complete."""
    with small_disk(tmp_path / "disk", kilobytes=512) as disk:
        filler = fill(disk, leave)
        command = ["compact", looked_at, "--out", str(disk / "table")]
        assert main.main(command) == 1
        assert "No space left" in capsys.readouterr().err
        assert any(disk.glob("table/*/*.parquet")) == whole
        filler.unlink()
        assert main.main(command) == 0
        assert len(faceq.read_table(str(disk / "table"))) == len(faceq.read_table(looked_at))


@needs_mounts
def test_an_export_of_shards_resumes_once_there_is_space(looked_at, tmp_path, capsys):
    with small_disk(tmp_path / "disk", kilobytes=8192) as disk:
        filler = fill(disk, 4096)
        command = ["query", looked_at, "--export-shards", str(disk / "shards")]
        assert main.main(command) == 1
        assert "No space left" in capsys.readouterr().err
        filler.unlink()
        assert main.main(command) == 0


def test_rows_without_a_record_count_by_the_settings_in_their_files(looked_at, tmp_path):
    """A worker that outlived a job without rows leaves such files."""
    table = Table(str(tmp_path / "table"), S3Settings())
    table.files.put(f"{looked_at}/", f"{table.path}/", recursive=True)
    record = table.record()
    for path in table._run_files():
        table.files.rm_file(path)
    table.check({"min_face": record["min_face"], "models": record["models"]})
    with pytest.raises(faceq.errors.UsageError, match=r"min_face was 40, is now 20"):
        table.check({"min_face": 20})
