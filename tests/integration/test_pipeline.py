"""Whole jobs on a local Ray: one row per frame for all kinds of frames."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.parquet as pq
import pytest
from here import settings
from PIL import Image
from places import PHOTOS

import faceq
from faceq import config
from faceq.errors import JobError, UsageError
from faceq.job import graph, pipeline, summary
from faceq.models.zoo import ModelError
from faceq.table.schema import SCHEMA, frame_id, record_of
from faceq.table.store import Table
from jobs import demo

pytestmark = pytest.mark.usefixtures("local_ray")

VALUES = [name for name in SCHEMA.names if name != "run_id"]


@pytest.fixture(scope="module")
def frames() -> list[tuple[str, bytes]]:
    """Some of the demo's frames. They give every status, and one member name occurs twice."""
    chosen = [
        (name, data)
        for name, data in demo.frames(demo.source_faces())
        if name.startswith(("astronaut-blur", "group0", "noface", "small", "broken"))
    ]
    return [*chosen, chosen[0]]


@pytest.fixture(scope="module")
def shards(frames, tmp_path_factory):
    """The frames in a tar, a truncated gzipped tar, a Parquet file and single images."""
    folder = tmp_path_factory.mktemp("input")
    demo.write_shards(folder / "tars", iter(frames))
    packed = folder / "packed.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        for name, data in frames[:8]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    packed.write_bytes(packed.read_bytes()[:-20_000])
    names, images = zip(*frames[8:14], strict=True)
    pq.write_table(pa.table({"id": names, "image": images}), folder / "rows.parquet")
    for photo in PHOTOS.glob("mask_*.jpg"):
        (folder / photo.name).write_bytes(photo.read_bytes())
    return folder


def rows_of(settings: config.Config) -> list[dict]:
    table = Table(settings.out, settings.s3).rows(VALUES)
    return table.sort_by("frame_id").to_pylist()


@pytest.fixture(scope="module")
def scored(shards, tmp_path_factory):
    """All stages run in the same processes, as on a Ray that the job has started itself."""
    chosen = settings(shards, tmp_path_factory.mktemp("out") / "table")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "runs_here", lambda: True)
        return chosen, pipeline.score(chosen)


