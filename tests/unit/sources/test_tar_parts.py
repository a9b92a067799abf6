"""Tars that are read in parts give the same frames as when they are read as a whole."""

import io
import os
import random
import tarfile
from pathlib import Path

import pytest
from compressors import FORMS, pack
from parts import read_parts, split
from small_s3 import BUCKET, small_s3
from tars import write_tar

from faceq.sources import Findings, read_shards
from faceq.sources.listing import Shard, list_shards
from faceq.sources.parts import Part, is_large, part_bytes
from faceq.sources.tar_index import UnsplitError
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK

JPEG = b"\xff\xd8\xff\xe0 and so on"
BLOCK = tarfile.BLOCKSIZE
LAYOUTS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def shard_of(path: Path | str, s3: S3Settings | None = None) -> Shard:
    (shard,) = list_shards([str(path)], s3 or S3Settings())
    return shard


def check(path: Path, sizes, least: int = 2, **how) -> None:
    """Compare the frames, and what is found besides them, for several sizes of the parts."""
    shard, findings = shard_of(path), Findings()
    whole = list(read_shards([shard], S3Settings(), findings=findings, **how))
    most = 0
    for size in sizes:
        parts = split(shard, size, **how)
        most = max(most, len(parts))
        frames, found, finished = read_parts(parts, **how)
        assert frames == whole, size
        assert (found.passed_over, finished) == (findings.passed_over, findings.finished), size
        given = [list(read_shards([part], S3Settings(), **how)) for part in parts]
        assert all(given) and sum(part.size for part in parts) == shard.size
    assert most >= least


SIZES = (3 * BLOCK, 7 * BLOCK, 16 * BLOCK, 64 * BLOCK)


