"""Inputs that are changed, replaced or removed while they are read, and entries that are not regular
files."""

import io
import os
import socket
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from compressors import FORMS, pack
from PIL import Image
from small_s3 import BUCKET, small_s3
from videos import write_video

from faceq.sources import parquet as parquet_source
from faceq.sources import read_shards, reading
from faceq.sources.frame import Frame
from faceq.sources.listing import Shard, list_shards
from faceq.sources.tar_archive import MAX_PADDING
from faceq.storage.settings import S3Settings

COUNT = 60
KINDS = ("shard.tar", *(f"shard.tar.{form}" for form in FORMS), "shard.parquet", "clip.mkv")


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(seed)).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_tar(path: Path, images: list[bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for index, image in enumerate(images):
            info = tarfile.TarInfo(f"{index:03}.jpg")
            info.size = len(image)
            tar.addfile(info, io.BytesIO(image))
    if path.suffix != ".tar":
        # bzip2 in its smallest blocks: a block is read as a whole.
        path.write_bytes(pack(path.read_bytes(), path.suffix[1:], "-1"))


def write(path: Path, first: int = 0) -> Path:
    """Write a source of COUNT frames. The ending gives its kind. `first`: the first seed of the frames."""
    seeds = range(first, first + COUNT)
    if path.suffix == ".mkv":
        return write_video(path, [noise(seed) for seed in seeds], bf="0", g="1")
    images = [jpeg(seed) for seed in seeds]
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"image": images}), path, row_group_size=4)
    else:
        write_tar(path, images)
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, tuple[bytes, bytes]]:
    """Each kind of source, and its replacement with other frames."""
    folder = tmp_path_factory.mktemp("sources")
    return {
        name: (write(folder / name).read_bytes(), write(folder / name, first=500).read_bytes())
        for name in KINDS
    }


def facts(frames: list[Frame]) -> list[tuple]:
    return [(frame.id, frame.image, frame.error) for frame in frames]


def read(path: str, s3: S3Settings | None = None) -> Iterator[Frame]:
    return read_shards(list_shards([path], s3 or S3Settings()), s3 or S3Settings())


def grows(path: Path, other: bytes) -> None:
    with open(path, "ab") as file:
        file.write(other)


def is_cut(path: Path, other: bytes) -> None:
    os.truncate(path, path.stat().st_size // 2)


def is_written_again(path: Path, other: bytes) -> None:
    path.write_bytes(other)


@pytest.mark.parametrize("change", [grows, is_cut, is_written_again])
@pytest.mark.parametrize("name", KINDS)
def test_a_source_that_is_written_to_while_it_is_read_has_a_row_that_says_so(
    sources, tmp_path, name, change: Callable[[Path, bytes], None]
):
    path = tmp_path / name
    path.write_bytes(sources[name][0])
    frames = read(str(path))
    found = [next(frames), next(frames)]
    change(path, sources[name][1])
    found += frames
    assert [frame.error for frame in found if frame.frame_index == -1] == [found[-1].error]
    assert "changed while it was read" in found[-1].error and not found[-1].refused


@pytest.mark.parametrize("change", ["removed", "replaced"])
@pytest.mark.parametrize("name", KINDS)
def test_a_source_that_is_removed_or_replaced_while_it_is_read_is_read_as_it_was(
    sources, tmp_path, name, change
):
    path, other = tmp_path / name, tmp_path / "other"
    path.write_bytes(sources[name][0])
    undisturbed = facts(list(read(str(path))))
    other.write_bytes(sources[name][1])
    frames = read(str(path))
    found = [next(frames)]
    path.unlink() if change == "removed" else other.rename(path)
    assert facts([*found, *frames]) == undisturbed
    assert len(undisturbed) == COUNT


def test_a_source_of_which_only_some_frames_are_wanted_may_change_later(sources, tmp_path):
    path = tmp_path / "shard.tar"
    path.write_bytes(sources["shard.tar"][0])
    frames = read(str(path))
    next(frames)
    path.write_bytes(b"")
    frames.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("removed", "gone: it existed when the input was listed"),
        ("replaced", "was replaced during the read"),
    ],
)
@pytest.mark.parametrize("name", KINDS)
def test_an_object_that_is_removed_or_replaced_while_it_is_read_is_a_break(
    sources, monkeypatch, name, change, said
):
    """One name never has frames of two objects."""
    for module in (reading, parquet_source):
        monkeypatch.setattr(module, "READ_AHEAD", 16 << 10)
    with small_s3({name: sources[name][0]}) as store:
        undisturbed = facts(list(read(f"s3://{BUCKET}/{name}", store.settings)))
        frames = read(f"s3://{BUCKET}/{name}", store.settings)
        found = [next(frames)]
        if change == "removed":
            del store.objects[name]
        else:
            store.objects[name] = sources[name][1]
        found += frames
    assert said in found[-1].error and found[-1].refused
    assert 1 < len(found) < COUNT
    assert facts(found[:-1]) == undisturbed[: len(found) - 1]


@pytest.mark.parametrize("kind", ["picture", "tar", "parquet", "video"])
def test_a_pipe_socket_or_device_in_a_files_place_is_a_row_and_not_waited_for(tmp_path, kind):
    """A manifest may name one, or it may have replaced a listed file."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (str(tmp_path / "pipe"), str(tmp_path / "socket"), "/dev/zero"):
            (frame,) = read_shards([Shard(path, path, kind, 1000)], S3Settings())
            assert "a pipe, a socket or a device" in frame.error and not frame.refused


@pytest.mark.timeout(60)
@pytest.mark.parametrize("members", [0, 3])
def test_zero_bytes_to_the_end_of_a_tar_are_an_unfinished_copy(tmp_path, members):
    """A copy that reserves its disk space first looks like a shorter archive with much padding."""
    path = tmp_path / "t.tar"
    write_tar(path, [jpeg(seed) for seed in range(members)])
    padded = path.stat().st_size + MAX_PADDING // 2
    os.truncate(path, padded)
    assert len(list(read(str(path)))) == members
    os.truncate(path, 50 << 30)
    *whole, last = read(str(path))
    assert len(whole) == members and "zero bytes" in last.error and "copy the file again" in last.error


def test_names_that_already_have_a_number_get_the_next_one():
    """At any depth: each of these names was already given to another frame."""
    image = pa.array([b"x"] * 1502)
    names = ["a" + "#2" * count for count in range(1500)] + ["a", "b"]
    file = io.BytesIO()
    pq.write_table(pa.table({"image": image, "key": names}), file)
    with small_s3({"t.parquet": file.getvalue()}) as store:
        frames = list(read(f"s3://{BUCKET}/t.parquet", store.settings))
    assert len({frame.member for frame in frames}) == 1502 and all(frame.frame_index == 0 for frame in frames)
