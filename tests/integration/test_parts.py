"""Jobs that read large files in parts: the same rows, whoever began the table."""

import io
import logging
import os
import tarfile

import pytest
from here import settings
from records import identities, write_records
from videos import noise, write_video

from faceq.job import graph, pipeline, splitting
from faceq.sources import parts, read_shards
from faceq.sources.listing import list_shards
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK
from faceq.table.store import Table
from jobs import demo

pytestmark = pytest.mark.usefixtures("light_job")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Parts of a few members, also of a single video on two CPUs."""
    monkeypatch.setattr(parts, "PART_BYTES", {"tar": 32 << 10, "record": 32 << 10, "video": 8 << 10})
    monkeypatch.setattr(splitting, "CPUS_PER_VIDEO", 1)


@pytest.fixture
def tasks(monkeypatch):
    """The number of read tasks of each job."""
    found: list[int] = []
    run = graph.run_graph

    def counted(*args):
        found.append(len(args[2]))
        run(*args)

    monkeypatch.setattr(graph, "run_graph", counted)
    return found


@pytest.fixture
def tars(tmp_path, astronaut):
    """Two tars of 20 frames, the second one cut off, a RecordIO file of 20, and a video without faces."""
    image = demo._jpeg(demo._frame_around(astronaut, [200, 60, 80, 110]))
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.tar", "b.tar"):
        with tarfile.open(folder / name, "w") as tar:
            for index in range(20):
                info = tarfile.TarInfo(f"{index:02}.jpg")
                info.size = len(image)
                tar.addfile(info, io.BytesIO(image))
    size = (folder / "b.tar").stat().st_size
    os.truncate(folder / "b.tar", size * 3 // 4)
    write_records(folder / "r.rec", identities([(index // 4, image) for index in range(20)]))
    write_video(folder / "c.mp4", noise(40), g="8", **{"x264-params": "open-gop=0"})
    return folder


def rows_of(job) -> list[tuple]:
    rows = Table(job.out, job.s3).rows(["source", "member", "frame_index", "status", "error"])
    return sorted((tuple(row.values()) for row in rows.to_pylist()), key=repr)


def test_a_table_that_was_begun_without_parts_is_finished_with_them(tars, tmp_path, tasks, caplog):
    job = settings(tars, tmp_path / "table")
    first = pipeline.score(settings(tars, tmp_path / "table", limit=7))
    with caplog.at_level(logging.INFO, "faceq"):
        done = pipeline.score(job)
    assert "indexing 4 large files, to read parts of them at the same time" in caplog.messages
    assert tasks[0] == 4 and tasks[1] >= 16
    whole = list(read_shards(list_shards(job.input, S3Settings()), S3Settings()))
    rows = rows_of(job)
    expected = [(f.source, f.member, f.frame_index, f.error) for f in whole]
    assert sorted([(*row[:3], row[4]) for row in rows], key=repr) == sorted(expected, key=repr)
    assert first.run.rows == 7 and done.run.rows == done.run.frames == len(rows) - 7
    assert pipeline.score(job).run.already_done == len(rows)
    assert len(tasks) == 2  # all four are on record as finished: they were not opened again


def test_damage_that_several_parts_meet_is_one_row(tars, tmp_path, monkeypatch):
    os.unlink(tars / "b.tar")
    os.unlink(tars / "c.mp4")
    os.unlink(tars / "r.rec")
    split = splitting.split_large

    def split_then_change(*args):
        found = split(*args)
        os.utime(tars / "a.tar", ns=(1, 1))
        return found

    monkeypatch.setattr(pipeline, "split_large", split_then_change)
    job = settings(tars, tmp_path / "table")
    done = pipeline.score(job)
    ((_, _, index, status, error),) = rows_of(job)
    assert (index, status) == (BREAK, "unreadable") and "was changed while it was read" in error
    assert done.run.frames == done.run.rows == 1


@pytest.mark.parametrize(
    ("videos", "cpus_per_video", "worthwhile"), [(1, 1, True), (2, 1, False), (1, 3, False)]
)
def test_videos_are_split_only_if_their_readers_would_leave_cpus_idle(
    monkeypatch, videos, cpus_per_video, worthwhile
):
    """On a machine with two CPUs."""
    monkeypatch.setattr(splitting.ray, "nodes", lambda: [{}])
    monkeypatch.setattr(splitting.ray, "cluster_resources", lambda: {"CPU": 2.0})
    assert splitting._is_worthwhile(videos, cpus_per_video) == worthwhile


def test_a_tar_that_cannot_be_split_says_why(tars, tmp_path, caplog):
    with tarfile.open(tars / "a.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("00.jpg"))
    shards = list_shards([str(tars / "a.tar")], S3Settings())
    with caplog.at_level(logging.INFO, "faceq"):
        assert splitting.split_large(shards, settings(tars, tmp_path / "table")) == shards
    assert "one task reads this file: it holds several images of the same name" in caplog.text
