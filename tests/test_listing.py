"""Which files hold frames, and how they share read tasks."""

import os

import pytest

from faceq.config import S3
from faceq.errors import UsageError
from faceq.listing import Shard, group, list_shards


def test_folders_are_searched_and_other_files_passed_over(tmp_path):
    for name in (
        "a.jpg",
        "deep/b.PNG",
        "deep/c.tar.gz",
        "d.parquet",
        "notes.txt",
        ".hidden.jpg",
        ".git/e.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [(os.path.relpath(s.source, tmp_path), s.kind) for s in list_shards([str(tmp_path)], S3())]
    assert found == [
        ("a.jpg", "picture"),
        ("d.parquet", "parquet"),
        ("deep/b.PNG", "picture"),
        ("deep/c.tar.gz", "tar"),
    ]


def test_a_shard_named_twice_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    shards = list_shards([".", "a.jpg", f"{tmp_path}/*.jpg", f"file://{tmp_path}/a.jpg"], S3())
    assert [shard.source for shard in shards] == [str(tmp_path / "a.jpg")]


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(tmp_path):
    (tmp_path / "a[1].jpg").touch()
    (tmp_path / "a1.jpg").touch()
    assert [s.path for s in list_shards([f"{tmp_path}/a[1].jpg"], S3())] == [f"{tmp_path}/a[1].jpg"]
    assert [s.path for s in list_shards([f"{tmp_path}/a[0-9].jpg"], S3())] == [f"{tmp_path}/a1.jpg"]


@pytest.mark.parametrize("name", ["missing", "missing.jpg", "*.jpg"])
def test_what_is_not_there_is_wrong_usage(tmp_path, name):
    with pytest.raises(UsageError, match=r"no such file|nothing matches"):
        list_shards([str(tmp_path / name)], S3())


def test_a_folder_without_frames_is_wrong_usage(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="no frames here"):
        list_shards([str(tmp_path)], S3())


def test_a_file_of_another_kind_is_wrong_usage(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="not a kind of input"):
        list_shards([str(tmp_path / "notes.txt")], S3())


def test_pictures_share_read_tasks_and_shards_do_not():
    shards = [Shard(f"/{i}.jpg", f"/{i}.jpg", "picture", 1) for i in range(130)]
    shards += [Shard("/a.tar", "/a.tar", "tar", 1), Shard("/b.tar", "/b.tar", "tar", 1)]
    assert sorted(len(shards) for shards in group(shards)) == [1, 1, 2, 64, 64]
