"""Atomic writing of files."""

import gc
import os
from pathlib import Path

import pytest

from faceq.errors import UsageError
from faceq.storage.filesystem import absolute, filesystem, is_inside, path_of
from faceq.storage.local_files import AtomicLocalFileSystem
from faceq.storage.outputs import check_output, write_output
from faceq.storage.s3_files import ATTEMPTS
from faceq.storage.settings import S3Settings


def test_a_file_is_not_there_until_it_is_closed(tmp_path):
    path = tmp_path / "new" / "rows.parquet"
    with AtomicLocalFileSystem().open(str(path), "wb") as file:
        file.write(b"rows")
        file.flush()
        assert not path.exists()
        assert all(name.startswith(".") for name in os.listdir(path.parent))
    assert path.read_bytes() == b"rows"
    assert os.listdir(path.parent) == ["rows.parquet"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), AtomicLocalFileSystem().open(str(path), "wb") as file:
        file.write(b"half")
        raise RuntimeError("stopped")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["rows.parquet"]


def test_a_file_that_is_dropped_unclosed_never_appears(tmp_path):
    file = AtomicLocalFileSystem().open(str(tmp_path / "rows.parquet"), "wb")
    file.write(b"half")
    del file
    gc.collect()
    assert os.listdir(tmp_path) == []


def test_written_content_is_on_the_disk_when_close_returns(tmp_path, monkeypatch):
    """First the content is synced. Then the name appears and is synced, with the names of new folders."""
    calls: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        fsync(handle)
        calls.append(("fsync", os.fstat(handle).st_ino))

    def replaced(old: str, new: str) -> None:
        replace(old, new)
        calls.append(("replace", os.stat(new).st_ino))

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    path = tmp_path / "new" / "status=scored" / "rows.parquet"
    for content in (b"rows", b"other rows"):
        calls.clear()
        with AtomicLocalFileSystem().open(str(path), "wb") as file:
            file.write(content)
            assert not calls
        here = path.stat().st_ino
        assert calls[:3] == [("fsync", here), ("replace", here), ("fsync", path.parent.stat().st_ino)]
        outer = [("fsync", folder.stat().st_ino) for folder in (tmp_path / "new", tmp_path)]
        if content == b"rows":
            assert calls[3:5] == outer
        else:
            assert not calls[3:]


def test_content_that_does_not_fit_on_the_disk_is_a_failed_write(tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(OSError, match="No space"),
        AtomicLocalFileSystem().open(f"{tmp_path}/a", "wb") as file,
    ):
        file.write(b"rows")
    assert os.listdir(tmp_path) == []


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    with AtomicLocalFileSystem().open(str(tmp_path / "made"), "wb") as file:
        file.write(b"x")
    assert (tmp_path / "made").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_names_of_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("t") == f"{tmp_path}/t"
    assert absolute("file:///a/b/") == "/a/b"
    odd = os.fsdecode(f"{tmp_path}/my 50% pic#1?ü".encode() + b"\xff.jpg")
    assert absolute(Path(odd).as_uri()) == odd == absolute(odd)
    assert absolute("/a/50%20off") == "/a/50%20off"
    assert absolute("s3://b/50% of it/") == "s3://b/50% of it"
    assert path_of("s3://b/key") == "b/key"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("here", "it is a folder or a bucket"),
        ("new/", "it is a folder or a bucket"),
        ("s3://bucket", "it is a folder or a bucket"),
        ("none/f.json", "there is no folder"),
        ("ftp://host/f.json", "only local paths and "),
    ],
)
def test_an_output_that_cannot_be_a_file_is_reported_before_the_work(tmp_path, monkeypatch, place, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(UsageError, match=said):
        check_output(place, S3Settings())


def test_an_output_may_be_a_pipe_as_dev_stdout_is():
    reader, writer = os.pipe()
    check_output(f"/dev/fd/{writer}", S3Settings())
    write_output(f"/dev/fd/{writer}", b"figures", S3Settings())
    assert os.read(reader, 100) == b"figures"
    os.close(reader)
    os.close(writer)


def test_other_schemes_are_wrong_usage():
    with pytest.raises(UsageError, match=r"only local paths and .* are supported"):
        filesystem("ftp://host/x", S3Settings())


def test_the_users_retry_settings_are_used_if_there_are_any(monkeypatch, tmp_path):
    for name in ("AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert retries_of(S3Settings(region="r1")) == {"mode": "standard", "total_max_attempts": ATTEMPTS}
    (tmp_path / "config").write_text("[profile slow]\nmax_attempts = 9\nretry_mode = adaptive\n")
    assert retries_of(S3Settings(region="r2", profile="slow")) == {
        "mode": "adaptive",
        "total_max_attempts": 9,
    }
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    assert retries_of(S3Settings(region="r3")) == {"mode": "standard", "total_max_attempts": 3}
    monkeypatch.setenv("AWS_RETRY_MODE", "legacy")
    assert retries_of(S3Settings(region="r4")) == {"mode": "legacy", "total_max_attempts": 3}


def retries_of(s3: S3Settings) -> dict:
    """The retry settings as botocore applies them."""
    return filesystem("s3://bucket", s3).s3.meta.config.retries


@pytest.mark.parametrize(
    ("uri", "folder", "expected"),
    [
        ("/data/table/part", "/data/table", True),
        ("/data/table", "/data/table/", True),
        ("/data/tables", "/data/table", False),
        ("/data", "/data/table", False),
        ("/data", "/", True),
        ("file:///data/my%20table/part", "/data/my table", True),
        ("s3://bucket/table/part", "s3://bucket/table", True),
        ("s3://bucket/table", "gs://bucket/table", False),
        ("abfs://container/table/part", "az://container/table", True),
        ("gcs://bucket/table", "gs://bucket/table", True),
        ("/bucket/table", "s3://bucket/table", False),
    ],
)
def test_a_place_lies_in_a_folder_whatever_its_scheme_is_called(uri, folder, expected):
    assert is_inside(uri, folder) is expected
