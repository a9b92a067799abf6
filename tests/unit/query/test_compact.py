"""Compaction: the same table in a few sorted files."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from here import score_here, settings, write_as_before
from places import PHOTOS

from faceq.cli import main
from faceq.errors import StorageError, UsageError
from faceq.job import pipeline
from faceq.query import compact
from faceq.query.rows import read_table
from faceq.storage.filesystem import filesystem
from faceq.storage.settings import S3Settings
from faceq.table.schema import SCHEMA, record_of
from faceq.table.store import Table
from jobs import demo
from jobs.training import synthetic


@pytest.fixture(scope="module")
def scored(astronaut, tmp_path_factory):
    """A table of two runs in many files, with rows of every status."""
    folder = tmp_path_factory.mktemp("compact")
    chosen = ("astronaut-", "noface", "small", "broken")
    frames = [(n, d) for n, d in demo.frames(demo.source_faces()) if n.startswith(chosen)]
    demo.write_shards(folder / "in", iter(frames))
    for source in (folder / "in", PHOTOS):
        score_here(str(source), str(folder / "table"), rows_per_file=8)
    return settings(folder / "in", folder / "table", rows_per_file=8, input=[str(folder / "in"), str(PHOTOS)])


def rows_of(uri: str) -> list[dict]:
    return Table(uri, S3Settings()).rows(SCHEMA.names).sort_by("frame_id").to_pylist()


@pytest.fixture(scope="module")
def compacted(scored, tmp_path_factory) -> str:
    out = str(tmp_path_factory.mktemp("compacted") / "table")
    assert main.main(["compact", scored.out, "--out", out]) == 0
    return out


def test_the_same_rows_are_in_one_sorted_file_per_status(scored, compacted):
    assert rows_of(compacted) == rows_of(scored.out)
    files = Table(compacted, S3Settings()).row_files()
    statuses = {row["status"] for row in rows_of(scored.out)}
    assert len(files) == len(statuses) == 5 < len(Table(scored.out, S3Settings()).row_files())
    (best,) = [path for path in files if "status=scored" in path]
    quality = pq.read_table(best, partitioning=None)["dbcnn"].to_numpy()
    assert (np.diff(quality) <= 0).all()
    (below,) = [path for path in files if "status=below_fiq" in path]
    assert (np.diff(pq.read_table(below, partitioning=None)["serfiq"].to_numpy()) <= 0).all()


def test_files_and_records_are_those_of_a_table(scored, compacted):
    for path in Table(compacted, S3Settings()).row_files():
        stored = pq.ParquetFile(path)
        columns = [field for field in SCHEMA if field.name != "status"]
        assert [(f.name, f.type, f.nullable) for f in stored.schema_arrow] == [
            (f.name, f.type, f.nullable) for f in columns
        ]
        assert stored.metadata.row_group(0).column(0).compression == "ZSTD"
        footer = record_of(stored.schema_arrow)
        runs = Table(scored.out, S3Settings()).runs()
        assert footer["run_ids"] == [run["run_id"] for run in runs]
        assert footer["models"] == runs[0]["models"]
        assert {**runs[1]["config"], **footer["config"]} == runs[1]["config"]
        assert footer["config"]["fiq_threshold"] == 0.5 and "input" not in footer["config"]
    for record in Path(scored.out, "_faceq").glob("run-*.json"):
        assert json.loads(record.read_text()) == json.loads(
            Path(compacted, "_faceq", record.name).read_text()
        )


def test_it_can_be_queried_and_the_job_resumes_in_it(light_job, scored, compacted, tmp_path):
    condition = "serfiq >= 0.6 and dbcnn >= 20"
    there, here = (
        read_table(table, condition).sort_by("frame_id").drop_columns(["run_id"])
        for table in (scored.out, compacted)
    )
    assert here.num_rows and here.to_pylist() == there.to_pylist()
    again = scored.model_copy(update={"out": compacted})
    done = pipeline.score(again)
    assert (done.run.frames, done.run.already_done) == (0, len(rows_of(scored.out)))
    with pytest.raises(UsageError, match="made with other settings"):
        pipeline.score(again.model_copy(update={"min_face": 30}))


def test_large_partitions_become_several_files_in_one_order(scored, tmp_path, monkeypatch):
    monkeypatch.setattr(compact, "ROWS_PER_FILE", 10)
    monkeypatch.setattr(compact, "ROWS_PER_GROUP", 5)
    out = str(tmp_path / "table")
    rows, _, _ = compact.compact(scored.out, out, S3Settings())
    assert rows == len(rows_of(scored.out)) and rows_of(out) == rows_of(scored.out)
    files = [path for path in Table(out, S3Settings()).row_files() if "status=scored" in path]
    assert len(files) > 1
    quality = np.concatenate([pq.read_table(path, partitioning=None)["dbcnn"].to_numpy() for path in files])
    assert (np.diff(quality) <= 0).all()


def test_s3_to_s3(scored, s3):
    copied = f"{s3}/compact-in"
    files = Table(copied, S3Settings()).files
    files.put(f"{scored.out}/", Table(copied, S3Settings()).path, recursive=True)
    compact.compact(copied, f"{s3}/compact-out", S3Settings())
    assert rows_of(f"{s3}/compact-out") == rows_of(scored.out)


def test_an_unfinished_job_is_refused_until_it_was_run_again(light_job, scored, tmp_path, capsys):
    table = tmp_path / "table"
    chosen = scored.model_copy(update={"out": str(table)})
    pipeline.score(chosen)
    (path,) = (table / "_faceq").glob("run-*.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "finished": None}))  # like the record of a killed job
    assert main.main(["compact", str(table), "--out", str(tmp_path / "new")]) == 2
    assert f"{record['run_id']} has not finished" in capsys.readouterr().err
    pipeline.score(chosen.model_copy(update={"input": (str(PHOTOS),)}))  # not the input of the stopped job
    assert main.main(["compact", str(table), "--out", str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()
    pipeline.score(chosen)
    assert main.main(["compact", str(table), "--out", str(tmp_path / "new")]) == 0


def test_a_resumed_job_completes_a_killed_one_whose_clock_was_ahead(light_job, scored, tmp_path):
    table = tmp_path / "table"
    chosen = scored.model_copy(update={"out": str(table)})
    pipeline.score(chosen)
    (path,) = (table / "_faceq").glob("run-*.json")
    record = json.loads(path.read_text())
    killed = {**record, "run_id": "20991123T170000Z-aaaaaaaa", "finished": None}
    path.with_name(f"run-{killed['run_id']}.json").write_text(json.dumps(killed))
    path.unlink()
    pipeline.score(chosen)
    assert main.main(["compact", str(table), "--out", str(tmp_path / "new")]) == 0


def test_a_place_that_cannot_hold_a_table_is_refused(scored, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    for out, said in ((tmp_path / "full", "is not empty"), (f"{scored.out}/new", "one contains the other")):
        assert main.main(["compact", scored.out, "--out", str(out)]) == 2
        assert said in capsys.readouterr().err
    assert main.main(["compact", str(tmp_path), "--out", str(tmp_path / "new")]) == 2
    assert "no faceq table" in capsys.readouterr().err


def test_a_condition_reads_few_row_groups(scored, tmp_path, monkeypatch):
    monkeypatch.setattr(compact, "ROWS_PER_GROUP", 5)
    compact.compact(scored.out, str(tmp_path / "table"), S3Settings())
    (best,) = [p for p in Table(str(tmp_path / "table"), S3Settings()).row_files() if "status=scored" in p]
    file = pq.ParquetFile(best)
    index = file.schema_arrow.get_field_index("dbcnn")
    rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert set(rows[:-1]) == {5}
    highest = [file.metadata.row_group(i).column(index).statistics.max for i in range(file.num_row_groups)]
    assert len(highest) > 2 and highest == sorted(highest, reverse=True)
    assert pc.max(file.read(["dbcnn"])["dbcnn"]).as_py() == highest[0]


def test_columns_that_no_file_has_yet_are_left_out(tmp_path):
    """The table was written by an older version."""
    synthetic.write(tmp_path / "old", 5_000)
    for path in Table(str(tmp_path / "old"), S3Settings()).row_files():
        pq.write_table(pq.read_table(path, partitioning=None).drop_columns("dhash"), path)
    compact.compact(str(tmp_path / "old"), str(tmp_path / "new"), S3Settings())
    new = Table(str(tmp_path / "new"), S3Settings())
    assert all("dhash" not in pq.read_schema(path).names for path in new.row_files())
    assert new.rows(["dhash"])["dhash"].null_count == 5_000


def test_landmarks_of_a_fixed_size_become_plain_lists(tmp_path):
    """The table was written by an older version."""
    synthetic.write(tmp_path / "old", 5_000)
    expected = rows_of(str(tmp_path / "old"))
    for path in Table(str(tmp_path / "old"), S3Settings()).row_files():
        write_as_before(path)
    assert rows_of(str(tmp_path / "old")) == expected
    compact.compact(str(tmp_path / "old"), str(tmp_path / "new"), S3Settings())
    assert rows_of(str(tmp_path / "new")) == expected
    for path in Table(str(tmp_path / "new"), S3Settings()).row_files():
        assert pq.read_schema(path).field("landmarks").type == SCHEMA.field("landmarks").type


def test_the_job_resumes_in_a_table_of_an_older_version(local_ray, scored, tmp_path):
    """Some of its frames have no row yet."""
    place = shutil.copytree(scored.out, tmp_path / "table")
    files = Table(str(place), S3Settings()).row_files()
    for path in files:
        write_as_before(path)
    gone = [path for path in files if "status=scored" in path][-1]
    count = len(pq.read_table(gone, partitioning=None))
    os.unlink(gone)
    done = pipeline.score(scored.model_copy(update={"out": str(place)}))
    assert done.run.frames == count > 0
    for ours, theirs in zip(rows_of(str(place)), rows_of(scored.out), strict=True):
        assert {**ours, "run_id": ""} == {**theirs, "run_id": ""}


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_a_table_whose_name_looks_like_a_glob_is_not_mistaken_for_others(place, tmp_path, request):
    for name, rows in (("scores[1]", 3_000), ("scores1", 1_000), ("scores*", 2_000)):
        synthetic.write(tmp_path / name, rows)
    folder = str(tmp_path)
    if place == "s3":
        folder = f"{request.getfixturevalue('s3')}/patterns"
        filesystem(folder, S3Settings()).put(f"{tmp_path}/", f"{folder}/", recursive=True)
    for name, rows in (("scores[1]", 3_000), ("scores*", 2_000)):
        assert len(read_table(f"{folder}/{name}")) == rows
        assert compact.compact(f"{folder}/{name}", f"{folder}/{name}-new", S3Settings())[0] == rows
        assert rows_of(f"{folder}/{name}-new") == rows_of(f"{folder}/{name}")


def _cut(stored: bytes) -> bytes:
    return stored[:1_000]


def _page(stored: bytes) -> bytes:
    return b"PAR1" + b"\xff" * 3_000 + stored[3_004:]


def _footer(stored: bytes) -> bytes:
    begin = len(stored) - 8 - int.from_bytes(stored[-8:-4], "little")
    return stored[:begin] + b"\xff" * 40 + stored[begin + 40 :]


@pytest.mark.parametrize("damaged", [_cut, _page, _footer])
def test_a_damaged_file_is_named(damaged, tmp_path):
    synthetic.write(tmp_path / "table", 5_000)
    table = Table(str(tmp_path / "table"), S3Settings())
    path = Path(table.row_files()[0])
    path.write_bytes(damaged(path.read_bytes()))
    with pytest.raises(StorageError, match=f"{path} is damaged .*: delete it and start the job again"):
        table.frame_ids()
    with pytest.raises(StorageError, match=str(path)):
        compact.compact(table.uri, str(tmp_path / "new"), S3Settings())
    assert not Table(str(tmp_path / "new"), S3Settings()).exists()
