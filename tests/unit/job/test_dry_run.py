"""`faceq score --dry-run`: what would be read, and what is already done."""

import shutil
from pathlib import Path

import pytest
from here import score_here, settings

from faceq.cli import main
from faceq.job import dry_run
from faceq.table import finished_shards, runs
from faceq.table.finished_shards import Finished
from faceq.table.store import Table


@pytest.fixture(scope="module")
def folder(frames_in, tmp_path_factory) -> Path:
    """Tars, a Parquet file, a video and two images. All of them have rows except one image and one tar."""
    made = tmp_path_factory.mktemp("dry")
    shutil.copytree(frames_in, made / "in")
    score_here(str(made / "in"), str(made / "table"))
    shutil.copy(made / "in" / "t1.jpg", made / "in" / "new.jpg")
    shutil.copy(made / "in" / "tars" / "00000.tar", made / "in" / "tars" / "new.tar")
    (made / "in" / "notes.txt").write_text("text")
    return made


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def printed(capsys, *arguments: str) -> str:
    assert main.main(["score", *arguments, "--dry-run"]) == 0
    return capsys.readouterr().out


def test_a_new_table_has_everything_to_do(folder, tmp_path, capsys):
    said = printed(capsys, str(folder / "in"), "--out", str(tmp_path / "table"))
    assert f"table          {tmp_path}/table   (does not exist yet)" in said
    assert "skipped        1 file without frames: 1 .txt" in said
    (images,) = [line.split() for line in said.splitlines() if line.startswith("images")]
    assert images[1] == images[-2] == "3" and images[-1] == "0"
    assert "to do          3 images, 3 tar shards, 1 Parquet file and 1 video" in said
    (tars,) = [line.split() for line in said.splitlines() if line.startswith("tar shards")]
    assert tars[-2:] == ["unknown", "0"] and "not done       8 sources" in said
    assert list(tmp_path.iterdir()) == []


def test_an_existing_table_shows_what_is_done_and_is_not_changed(folder, capsys):
    before = everything_in(folder / "table")
    given = settings(folder / "in", folder / "table")
    table = Table(given.out, given.s3)
    found = {source.shard.source.rpartition("/")[2]: source for source in dry_run.survey(given).sources}
    assert found["t1.jpg"].is_done and not found["new.jpg"].is_done
    # A record lists the shards that were read to their end. Without it, a shard is opened again.
    rows = table.rows(["source"])["source"].to_pylist()
    assert found["clip.mp4"].done == rows.count(f"{folder}/in/clip.mp4") > 0
    assert not found["clip.mp4"].is_done and found["new.tar"].done == 0
    said = printed(capsys, str(folder / "in"), "--out", str(folder / "table"))
    assert "frames done)" in said and "/new.jpg" in said and "to do          1 image, " in said
    assert "/t1.jpg" not in said
    assert everything_in(folder / "table") == before


def test_a_recorded_shard_is_done_and_its_number_of_frames_known(folder, tmp_path):
    shutil.copytree(folder / "table", tmp_path / "table")
    given = settings(folder / "in", tmp_path / "table")
    table = Table(given.out, given.s3)
    source = f"{folder}/in/tars/00000.tar"
    _, tallies = table.frames_of(table.row_files(), {source})
    frames, total = tallies[source]
    how = dry_run.resume.read_settings(given)
    (shard,) = [each.shard for each in dry_run.survey(given).sources if each.shard.source == source]
    version = dry_run.resume._version(shard, given.s3)
    read_as = dry_run.resume.read_as(how.limits, how.any_name, how.animated, how.encoding)
    finished_shards.save(table, "r", [Finished(source, version, read_as, frames, total)])
    (found,) = [each for each in dry_run.survey(given).sources if each.shard.source == source]
    assert found.is_done and found.frames == frames


def test_frames_that_would_be_retried_are_not_done(folder, tmp_path):
    shutil.copytree(folder / "table", tmp_path / "table")
    given = settings(folder / "in", tmp_path / "table")
    assert dry_run.survey(given).again == 0
    assert dry_run.survey(given, retry_unreadable=True).again > 0
    lower = given.model_copy(update={"fiq_threshold": 0.0})
    assert dry_run.survey(lower).again > 0
    table = Table(given.out, given.s3)
    (record,) = table.runs()
    table.put_record(
        {**record, "finished": None}
    )  # the run was stopped: storage may be the cause of its unreadable rows
    assert runs.unfinished(table.runs()) and dry_run.survey(given).again > 0


def test_a_higher_threshold_is_a_query(folder, capsys):
    said = printed(
        capsys, str(folder / "in"), "--out", str(folder / "table"), "--fiq-threshold", "0.9", "--limit", "7"
    )
    assert "--fiq-threshold 0.9 is higher than the 0.5 of an earlier run: only new frames" in said
    assert '"serfiq >= 0.9"' in said and "at most 7 frames: the first 7 of the input (--limit)" in said


def test_overwrite_has_everything_to_do(folder, capsys):
    said = printed(capsys, str(folder / "in"), "--out", str(folder / "table"), "--overwrite")
    assert "(exists: --overwrite removes it first)" in said and "to do          3 images, 3" in said


def test_a_long_list_of_inputs_is_shortened_and_a_finished_one_is_reported(tmp_path, photos, capsys):
    (tmp_path / "in").mkdir()
    for number in range(30):
        shutil.copy(photos / "mask_blue.jpg", tmp_path / "in" / f"{number:02}.jpg")
    given = (str(tmp_path / "in"), "--out", str(tmp_path / "table"))
    said = printed(capsys, *given, "--limit", "20")
    assert "not done       the first 10 of 30 sources" in said and said.count("/in/") == 10
    assert "to do          the first 20 frames of the input (--limit)\n" in said
    for image in sorted((tmp_path / "in").iterdir())[12:]:
        image.rename(tmp_path / image.name)
    score_here(str(tmp_path / "in"), str(tmp_path / "table"))
    for image in sorted(tmp_path.glob("*.jpg")):
        image.rename(tmp_path / "in" / image.name)
    said = printed(capsys, *given, "--limit", "20")
    assert "not done       the first 10 of 18 sources" in said and "/in/11.jpg" not in said
    assert "to do          8 frames: of the first 20 of the input (--limit), 12 already have a row" in said
    said = printed(capsys, *given, "--limit", "12")
    assert "to do          nothing: the first 12 frames of the input (--limit) already have a row" in said
    assert "to do          18 images\n" in printed(capsys, *given, "--limit", "31")
    score_here(str(tmp_path / "in"), str(tmp_path / "table"))
    said = printed(capsys, *given)
    assert "not done" not in said and said.count("/in/") == 0
    assert "to do          nothing: every frame of the input has its row" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/not/there", "--out", "/tmp/t"], "there is no such file"),
        (["--out", "/tmp/t"], "no input given"),
        (["{in}"], "--out"),
        (["{in}", "--out", "{in}"], "not a faceq table"),
        (["{in}", "--out", "{table}", "--set", "min_face=30"], "min_face was 40, is now 30"),
        (["{in}", "--out", "{table}", "--detector", "/none.onnx"], "neither a file nor the name of a model"),
    ],
)
def test_mistakes_have_the_exit_status_of_the_job(folder, arguments, said, capsys):
    words = [word.format(**{"in": folder / "in", "table": folder / "table"}) for word in arguments]
    assert main.main(["score", *words, "--dry-run"]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1
