"""Inputs that contain other things than frames, or the same frames twice."""

import shutil
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
import small_s3 as small_s3_module
from places import PHOTOS
from small_s3 import BUCKET, small_s3

import faceq
from faceq import config
from faceq.errors import StorageError, UsageError
from faceq.job import pipeline, summary
from faceq.sources import Findings, read_shards
from faceq.sources.listing import list_shards
from faceq.storage.filesystem import absolute, path_of
from faceq.storage.settings import S3Settings
from faceq.table.store import Table


@pytest.mark.parametrize(
    "place", ["/data/a b.jpg", "//data/a b.jpg", "///data//a b.jpg", "//data/x/../a b.jpg"]
)
def test_leading_slashes_do_not_change_the_source(place):
    assert absolute(place) == path_of(place) == "/data/a b.jpg"
    for scheme in ("file://", "file:///", "file://localhost"):
        assert absolute(scheme + place.replace(" ", "%20")) == "/data/a b.jpg"


def test_frames_have_the_same_ids_with_any_number_of_leading_slashes(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    places = [str(tmp_path), f"/{tmp_path}", f"/{tmp_path}/*.jpg", f"file:///{tmp_path}/a.jpg"]
    (found,) = list_shards(places, S3Settings())
    assert found.source == found.path == f"{tmp_path}/a.jpg"


@pytest.fixture
def crowded(looked_at, tmp_path) -> Path:
    """A folder with one image, a result table, files of another table, and a link to a folder."""
    folder = tmp_path / "in"
    (folder / "pictures").mkdir(parents=True)
    shutil.copy(PHOTOS / "mask_blue.jpg", folder / "pictures")
    shutil.copytree(looked_at, folder / "a" / "table")
    shutil.copytree(Path(looked_at) / "status=scored", folder / "rows")
    return folder


def test_result_tables_in_an_input_are_skipped_and_named(crowded, light_job, tmp_path):
    settings = config.build({"input": [str(crowded)], "out": str(tmp_path / "table")})
    done = pipeline.score(settings)
    rows = faceq.read_table(settings.out)
    assert rows["source"].to_pylist() == [f"{crowded}/pictures/mask_blue.jpg"]
    assert f"{crowded}/a/table: is a faceq result table: not read as frames" in done.run.notes
    copies = [note for note in done.run.notes if "is part of a faceq result table" in note]
    assert len(copies) == len(list((crowded / "rows").iterdir())) > 0
    assert "is a faceq result table" in summary.text(done)
    assert done.run.passed_over.get(".parquet", 0) == len(copies)


@pytest.mark.parametrize("place", ["", "/*", "/status=*", "/status=*/*.parquet"])
def test_an_input_that_is_a_result_table_has_no_frames(looked_at, place):
    if place in ("", "/*"):
        with pytest.raises(UsageError, match="no frames here except in a faceq result table"):
            list_shards([f"{looked_at}{place}"], S3Settings(), any_name=place == "/*")
    else:
        findings = Findings()
        found = list_shards([f"{looked_at}{place}"], S3Settings())
        assert not list(read_shards(found, S3Settings(), findings=findings))
        assert len(findings.notes) == len(found) == len(Table(looked_at, S3Settings()).row_files())


def test_result_tables_on_s3_are_skipped():
    objects = {"in/t/_faceq/run-1.json": b"{}", "in/t/status=scored/1.parquet": b"x", "in/a.jpg": b"x"}
    with small_s3(objects) as store:
        notes: list[str] = []
        (found,) = list_shards([f"s3://{BUCKET}/in"], store.settings, notes=notes)
    assert found.source == f"s3://{BUCKET}/in/a.jpg"
    assert notes == [f"s3://{BUCKET}/in/t: is a faceq result table: not read as frames"]


def test_indistinguishable_keys_stop_the_job(monkeypatch):
    """Some stores accept names that are not UTF-8. In a listing, each invalid byte becomes the same
    character."""
    monkeypatch.setattr(small_s3_module, "_coded", lambda name, query: quote(name.encode("latin-1")))
    with small_s3({"in/a\xfe.jpg": b"x", "in/a\xff.jpg": b"y"}) as store:
        for place in ("in", "in/*"):
            with pytest.raises(StorageError, match=r"several objects are listed as 'in/a\ufffd\.jpg'"):
                list_shards([f"s3://{BUCKET}/{place}"], store.settings)


def test_rows_written_by_another_program_are_an_ordinary_shard(looked_at, tmp_path):
    """Without faceq's footer, nothing shows that the file belongs to a table. The error says that it has no
    images."""
    rows = faceq.read_table(looked_at).replace_schema_metadata(None)
    pq.write_table(rows, tmp_path / "rows.parquet")
    (frame,) = read_shards(list_shards([str(tmp_path)], S3Settings()), S3Settings())
    assert frame.error


def test_a_folder_that_is_given_under_two_names_is_named(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.jpg").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    notes: list[str] = []
    found = list_shards([f"{tmp_path}/real", f"{tmp_path}/link"], S3Settings(), notes=notes)
    assert len(found) == 2
    assert notes == [
        f"{tmp_path}/link: is the same folder as {tmp_path}/real: its frames are scored once under each name"
    ]
