"""Shards that were read to their end are not opened again, unless something changed."""

import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_s3 import BUCKET, Refusal, small_s3

from faceq import config
from faceq.cli import main
from faceq.config import Config, Limits
from faceq.job import pipeline, resume
from faceq.job.graph import read_settings
from faceq.query import compact
from faceq.sources import Findings, read_shards
from faceq.sources.listing import Shard, list_shards
from faceq.stages.chosen_models import ChosenModels, choose, comparison_record
from faceq.storage.settings import S3Settings
from faceq.table import finished_shards
from faceq.table.finished_shards import Finished
from faceq.table.runs import Run
from faceq.table.schema import SCHEMA
from faceq.table.store import Table

PICTURE = b"\xff\xd8\xff\xe0 not more than the beginning of a picture"
RUN = "20261123T170000Z-aaaaaaaa"


def write_tar(path: Path, count: int, cut: int = 0) -> Path:
    with tarfile.open(path, "w") as tar:
        for index in range(count):
            picture = path.with_name("one")
            picture.write_bytes(PICTURE)
            tar.add(picture, f"{index}.jpg")
            picture.unlink()
    if cut:
        path.write_bytes(path.read_bytes()[:-cut])
    return path


def read(shards: list[Shard], s3: S3Settings | None = None, **more) -> tuple[list, list[Finished]]:
    findings = Findings()
    frames = list(read_shards(shards, s3 or S3Settings(), findings=findings, **more))
    return frames, findings.finished


class Scored:
    """An input, and a table with a row for each of its frames and a record of finished shards."""

    def __init__(
        self,
        folder: Path,
        inputs: list[str],
        s3: S3Settings | None = None,
        finished: bool = True,
        how: dict | None = None,
    ):
        self.s3 = s3 or S3Settings()
        self.inputs, self.table = inputs, Table(str(folder / "table"), S3Settings())
        settings = self.config(**how or {})
        frames, self.finished = read(self.shards(), s3, animated=settings.read.animated == "frames")
        rows = [
            {"frame_id": f.id, "source": f.source, "member": f.member, "frame_index": f.frame_index}
            for f in frames
        ]
        self.count = len(rows)
        self.path = self.write(rows, "unreadable")
        chosen, record = settings.model_dump(), comparison_record(settings, choose(settings))
        end = {"finished": "2026", "state": "ended", "rows": len(rows)}
        self.table.save(Run(RUN, "0", inputs, record, chosen, "", **end))
        if finished:
            finished_shards.save(self.table, RUN, self.finished)

    def write(self, rows: list[dict], status: str) -> str:
        filled = [{"run_id": RUN, "status": status, **row} for row in rows]
        path = f"{self.table.path}/status={status}/{RUN}-u-000000-0.parquet"
        self.table.files.makedirs(os.path.dirname(path), exist_ok=True)
        pq.write_table(pa.Table.from_pylist(filled, SCHEMA).drop_columns(["status"]), path)
        return path

    def config(self, **more) -> Config:
        return config.build({"input": self.inputs, "out": self.table.uri, "s3": self.s3, **more})

    def shards(self) -> list[Shard]:
        return list_shards(self.inputs, self.s3)

    def left(self, **more) -> set[str]:
        """Names of the shards that a run would read."""
        settings = self.config(**more)
        limited = settings.limit is not None
        how = read_settings(settings)
        rest = resume.rest_of(self.table, self.shards(), how, settings.fiq_threshold, limited)
        return {shard.source.rsplit("/", 1)[1] for shard in rest.shards}

    def nothing(self, **more) -> int | None:
        return nothing_to_do(self.table, self.shards(), self.config(**more))


def nothing_to_do(table: Table, shards: list[Shard], settings: Config) -> int | None:
    return resume.nothing_to_do(table, shards, read_settings(settings), settings.fiq_threshold)


@pytest.fixture
def scored(tmp_path) -> Scored:
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in" / "a.tar", 5)
    write_tar(tmp_path / "in" / "b.tar", 3, cut=8_000)
    (tmp_path / "in" / "c.jpg").write_bytes(PICTURE)
    return Scored(tmp_path, [str(tmp_path / "in")])


def test_every_kind_of_shard_records_its_frames(frames_in):
    shards = list_shards([str(frames_in)], S3Settings())
    frames, finished = read(shards)
    large = {shard.source for shard in shards if shard.kind != "picture"}
    assert {shard.rsplit(".", 1)[1] for shard in large} == {"tar", "parquet", "mp4"}
    assert {each.source for each in finished} == large
    for each in finished:
        ids = np.array([frame.id for frame in frames if frame.source == each.source], np.int64)
        assert (each.frames, each.ids) == (len(ids), int(ids.sum()))


