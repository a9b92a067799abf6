"""Reading of shards."""

import gzip
import io
import itertools
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from faceq.config import S3
from faceq.frames import Frame, in_batches, to_table
from faceq.listing import list_shards
from faceq.sources import parquet, read_again, read_shards
from faceq.table import BREAK, frame_id


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read(*inputs: Path, done=()) -> list[Frame]:
    return list(read_shards(list_shards([str(path) for path in inputs], S3()), S3(), done))


def facts(frames: list[Frame]) -> list[tuple]:
    return [(frame.member, frame.frame_index, frame.image) for frame in frames]


def test_a_name_that_is_not_utf8_can_be_written_down(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb") as file:
        file.write(b"x")
    (frame,) = read(tmp_path)
    assert frame.source.endswith("/\\xff.jpg")
    assert frame.image == b"x"
    assert to_table([frame])["source"].to_pylist() == [frame.source]


# --- tars ---


@pytest.mark.parametrize(("name", "mode"), [("s.tar", "w"), ("s.tar.gz", "w:gz"), ("s.tgz", "w:gz")])
def test_pictures_of_a_tar_are_frames_and_the_rest_is_not(tmp_path, name, mode):
    members = [("000.jpg", b"one"), ("000.json", b"{}"), ("sub/001.png", b"two"), ("._000.jpg", b"junk")]
    write_tar(tmp_path / name, members, mode)
    frames = read(tmp_path)
    assert facts(frames) == [("000.jpg", 0, b"one"), ("sub/001.png", 0, b"two")]
    assert frames[0].id == frame_id(str(tmp_path / name), "000.jpg", 0)


def test_names_as_tar_writes_them_are_not_hidden(tmp_path):
    members = [("./a.jpg", b"1"), ("/data/b.jpg", b"2"), ("dir/../c.jpg", b"3"), ("./.d.jpg", b"4")]
    frames = read(write_tar(tmp_path / "s.tar", members))
    assert [frame.member for frame in frames] == ["./a.jpg", "/data/b.jpg", "dir/../c.jpg"]


def test_a_link_in_a_tar_is_a_row_that_says_so(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        info = tarfile.TarInfo("link.jpg")
        info.type, info.linkname = tarfile.LNKTYPE, "a.jpg"
        tar.addfile(info)
    (frame,) = read(tmp_path / "s.tar")
    assert frame.image is None and "a link to a.jpg" in frame.error


def test_a_break_is_done_once_it_has_a_row(tmp_path):
    path = tmp_path / "s.tar"
    path.write_bytes(b"not a tar")
    (first,) = read(path)
    (again,) = read(path, done={first.id})
    assert not first.done and again.done


def test_repeated_names_stay_apart(tmp_path):
    members = [("a.jpg", b"1"), ("a.jpg", b"2"), ("a.jpg#2", b"no picture"), ("a.jpg", b"3")]
    frames = read(write_tar(tmp_path / "s.tar", members))
    assert [frame.member for frame in frames] == ["a.jpg", "a.jpg#2", "a.jpg#3"]
    assert len({frame.id for frame in frames}) == 3


def test_names_that_look_like_a_repeated_one_stay_apart_in_any_order(tmp_path):
    for number, keys in enumerate(itertools.permutations(["a", "a", "a#2", "a#2#2"])):
        pq.write_table(pa.table({"key": keys, "image": [b"1", b"2", b"3", b"4"]}), tmp_path / "s.parquet")
        frames = read(tmp_path / "s.parquet")
        assert len({frame.id for frame in frames}) == len({frame.member for frame in frames}) == 4, number


def test_members_that_are_not_utf8_and_the_text_of_their_escapes_stay_apart(tmp_path):
    names = [b"\xff.jpg", b"\\xff.jpg", b"\\x5cxff.jpg", b"a\nb.jpg", b"a b.jpg", "ä.jpg".encode()]
    for layout in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "s.tar", "w", format=layout) as tar:
            for name in names:
                info = tarfile.TarInfo(os.fsdecode(name))
                info.size = len(name)
                tar.addfile(info, io.BytesIO(name))
        frames = read(tmp_path / "s.tar")
        assert [frame.image for frame in frames] == names
        assert len({frame.id for frame in frames}) == len(names)
        assert frames[0].member == "\\xff.jpg" and frames[1].member == "\\x5cxff.jpg"


@pytest.mark.parametrize("cut", [100, 512 + 700, 512 + 1024 + 100, 2 * (512 + 1024)])
def test_a_tar_cut_anywhere_gives_what_is_whole_and_one_break(tmp_path, cut):
    whole = write_tar(tmp_path / "whole.tar", [("a.jpg", b"a" * 1000), ("b.jpg", b"b" * 1000)])
    short = tmp_path / "short.tar"
    short.write_bytes(whole.read_bytes()[:cut])
    *frames, last = read(short)
    assert [frame.member for frame in frames] == ["a.jpg", "b.jpg"][: cut // (512 + 1024)]
    assert (last.member, last.frame_index, last.image) == (None, BREAK, None)
    assert "at byte" in last.error and not last.refused


def test_a_gzipped_tar_cut_short_is_a_break(tmp_path):
    members = [(f"{i}.jpg", os.urandom(5000)) for i in range(20)]
    whole = write_tar(tmp_path / "w.tar.gz", members, "w:gz").read_bytes()
    short = tmp_path / "s.tar.gz"
    short.write_bytes(whole[: len(whole) // 2])
    *frames, last = read(short)
    assert 5 < len(frames) < 15
    assert last.frame_index == BREAK
    assert "end-of-stream" in last.error


def test_a_corrupt_header_in_the_middle_is_a_break(tmp_path):
    data = bytearray(write_tar(tmp_path / "s.tar", [(f"{i}.jpg", b"x" * 600) for i in range(4)]).read_bytes())
    data[2 * (512 + 1024) + 100] ^= 0xFF
    (tmp_path / "s.tar").write_bytes(data)
    *frames, last = read(tmp_path / "s.tar")
    assert len(frames) == 2
    assert last.frame_index == BREAK


@pytest.mark.parametrize("content", [b"", b"not a tar at all" * 100, gzip.compress(b"x" * 2000)])
def test_what_is_no_tar_is_one_break(tmp_path, content):
    (tmp_path / "s.tar").write_bytes(content)
    (frame,) = read(tmp_path / "s.tar")
    assert (frame.frame_index, frame.refused) == (BREAK, False)


def test_an_empty_tar_has_no_frames(tmp_path):
    assert read(write_tar(tmp_path / "s.tar", [])) == []


def test_done_frames_are_marked_and_not_read(tmp_path):
    path = write_tar(tmp_path / "s.tar", [("a.jpg", b"1"), ("b.jpg", b"2")])
    frames = read(path, done={frame_id(str(path), "a.jpg", 0)})
    assert [(frame.member, frame.done, frame.image) for frame in frames] == [
        ("a.jpg", True, None),
        ("b.jpg", False, b"2"),
    ]
    assert to_table(frames)["member"].to_pylist() == ["b.jpg"]


# --- Parquet ---


def test_a_binary_column_is_the_image_and_key_names_the_frame(tmp_path):
    pq.write_table(
        pa.table({"key": ["x", "y", "x", None], "jpg": [b"1", b"2", b"3", b"4"]}), tmp_path / "s.parquet"
    )
    assert facts(read(tmp_path)) == [("x", 0, b"1"), ("y", 0, b"2"), ("x#2", 0, b"3"), ("3", 0, b"4")]


@pytest.mark.parametrize("order", [["key", "image"], ["image", "key"], ["key", "other", "image"]])
def test_a_shard_is_read_from_front_to_back(order, tmp_path, monkeypatch):
    """To go back costs a store's reader what it has read ahead."""
    values = {
        "image": [os.urandom(5_000) for _ in range(100)],
        "key": [str(i) for i in range(100)],
        "other": ["o"] * 100,
    }
    pq.write_table(pa.table({name: values[name] for name in order}), tmp_path / "s.parquet", 10)
    starts = []

    class Noted(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            starts.append(self.tell())
            return super().read(size)

    monkeypatch.setattr(parquet, "open_shard", lambda shard, s3: Noted(shard.path))
    assert [frame.member for frame in read(tmp_path)] == values["key"]
    footer, *columns = starts
    assert footer > 0 and columns == sorted(columns) and len(columns) > 10


def test_hugging_face_structs_and_row_numbers(tmp_path):
    images = [{"bytes": b"1", "path": "p.jpg"}, {"bytes": None, "path": "q.jpg"}, None]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": [0, 1, 2]}), tmp_path / "s.parquet")
    frames = read(tmp_path)
    assert [(frame.member, frame.image) for frame in frames] == [("0", b"1"), ("1", None), ("2", None)]
    assert "null" in frames[1].error and "null" in frames[2].error


def test_of_several_binary_columns_the_one_called_image_is_taken(tmp_path):
    pq.write_table(pa.table({"thumb": [b"t"], "image": [b"i"], "mask": [b"m"]}), tmp_path / "s.parquet")
    assert [frame.image for frame in read(tmp_path)] == [b"i"]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"text": ["a"]}, "no binary column among text"),
        ({"u": [b"1"], "v": [b"2"]}, "several binary columns"),
    ],
)
def test_parquet_without_an_image_column_is_one_break(tmp_path, columns, reason):
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    (frame,) = read(tmp_path)
    assert frame.frame_index == BREAK
    assert reason in frame.error and "call the one" in frame.error


def test_binary_keys_are_text_and_the_image_is_no_key(tmp_path):
    pq.write_table(pa.table({"id": [b"a", b"b"], "image": [b"1", b"2"]}), tmp_path / "k.parquet")
    pq.write_table(pa.table({"path": [b"3"]}), tmp_path / "p.parquet")
    assert facts(read(tmp_path)) == [("a", 0, b"1"), ("b", 0, b"2"), ("0", 0, b"3")]


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.binary()), pa.binary(2), pa.large_binary()])
def test_other_binary_types_are_images_too(tmp_path, kind):
    values = pa.array([b"11", b"22", b"11"])
    values = values.dictionary_encode() if pa.types.is_dictionary(kind) else values.cast(kind)
    pq.write_table(pa.table({"image": values}), tmp_path / "s.parquet")
    assert [frame.image for frame in read(tmp_path)] == [b"11", b"22", b"11"]


