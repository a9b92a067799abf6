"""Tars of 50 GB with few images: time and memory depend on the images only."""

import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from parts import read_parts, split
from places import PHOTOS
from small_s3 import BUCKET, small_s3

from faceq.sources import read_shards
from faceq.sources.listing import list_shards
from faceq.sources.parts import part_bytes
from faceq.storage.settings import S3Settings

HOLES = (5 << 30, 9 << 30, 36 << 30)
"""Sizes of the members that are not images. Sizes of 8 GiB and more do not fit into the octal digits of a
header."""

pytestmark = pytest.mark.timeout(120)


class Sparse:
    """A file on disk as an object of `SmallS3`. Only requested ranges are read."""

    def __init__(self, path: Path):
        self._path = path

    def __len__(self) -> int:
        return self._path.stat().st_size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(len(self))
        with open(self._path, "rb") as file:
            return os.pread(file.fileno(), stop - start, start)


@pytest.fixture(params=["gnu", "pax"])
def large(request, tmp_path) -> Path:
    """A sparse tar with an image after each hole. It takes a few kilobytes of disk space."""
    image = (PHOTOS / "mask_blue.jpg").read_bytes()
    layout = tarfile.GNU_FORMAT if request.param == "gnu" else tarfile.PAX_FORMAT
    path = tmp_path / "large.tar"
    with open(path, "wb") as file:
        for number, hole in enumerate(HOLES):
            for name, size in ((f"{number}.bin", hole), (f"{number}.jpg", len(image))):
                info = tarfile.TarInfo(name)
                info.size = size
                file.write(info.tobuf(layout))
                if size == len(image):
                    file.write(image)
                    file.seek(-size % tarfile.BLOCKSIZE, os.SEEK_CUR)
                else:
                    file.seek(size, os.SEEK_CUR)
        file.truncate(file.tell() + 2 * tarfile.BLOCKSIZE)
    assert path.stat().st_size > 50 << 30 and path.stat().st_blocks < 10_000
    return path


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_images_after_holes_are_read_without_reading_the_holes(large, where):
    image = (PHOTOS / "mask_blue.jpg").read_bytes()
    with small_s3({"large.tar": Sparse(large)}) as store:
        settings = store.settings if where == "s3" else S3Settings()
        shards = list_shards([f"s3://{BUCKET}/large.tar" if where == "s3" else str(large)], settings)
        tracemalloc.start()
        frames = list(read_shards(shards, settings))
        memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        requests = [asked for asked in store.reads() if asked.method == "GET"]
    assert [(frame.member, frame.image) for frame in frames] == [(f"{n}.jpg", image) for n in range(3)]
    assert memory < 64 << 20
    assert len(requests) <= 6


def test_a_large_tar_is_divided_although_most_of_it_is_not_images(large):
    (shard,) = list_shards([str(large)], S3Settings())
    parts = split(shard, part_bytes([shard], "tar"))
    frames, _, _ = read_parts(parts)
    assert frames == list(read_shards([shard], S3Settings())) and len(parts) == 3


def test_a_large_tar_truncated_in_a_hole_is_reported(large):
    os.truncate(large, 40 << 30)
    *whole, last = read_shards(list_shards([str(large)], S3Settings()), S3Settings())
    assert len(whole) == 2 and "unexpected end of data" in last.error