def mixed(path: Path, layout: int, seed: int) -> Path:
    """A tar with all kinds of members: images, sidecars, folders, links, long names, tars."""
    chance = random.Random(seed)
    with tarfile.open(path, "w", format=layout, pax_headers={"comment": "x" * 700}) as tar:
        for index in range(60):
            name = f"{index:03}.{chance.choice(['jpg', 'jpg', 'png', 'json', 'tar'])}"
            if layout != tarfile.USTAR_FORMAT and not index % 7:
                name = "d" * chance.choice([90, 300, 1200]) + name
            info = tarfile.TarInfo(chance.choice(["", "sub/", "._"]) + name)
            data = os.urandom(chance.choice([0, 1, 511, 512, 513, 3000, 9000]))
            if name.endswith("tar"):
                data = inner()
            kind = chance.choice([tarfile.REGTYPE] * 6 + [tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
            if kind != tarfile.REGTYPE:
                info.type, info.linkname, data = kind, "000.jpg", b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def inner() -> bytes:
    """A tar whose members are images, too: as a member of a tar, it is one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for index in range(3):
            info = tarfile.TarInfo(f"inner/{index}.jpg")
            info.size = 700
            tar.addfile(info, io.BytesIO(b"i" * 700))
    return buffer.getvalue()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_parts_hold_the_frames_of_the_whole(tmp_path, layout):
    for seed in range(3):
        check(mixed(tmp_path / f"{seed}.tar", LAYOUTS[layout], seed), SIZES)


def test_names_that_only_their_content_shows_to_be_images(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for index in range(40):
            info = tarfile.TarInfo(f"{index}")
            data = JPEG * 40 if index % 3 else b"no image" * 100
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    check(tmp_path / "s.tar", SIZES, any_name=True)


def test_headers_inside_members_are_not_followed(tmp_path):
    """Inside a member lies a header whose data would end inside another member, at yet another header."""

    def header(name: str, size: int) -> bytes:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.USTAR_FORMAT)

    first = header("false.jpg", 4 * BLOCK) + b"x" * BLOCK  # data until the third block of the next member
    second = b"y" * 2 * BLOCK + header("false/2.jpg", BLOCK) + b"z" * BLOCK
    members = [(f"{index}.jpg", (first, second)[index % 2]) for index in range(20)]
    path = write_tar(tmp_path / "s.tar", members)
    check(path, [count * BLOCK for count in range(3, 20)])


def test_archives_that_were_joined_with_cat(tmp_path):
    one, two = mixed(tmp_path / "1.tar", tarfile.GNU_FORMAT, 1), tmp_path / "2.tar"
    with tarfile.open(two, "w") as tar:
        for index in range(30):
            info = tarfile.TarInfo(f"other/{index}.jpg")
            info.size = 600
            tar.addfile(info, io.BytesIO(b"o" * 600))
    (tmp_path / "s.tar").write_bytes(one.read_bytes() + two.read_bytes())
    check(tmp_path / "s.tar", SIZES)


def test_headers_of_the_old_kind_cannot_be_searched_for_but_are_found(tmp_path):
    data = bytearray(mixed(tmp_path / "s.tar", tarfile.USTAR_FORMAT, 5).read_bytes())
    with tarfile.open(tmp_path / "s.tar") as tar:
        offsets = [member.offset for member in tar.getmembers()]
    for at in offsets:
        header = data[at : at + BLOCK]
        header[257:BLOCK] = bytes(BLOCK - 257)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        data[at : at + BLOCK] = header
    (tmp_path / "s.tar").write_bytes(data)
    check(tmp_path / "s.tar", SIZES)


def test_a_damaged_tar_has_the_same_break(tmp_path):
    data = mixed(tmp_path / "whole.tar", tarfile.GNU_FORMAT, 2).read_bytes()
    chance = random.Random(0)
    for number in range(12):
        damaged = bytearray(data[: chance.randrange(30 * BLOCK, len(data))])
        if number % 2:
            at = chance.randrange(20 * BLOCK, len(damaged))
            damaged[at : at + 2 * BLOCK] = os.urandom(len(damaged[at : at + 2 * BLOCK]))
        (tmp_path / "s.tar").write_bytes(damaged)
        check(tmp_path / "s.tar", SIZES)


def test_zeros_instead_of_the_rest_of_the_file(tmp_path):
    data = mixed(tmp_path / "whole.tar", tarfile.GNU_FORMAT, 2).read_bytes()
    (tmp_path / "s.tar").write_bytes(data[: len(data) // 2 // BLOCK * BLOCK] + bytes(6 << 20))
    check(tmp_path / "s.tar", (16 * BLOCK * 100, 64 * BLOCK * 100), least=1)


def test_frames_with_a_row_are_done_in_the_parts_too(tmp_path):
    path = mixed(tmp_path / "s.tar", tarfile.GNU_FORMAT, 3)
    whole = list(read_shards([shard_of(path)], S3Settings()))
    done = {frame.id for frame in whole[5:20]}
    parts = split(shard_of(path), 16 * BLOCK)
    frames, _, (finished,) = read_parts(parts, done=done)
    assert [frame.done for frame in frames] == [frame.id in done for frame in whole]
    findings = Findings()
    assert len(list(read_shards([shard_of(path)], S3Settings(), findings=findings))) == finished.frames
    assert [finished] == findings.finished


def rows_of(name: str, count: int = 30, size: int = 600) -> list[tuple[str, bytes]]:
    return [(name.format(index), b"x" * size) for index in range(count)]


def test_what_cannot_be_read_in_parts_is_refused(tmp_path):
    repeated = write_tar(tmp_path / "r.tar", [*rows_of("{}.jpg"), ("3.jpg", b"again")])
    with pytest.raises(UnsplitError, match="same name"):
        split(shard_of(repeated), 16 * BLOCK)
    data = write_tar(tmp_path / "u.tar", rows_of("{}.jpg")).read_bytes()
    for form in FORMS:
        (tmp_path / f"p.tar.{form}").write_bytes(pack(data, form))
        with pytest.raises(UnsplitError, match="compressed"):
            split(shard_of(tmp_path / f"p.tar.{form}"), BLOCK)
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("holes.jpg")
        info.pax_headers = {"GNU.sparse.size": "100000", "GNU.sparse.map": "5,5"}
        info.size = 5
        tar.addfile(info, io.BytesIO(b"12345"))
    with pytest.raises(UnsplitError, match="sparse"):
        split(shard_of(tmp_path / "s.tar"), 16 * BLOCK)


def test_a_tar_that_was_changed_after_it_was_divided_is_one_break_in_each_part(tmp_path):
    path = write_tar(tmp_path / "s.tar", rows_of("{}.jpg"))
    parts = split(shard_of(path), 16 * BLOCK)
    os.utime(path, ns=(1, 1))
    for part in parts:
        (frame,) = read_shards([part], S3Settings())
        assert frame.frame_index == BREAK and "was changed while it was read" in frame.error


def test_parts_of_an_object_on_s3(tmp_path):
    path = mixed(tmp_path / "s.tar", tarfile.GNU_FORMAT, 4)
    with small_s3({"s.tar": path.read_bytes()}) as store:
        shard = shard_of(f"s3://{BUCKET}/s.tar", store.settings)
        findings = Findings()
        whole = list(read_shards([shard], store.settings, findings=findings))
        parts = split(shard, 64 * BLOCK, store.settings)
        assert len(parts) > 2
        frames, _, finished = read_parts(parts, store.settings)
        assert frames == whole and finished == findings.finished


def test_only_shards_that_hold_much_of_the_input_are_large():
    def tars(count: int, size: int) -> list[Shard]:
        return [Shard(f"{index}.tar", f"{index}.tar", "tar", size) for index in range(count)]

    for count, size, large in ((1, 1 << 30, False), (1, 50 << 30, True), (10, 5 << 30, True)):
        shards = tars(count, size)
        assert is_large(shards[0], part_bytes(shards, "tar")) == large
    assert not is_large(tars(1, 2 << 30)[0], part_bytes(tars(100, 2 << 30), "tar"))
    assert not is_large(Shard("m.tar", "m.tar", "tar", None), 1)
    assert Part.__slots__ and not hasattr(Shard("a", "a", "tar", 1), "begin")