def test_a_rerun_of_a_finished_input_has_nothing_to_do(scored):
    assert scored.nothing() == scored.count == 5 + 2 + 1  # second tar: a frame, and its damaged rest
    assert scored.left() == set()
    assert scored.nothing(limit=2) == scored.count  # they include the first two frames


def test_without_a_record_shards_are_read_and_pictures_are_not(tmp_path, scored):
    for path in scored.table.shard_files():
        os.unlink(path)
    assert scored.left() == {"a.tar", "b.tar"} and scored.nothing() is None


def test_a_damaged_record_only_costs_time(scored):
    (path,) = scored.table.shard_files()
    Path(path).write_bytes(Path(path).read_bytes()[:100])
    assert scored.left() == {"a.tar", "b.tar"}


@pytest.mark.parametrize("lost", ["row", "file", "unreadable run"])
def test_a_shard_that_lacks_a_row_is_read_again(scored, lost):
    if lost == "row":
        sources = scored.table.column(scored.path, "source").to_pylist()
        keep = np.arange(len(sources)) != ["a.tar" in source for source in sources].index(True)
        scored.table.keep_rows(scored.path, keep)
        assert scored.nothing() is None
        assert scored.left() == {"a.tar"}
        return
    if lost == "file":
        os.unlink(scored.path)
    else:  # unreadable frames of an unfinished run are retried
        (record,) = scored.table.runs()
        scored.table.put_record({**record, "finished": None})
    assert scored.nothing() is None
    assert scored.left() == {"a.tar", "b.tar", "c.jpg"}


def test_stale_rows_of_a_shard_do_not_hide_lost_rows(scored):
    """A tar was replaced by one with other members, and the table lost as many rows as it has stale ones."""
    rows = [row for row in scored.table.rows(SCHEMA.names).to_pylist() if "a.tar" in row["source"]]
    others = [row for row in scored.table.rows(SCHEMA.names).to_pylist() if "a.tar" not in row["source"]]
    scored.write([{**rows[0], "frame_id": 77, "member": "stale.jpg"}, *rows[1:], *others], "unreadable")
    assert len(scored.table.frame_ids()) == scored.count
    assert scored.left() == {"a.tar"}


def test_a_shard_that_was_changed_is_read_again(scored, tmp_path):
    path = tmp_path / "in" / "a.tar"
    info = path.stat()
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns + 1))
    assert scored.left() == {"a.tar"}
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert scored.left() == set()
    write_tar(path, 60)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert scored.left() == {"a.tar"}


@pytest.mark.parametrize("more", [{"any_name": True}, {"limits": Limits(source_memory=5 << 20)}])
def test_settings_that_may_give_other_frames_read_again(scored, more):
    assert scored.left(**more) == {"a.tar", "b.tar"} and scored.nothing(**more) is None


def test_a_newer_faceq_reads_again(scored, monkeypatch):
    monkeypatch.setattr("faceq.sources.reading.__version__", "99")
    assert scored.left() == {"a.tar", "b.tar"}


def test_only_new_input_is_left(scored, tmp_path):
    (tmp_path / "in" / "d.jpg").write_bytes(PICTURE)
    write_tar(tmp_path / "in" / "e.tar", 2)
    assert scored.nothing() is None
    assert scored.left() == {"d.jpg", "e.tar"}


def test_a_shard_that_the_storage_failed_is_not_finished(tmp_path):
    """This holds even if there is a row for the rest, because storage may return the rest the next time."""
    path = write_tar(tmp_path / "a.tar", 9_000)
    content = path.read_bytes()

    def refuse(asked):
        start = int((asked.headers.get("range") or "bytes=0-")[6:].split("-")[0])
        return Refusal(403, "AccessDenied") if start > 0 else None

    with small_s3({"a.tar": content}, refuse) as store:
        shards = list_shards([f"s3://{BUCKET}/a.tar"], store.settings)
        frames, finished = read(shards, store.settings)
        assert 0 < len(frames) < 9_000 and frames[-1].frame_index == -1 and not finished
        done = {frame.id for frame in frames}
        assert read(shards, store.settings, done=done)[1] == []
        store.refuse = lambda asked: None
        frames, finished = read(shards, store.settings, done=done)
        assert len(frames) == finished[0].frames == 9_000