def test_ray_does_not_warn_about_an_input_that_is_smaller_than_the_pool(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(pipeline, "runs_here", lambda: True)
    done = pipeline.score(settings(PHOTOS / "t1.jpg", tmp_path / "table"))
    assert done.run.rows == 1
    assert [str(each.message) for each in recwarn if "actors" in str(each.message)] == []


def test_every_frame_has_exactly_one_row(scored, shards, frames):
    chosen, done = scored
    rows = rows_of(chosen)
    assert done.run.frames == done.run.rows == len(rows)
    assert len({row["frame_id"] for row in rows}) == len(rows)
    assert all(row["frame_id"] == frame_id(row["source"], row["member"], row["frame_index"]) for row in rows)
    by_source: dict[str, list[dict]] = {}
    for row in rows:
        by_source.setdefault(row["source"], []).append(row)
    assert len(by_source[f"{shards}/tars/00000.tar"]) == len(frames)
    assert [row["member"] for row in by_source[f"{shards}/mask_blue.jpg"]] == [None]
    assert {row["member"] for row in by_source[f"{shards}/rows.parquet"]} == {
        name for name, _ in frames[8:14]
    }
    packed = by_source[f"{shards}/packed.tar.gz"]
    (cut,) = [row for row in packed if row["frame_index"] == -1]
    assert len(packed) < 9 and cut["status"] == "unreadable" and "at byte" in cut["error"]


def test_every_status_is_there_and_counted(scored):
    chosen, done = scored
    found = [row["status"] for row in rows_of(chosen)]
    assert done.run.counts == {status: found.count(status) for status in done.run.counts}
    assert min(done.run.counts.values()) > 0


def test_the_job_and_score_images_agree_to_the_bit(scored, frames):
    chosen, _ = scored
    rows = {row["member"]: row for row in rows_of(chosen) if row["source"].endswith("00000.tar")}
    names, images = zip(*frames[:-1], strict=True)
    alone = faceq.score_images(images).select(VALUES).to_pylist()
    for name, row in zip(names, alone, strict=True):
        same = set(VALUES) - {"frame_id", "source", "member"}
        assert {key: row[key] for key in same} == {key: rows[name][key] for key in same}


def test_other_batch_sizes_and_pools_give_the_same_bits(scored, shards, tmp_path):
    """Here each stage has processes of its own."""
    chosen, _ = scored
    other = settings(
        shards,
        tmp_path / "table",
        find_face={"batch_size": 5},
        serfiq={"batch_size": 7, "num_cpus": 0.25, "min_size": 2},
        dbcnn={"batch_size": 11, "num_cpus": 0.25},
        rows_per_file=10,
    )
    pipeline.score(other)
    assert rows_of(other) == rows_of(chosen)


def test_dropout_passes_give_the_same_bits_in_every_process(frames, tmp_path):
    """In a job of two actors with batches of 3, and in this process."""
    demo.write_shards(tmp_path / "in", iter(frames[:7]))
    pool = {"batch_size": 3, "num_cpus": 0.25, "min_size": 2}
    chosen = settings(tmp_path / "in", tmp_path / "table", serfiq_passes=20, serfiq=pool)
    pipeline.score(chosen)
    names, images = zip(*frames[:7], strict=True)
    alone = faceq.score_images(images, serfiq_passes=20)["serfiq_raw"].to_pylist()
    in_the_job = {row["member"]: row["serfiq_raw"] for row in rows_of(chosen)}
    assert in_the_job == dict(zip(names, alone, strict=True))


def test_files_follow_the_contract(scored):
    chosen, done = scored
    table = pds.dataset(chosen.out, partitioning="hive")
    assert set(table.schema.names) == set(SCHEMA.names)
    assert table.to_table(["status"])["status"].type in (pa.string(), pa.dictionary(pa.int32(), pa.string()))
    for path in table.files:
        stored = pq.ParquetFile(path)
        columns = [field for field in SCHEMA if field.name != "status"]
        assert [(f.name, f.type) for f in stored.schema_arrow] == [(f.name, f.type) for f in columns]
        assert stored.metadata.row_group(0).column(0).compression == "ZSTD"
        record = record_of(stored.schema_arrow)
        assert record["run_id"] == done.run.run_id
        assert record["version"] == faceq.__version__
        assert record["config"]["fiq_threshold"] == 0.5
        assert len(record["models"]["sface"]["sha256"]) == 64 and record["models"]["sface"]["licence"]
        assert record["calibration"]["threshold"] > 0


def test_the_run_is_on_record(scored):
    chosen, done = scored
    with open(f"{chosen.out}/_faceq/run-{done.run.run_id}.json", encoding="utf-8") as file:
        record = json.load(file)
    assert record["frames"] == record["rows"] == sum(record["counts"].values()) == done.run.rows
    assert record["started"] <= record["finished"]
    assert record["models"]["yunet"]["sha256"].startswith("49f000ec")


def test_the_summary_says_what_happened(scored):
    chosen, done = scored
    text = summary.text(done)
    assert f"{done.run.rows:,}   written, one for each frame" in text
    assert chosen.out in text and "faceq query" in text and "frames/s" in text
    assert all(status in text for status in done.run.counts)
    assert done.errors and all(f"{count}   {error}" in text for error, count in done.errors.items())


def test_a_second_run_scores_nothing_and_new_input_is_added(light_job, shards, tmp_path):
    # The end of the truncated shard counts as done after the first run, too.
    chosen = settings(shards / "packed.tar.gz", tmp_path / "table")
    first = pipeline.score(chosen)
    again = pipeline.score(chosen)
    assert (again.run.frames, again.run.already_done) == (0, first.run.rows)
    more = settings(shards, chosen.out, input=[*chosen.input, str(shards / "mask_blue.jpg")])
    added = pipeline.score(more)
    assert (first.earlier_rows, added.earlier_rows, added.run.frames) == (0, first.run.rows, 1)
    assert len(rows_of(chosen)) == first.run.rows + 1


def test_a_limit_takes_the_same_first_frames_in_every_run(light_job, shards, tmp_path):
    chosen = settings(shards / "tars", tmp_path / "table", limit=5)
    assert pipeline.score(chosen).run.frames == 5
    assert pipeline.score(chosen).run.frames == 0
    assert pipeline.score(settings(shards / "tars", tmp_path / "table", limit=9)).run.frames == 4
    assert len(rows_of(chosen)) == 9


def test_frames_of_an_animation_are_rows_on_request(light_job, tmp_path, astronaut):
    frames = [Image.fromarray(np.roll(astronaut, 4 * number, 1)) for number in range(3)]
    (tmp_path / "in").mkdir()
    frames[0].save(tmp_path / "in" / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    every = settings(tmp_path / "in", tmp_path / "every", read={"animated": "frames"})
    assert pipeline.score(every).run.frames == 3
    rows = Table(every.out, every.s3).rows(["frame_index", "timestamp_s"]).sort_by("frame_index")
    assert rows.to_pydict() == {"frame_index": [0, 1, 2], "timestamp_s": [0.0, 0.1, 0.2]}
    assert pipeline.score(settings(tmp_path / "in", tmp_path / "first")).run.frames == 1


def test_a_table_of_other_settings_is_refused_with_the_difference(scored, shards):
    chosen, _ = scored
    with pytest.raises(UsageError, match=r"min_face was 40, is now 30"):
        pipeline.score(settings(shards, chosen.out, min_face=30))


def test_a_folder_with_other_files_is_refused(shards):
    with pytest.raises(UsageError, match="not a faceq table"):
        pipeline.score(settings(shards, shards / "tars"))


@pytest.mark.parametrize("input_by", ["in", "link"])
@pytest.mark.parametrize("out_by", ["in", "link"])
def test_the_table_inside_the_input_is_not_input(light_job, tmp_path, astronaut, input_by, out_by):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "a.jpg").write_bytes(demo._jpeg(astronaut))
    chosen = settings(tmp_path / input_by, tmp_path / out_by / "table")
    assert pipeline.score(chosen).run.frames == 1
    again = pipeline.score(chosen).run
    assert (again.frames, again.already_done) == (0, 1)


def test_a_million_bad_frames_stop_the_job_with_the_reason(light_job, tmp_path):
    demo.write_shards(tmp_path / "in", ((f"{i}.jpg", b"<html>403</html>") for i in range(300)))
    with pytest.raises(JobError, match=r"stopped: .* frames are unreadable, the last with: not an image"):
        pipeline.score(settings(tmp_path / "in", tmp_path / "table"))


def test_a_handful_of_bad_frames_are_rows(light_job, tmp_path):
    demo.write_shards(tmp_path / "in", ((f"{i}.jpg", b"<html>403</html>") for i in range(12)))
    done = pipeline.score(settings(tmp_path / "in", tmp_path / "table"))
    assert done.run.counts["unreadable"] == done.run.rows == 12


def test_an_error_in_a_worker_is_reported_unchanged(light_job, shards, tmp_path, monkeypatch):
    class Broken:
        def __init__(self, config, models, census):
            raise ModelError("models: dbcnn-lite could not be fetched")

    monkeypatch.setattr(graph, "FiqStage", Broken)
    with pytest.raises(JobError, match=r"a stage of the job failed: .*dbcnn-lite could not be fetched"):
        pipeline.score(settings(shards / "mask_blue.jpg", tmp_path / "table"))


def test_an_input_that_is_only_the_table_is_wrong_usage(scored):
    chosen, _ = scored
    with pytest.raises(UsageError, match="no frames here except in a faceq result table"):
        pipeline.score(settings(chosen.out, chosen.out))
