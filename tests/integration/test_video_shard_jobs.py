"""Jobs over shards that hold videos."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from here import settings
from tars import write_tar
from videos import noise, write_video

from faceq.cli import main
from faceq.config import Config
from faceq.job import pipeline
from faceq.sources import parts, read_shards
from faceq.sources.listing import list_shards
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK
from faceq.table.store import Table
from jobs import demo

pytestmark = pytest.mark.usefixtures("light_job")


@pytest.fixture
def shards(tmp_path, astronaut) -> Path:
    """A tar and a Parquet file with videos, images and a file that is no video."""
    image = demo._jpeg(demo._frame_around(astronaut, [200, 60, 80, 110]))
    clip = write_video(tmp_path / "c.mp4", noise(12)).read_bytes()
    made = []
    for number in range(6):
        made += [(f"{number}.mp4", clip), (f"{number}.txt", b"%d" % number)]
    made += [("7.jpg", image), ("8.mp4", b"nothing"), ("9.mp4", clip)]
    folder = tmp_path / "in"
    folder.mkdir()
    write_tar(folder / "a.tar", made)
    pq.write_table(pa.table({"id": ["x", "y"], "video": [clip, clip]}), folder / "b.parquet")
    return folder


def rows_of(job: Config) -> list[tuple]:
    columns = ["source", "member", "frame_index", "timestamp_s", "extra", "error"]
    return [tuple(row.values()) for row in Table(job.out, job.s3).rows(columns).to_pylist()]


def test_each_frame_has_one_row_after_a_resume_and_in_parts(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", {**parts.PART_BYTES, "tar": 8 << 10, "video": 1 << 30})
    sampling = {"video": {"every": 4}}
    job = settings(shards, tmp_path / "table", **sampling)
    first = pipeline.score(settings(shards, tmp_path / "table", limit=5, **sampling))
    done = pipeline.score(job)
    expected = [
        (f.source, f.member, f.frame_index, f.timestamp_s, f.extra)
        for f in read_shards(
            list_shards(job.input, S3Settings()), S3Settings(), (), job.video, extra_bytes=job.extra_bytes
        )
    ]
    rows = rows_of(job)
    assert sorted([row[:5] for row in rows], key=repr) == sorted(expected, key=repr)
    assert len(rows) == 7 * 3 + 1 + 1 + 2 * 3
    assert first.run.rows == 5 and done.run.frames == done.run.rows == len(rows) - 5
    assert [row[1:3] for row in rows if row[-1]] == [("8.mp4", BREAK)]
    assert pipeline.score(job).run.already_done == len(rows)


def test_frames_of_videos_in_shards_are_exported(shards, tmp_path):
    job = settings(shards, tmp_path / "table", video={"every": 6})
    pipeline.score(job)
    where = "timestamp_s > 0.2"
    assert main.main(["query", job.out, where, "--export-shards", str(tmp_path / "out")]) == 0
    exported = list(read_shards(list_shards([str(tmp_path / "out")], S3Settings()), S3Settings()))
    assert len(exported) == 9 and not any(frame.error for frame in exported)