def test_a_finished_object_is_not_requested(tmp_path):
    """The listing has its ETag. For an object that only a manifest names, only the ETag is requested."""
    objects = {f"in/{n}.tar": write_tar(tmp_path / f"{n}.tar", n).read_bytes() for n in (3, 4)}
    with small_s3(objects) as store:
        scored = Scored(tmp_path, [f"s3://{BUCKET}/in"], store.settings)
        assert len(scored.finished) == 2
        store.asked.clear()
        assert scored.nothing() == 7
        assert not any(asked.key.endswith(".tar") for asked in store.reads())
        (tmp_path / "frames.jsonl").write_text(f'{{"uri": "s3://{BUCKET}/in/3.tar"}}\n')
        named = list_shards([], store.settings, [str(tmp_path / "frames.jsonl")])
        assert nothing_to_do(scored.table, named, scored.config()) == 3
        assert {asked.method for asked in store.reads() if asked.key.endswith(".tar")} == {"HEAD"}
        store.objects["in/4.tar"] = bytes(bytearray(objects["in/4.tar"]))
        assert scored.left() == {"4.tar"}


def test_later_records_include_earlier_ones(scored, tmp_path):
    known, files = finished_shards.load(scored.table)
    new = Finished("/in/z.tar", "1", "{}", 1, 1)
    keeper = finished_shards.Keeper(scored.table, "later", lambda count: [new][count:], known)
    with keeper.running():
        assert scored.table.shard_files() == files
    assert len(scored.table.shard_files()) == 2
    keeper.replace(files)
    (path,) = scored.table.shard_files()
    assert path.endswith("shards-later.arrow")
    assert finished_shards.load(scored.table)[0] == {**known, new.source: new}


def test_compaction_and_overwrite(scored, tmp_path):
    compact.compact(scored.table.uri, str(tmp_path / "new"), S3Settings())
    new = Table(str(tmp_path / "new"), S3Settings())
    assert nothing_to_do(new, scored.shards(), scored.config(out=new.uri)) == scored.count
    scored.table.remove_others(Run("other", "0", [], {}, {}, ""))
    assert scored.table.shard_files() == [] and not scored.nothing()


def test_programs_that_read_a_folder_meet_no_rows_in_the_record(scored, tmp_path):
    import fastparquet  # noqa: PLC0415 - the import takes a second

    shutil.copytree(scored.table.path, tmp_path / "copy")
    assert len(fastparquet.ParquetFile(str(tmp_path / "copy")).to_pandas()) == scored.count


def test_a_job_with_nothing_to_do_starts_nothing_and_prints_the_tables_totals(scored, monkeypatch, capsys):
    def not_needed(*arguments):
        raise AssertionError("nothing is to be started")

    monkeypatch.setattr(pipeline, "ray_for", not_needed)
    monkeypatch.setattr(ChosenModels, "fetch_all", not_needed)
    before = sorted(path.name for path in Path(scored.table.path, "_faceq").iterdir())
    for more in ([], ["--fiq-threshold", "0.2"], ["--limit", "3"]):
        assert main.main(["score", *scored.inputs, "--out", scored.table.uri, *more]) == 0
        said = capsys.readouterr().out
        assert "nothing to do: every frame of the input has its row" in said
        assert f"rows           {scored.count:>10}   in the table" in said
        assert f"unreadable     {scored.count:>10}   100.0%" in said and "speed" not in said
    assert sorted(path.name for path in Path(scored.table.path, "_faceq").iterdir()) == before


@pytest.mark.parametrize("lost", [5, -1])
def test_a_frame_that_an_animation_lacks_is_read_again(tmp_path, lost):
    """A row of the first frame of an image means that the image is done, but not of an animation."""
    (tmp_path / "in").mkdir()
    steps = [Image.new("RGB", (8, 8), (30 * n, 0, 0)) for n in range(8)]
    steps[0].save(tmp_path / "in" / "a.gif", save_all=True, append_images=steps[1:], duration=40)
    if lost == -1:
        path = tmp_path / "in" / "a.gif"
        path.write_bytes(path.read_bytes()[:-1])
    (tmp_path / "in" / "b.jpg").write_bytes(PICTURE)
    how = {"read": {"animated": "frames"}}
    scored = Scored(tmp_path, [str(tmp_path / "in")], how=how)
    assert scored.nothing(**how) == scored.count == (10 if lost == -1 else 9)
    assert scored.left(**how) == set()

    frames = scored.table.column(scored.path, "frame_index").to_pylist()
    scored.table.keep_rows(scored.path, np.array(frames) != lost)
    assert scored.nothing(**how) is None
    assert scored.left(**how) == {"a.gif"}