def test_corrupt_parquet_is_a_break_not_a_refusal(tmp_path):
    (tmp_path / "s.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    (frame,) = read(tmp_path)
    assert (frame.frame_index, frame.refused) == (BREAK, False)


# --- single pictures ---


def test_a_picture_that_vanished_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"1")
    (tmp_path / "b.jpg").write_bytes(b"2")
    shards = list_shards([str(tmp_path)], S3())
    (tmp_path / "a.jpg").unlink()
    first, second = read_shards(shards, S3())
    assert first.refused and "gone" in first.error
    assert second.image == b"2"


def test_batches_are_bounded_by_frames_and_by_bytes():
    small = [Frame("s", str(i), 0, b"x") for i in range(70)]
    large = [Frame("s", str(i), 0, bytes(5 << 20)) for i in range(4)]
    assert [len(batch) for batch in in_batches(small)] == [32, 32, 6]
    assert [len(batch) for batch in in_batches(large)] == [2, 2]


def test_what_is_not_called_in_utf8_is_read_again(tmp_path):
    names = (b"a\xff.jpg", b"a\\xff.jpg", b"b\\xff.jpg", "ü.jpg".encode())
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    write_tar(tmp_path / os.fsdecode(b"\xe4.tar"), [("m.jpg", b"m")])
    first = {frame.id: (frame.source, frame.image) for frame in read(tmp_path)}
    assert {image for _, image in first.values()} == {*names, b"m"}
    again = read_again([source for source, _ in first.values()], set(first), S3())
    assert {frame.id: (frame.source, frame.image) for frame in again} == first
