"""Reading of shards."""

import gzip
import io
import itertools
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tars import write_tar

from faceq.sources import Findings, parquet, read_again, read_shards
from faceq.sources.frame import Frame, in_batches, to_table
from faceq.sources.listing import list_shards
from faceq.sources.reading import Reading
from faceq.sources.tar import read_tar
from faceq.storage.filesystem import filesystem
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK, frame_id

JPEG = b"\xff\xd8\xff\xe0 and so on"
"""Bytes that begin like an image."""


def read(*inputs: Path, done=()) -> list[Frame]:
    return list(read_shards(list_shards([str(path) for path in inputs], S3Settings()), S3Settings(), done))


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


def test_pictures_of_a_tar_are_frames_and_the_rest_is_not(tmp_path):
    members = [("000.jpg", b"one"), ("000.json", b"{}"), ("sub/001.png", b"two"), ("._000.jpg", b"junk")]
    path = write_tar(tmp_path / "s.tar", members)
    frames = read(tmp_path)
    assert facts(frames) == [("000.jpg", 0, b"one"), ("sub/001.png", 0, b"two")]
    assert frames[0].id == frame_id(str(path), "000.jpg", 0)


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
def test_a_tar_truncated_anywhere_gives_its_complete_members_and_one_break(tmp_path, cut):
    whole = write_tar(tmp_path / "whole.tar", [("a.jpg", b"a" * 1000), ("b.jpg", b"b" * 1000)])
    short = tmp_path / "short.tar"
    short.write_bytes(whole.read_bytes()[:cut])
    *frames, last = read(short)
    assert [frame.member for frame in frames] == ["a.jpg", "b.jpg"][: cut // (512 + 1024)]
    assert (last.member, last.frame_index, last.image) == (None, BREAK, None)
    assert "at byte" in last.error and not last.refused


def test_a_corrupt_header_in_the_middle_is_a_break(tmp_path):
    data = bytearray(write_tar(tmp_path / "s.tar", [(f"{i}.jpg", b"x" * 600) for i in range(4)]).read_bytes())
    data[2 * (512 + 1024) + 100] ^= 0xFF
    (tmp_path / "s.tar").write_bytes(data)
    *frames, last = read(tmp_path / "s.tar")
    assert len(frames) == 2
    assert last.frame_index == BREAK


@pytest.mark.parametrize(
    "content", [b"", b"not a tar at all" * 100, gzip.compress(b"x" * 2000)], ids=["empty", "text", "gzip"]
)
def test_a_file_that_is_no_tar_is_one_break(tmp_path, content):
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


@pytest.fixture(scope="module")
def folder_for_tar(tmp_path_factory) -> Path:
    """Files for GNU tar: in folders, with a long name, with holes."""
    root = tmp_path_factory.mktemp("gnu")
    (root / "t" / "d.jpg").mkdir(parents=True)
    (root / "t" / "a.jpg").write_bytes(os.urandom(900))
    (root / "t" / "d.jpg" / f"{'l' * 120}.png").write_bytes(os.urandom(900))
    with open(root / "t" / "holes.bmp", "wb") as file:
        for at in range(0, 3_000_000, 100_000):
            file.seek(at)
            file.write(os.urandom(5000))
        file.truncate(3_050_000)
    return root


def made_by(program: str, folder: Path, out: Path, *options: str) -> Path:
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    command = [program, *(["tar"] if program == "busybox" else []), *options, "-cf", str(out), "t"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return out


@pytest.mark.parametrize(
    ("program", "options"),
    [
        *(("tar", (f"--format={layout}",)) for layout in ("oldgnu", "gnu", "posix")),
        *(("tar", (f"--format={layout}", "-S")) for layout in ("oldgnu", "gnu")),
        *(
            ("tar", ("--format=posix", "-S", f"--sparse-version={version}"))
            for version in ("0.0", "0.1", "1.0")
        ),
        *(("tar", (f"--format={layout}", "--listed-incremental")) for layout in ("oldgnu", "gnu", "posix")),
        *(("bsdtar", (f"--format={layout}",)) for layout in ("gnutar", "pax")),
        ("busybox", ()),
    ],
)
def test_names_and_bytes_are_those_that_tar_extracts(folder_for_tar, tmp_path, program, options):
    if "--listed-incremental" in options:
        options = (*options[:-1], f"--listed-incremental={tmp_path / 'snapshot'}")
    path = made_by(program, folder_for_tar, tmp_path / "s.tar", *options)
    files = {
        str(file.relative_to(folder_for_tar)): file for file in folder_for_tar.rglob("*") if file.is_file()
    }
    frames = read(path)
    assert {frame.member: frame.image for frame in frames} == {
        name: file.read_bytes() for name, file in files.items()
    }
    assert len(frames) == len(files)


@pytest.mark.parametrize("layout", ["v7", "ustar"])
def test_old_layouts(tmp_path, layout):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a.jpg").write_bytes(b"1" * 900)
    path = made_by("tar", tmp_path, tmp_path / "s.tar", f"--format={layout}")
    assert facts(read(path)) == [("t/a.jpg", 0, b"1" * 900)]


def test_a_file_that_continues_in_the_next_volume_is_a_row_in_each(folder_for_tar, tmp_path):
    volumes = [tmp_path / f"{number}.tar" for number in range(3)]
    options = ["-M", "-L", "1000", *(f"--file={volume}" for volume in volumes)]
    subprocess.run(["tar", "-c", *options, "t/holes.bmp", "t/a.jpg"], cwd=folder_for_tar, check=True)
    first, second, (third, last) = map(read, volumes)
    assert [frame.frame_index for frame in first] == [BREAK]
    assert "a file from the previous volume" in second[0].error and second[0].member == "t/holes.bmp"
    assert "a file from the previous volume" in third.error and last.member == "t/a.jpg"


def findings_of(path: Path, **options) -> tuple[list[Frame], Findings]:
    findings = Findings()
    reading = Reading(S3Settings(), findings=findings, **options)
    (shard,) = list_shards([str(path)], S3Settings())
    return list(read_tar(shard, reading)), findings


def test_members_that_are_no_frames_are_counted_by_their_ending(tmp_path):
    members = [(f"{i}.{ending}", b"1") for i in range(3) for ending in ("mp3", "JSON", "001", "x" * 30)]
    path = write_tar(tmp_path / "s.tar", [*members, ("._0.mp3", b"1"), ("none", b"1"), ("a.jpg", b"1")])
    with tarfile.open(path, "a") as tar:
        folder = tarfile.TarInfo("folder.mp3")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    frames, findings = findings_of(path)
    assert len(frames) == 1
    assert findings.passed_over == {".mp3": 3, ".json": 3, "(other)": 6, "(no extension)": 1}


def test_members_of_any_name_are_frames_if_their_bytes_are_an_image(tmp_path):
    long = JPEG + os.urandom(5000)
    members = [("a", long), ("b.dat", JPEG), ("c.json", b"{}"), ("d.mp4", JPEG), ("e", b"")]
    path = write_tar(tmp_path / "s.tar", members)
    frames, findings = findings_of(path, any_name=True)
    assert facts(frames) == [("a", 0, long), ("b.dat", 0, JPEG), ("d.mp4", 0, JPEG)]
    assert findings.passed_over == {".json": 1, "(no extension)": 1}
    assert facts(findings_of(path)[0]) == [("d.mp4", 0, JPEG)]


# --- Parquet ---


def test_a_binary_column_is_the_image_and_key_names_the_frame(tmp_path):
    pq.write_table(
        pa.table({"key": ["x", "y", "x", None], "jpg": [b"1", b"2", b"3", b"4"]}), tmp_path / "s.parquet"
    )
    assert facts(read(tmp_path)) == [("x", 0, b"1"), ("y", 0, b"2"), ("x#2", 0, b"3"), ("3", 0, b"4")]


@pytest.mark.parametrize("order", [["key", "image"], ["image", "key"], ["key", "other", "image"]])
def test_a_shard_is_read_from_front_to_back(order, tmp_path, monkeypatch):
    """If it went back, the reader of an object store would lose the data that it read ahead."""
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

    monkeypatch.setattr(parquet, "open_shard", lambda shard, reading: Noted(shard.path))
    assert [frame.member for frame in read(tmp_path)] == values["key"]
    footer, *columns = starts
    assert footer > 0 and columns == sorted(columns) and len(columns) > 10


def test_hugging_face_structs_and_row_numbers(tmp_path):
    images = [{"bytes": b"1", "path": "p.jpg"}, {"bytes": None, "path": "q.jpg"}, None]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": [0, 1, 2]}), tmp_path / "s.parquet")
    frames = read(tmp_path)
    assert [(frame.member, frame.image) for frame in frames] == [("0", b"1"), ("1", None), ("2", None)]
    assert "only the path q.jpg" in frames[1].error and "null" in frames[2].error


def test_the_column_called_image_is_used_among_several_binary_columns(tmp_path):
    pq.write_table(pa.table({"thumb": [b"t"], "image": [b"i"], "mask": [b"m"]}), tmp_path / "s.parquet")
    assert [frame.image for frame in read(tmp_path)] == [b"i"]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"text": ["a"]}, "no binary column with images: the columns are text"),
        ({"u": [b"1"], "v": [b"2"]}, "all binary columns (u, v) are not images"),
    ],
)
def test_parquet_without_an_image_column_is_one_break(tmp_path, columns, reason):
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    (frame,) = read(tmp_path)
    assert frame.frame_index == BREAK
    assert reason in frame.error and "`image`" in frame.error


def test_binary_keys_are_text_and_the_image_is_no_key(tmp_path):
    pq.write_table(pa.table({"id": [b"a", b"b"], "image": [b"1", b"2"]}), tmp_path / "k.parquet")
    pq.write_table(pa.table({"path": [JPEG]}), tmp_path / "p.parquet")
    assert facts(read(tmp_path)) == [("a", 0, b"1"), ("b", 0, b"2"), ("0", 0, JPEG)]


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.binary()), pa.binary(2), pa.large_binary()])
def test_other_binary_types_are_images_too(tmp_path, kind):
    values = pa.array([b"11", b"22", b"11"])
    values = values.dictionary_encode() if pa.types.is_dictionary(kind) else values.cast(kind)
    pq.write_table(pa.table({"image": values}), tmp_path / "s.parquet")
    assert [frame.image for frame in read(tmp_path)] == [b"11", b"22", b"11"]


def test_the_first_bytes_tell_which_column_holds_images(tmp_path):
    table = {"sha256": [os.urandom(32)] * 3, "photo": [None, JPEG, JPEG], "embedding": [bytes(64)] * 3}
    pq.write_table(pa.table(table), tmp_path / "s.parquet")
    assert [frame.image for frame in read(tmp_path)] == [None, JPEG, JPEG]


@pytest.mark.parametrize("name", ["sha256", "embedding", "thumbnail", "hash"])
def test_one_binary_column_with_other_content_is_not_used_as_the_image(tmp_path, name):
    pq.write_table(pa.table({name: [os.urandom(32)] * 3, "label": [1, 2, 3]}), tmp_path / "s.parquet")
    (frame,) = read(tmp_path)
    assert frame.frame_index == BREAK
    assert f"the first values of the only binary column ({name}) are not images" in frame.error


@pytest.mark.parametrize("other", [{}, {"thumbnail": [JPEG]}])
def test_paths_as_text_are_not_images_and_no_other_column_takes_their_place(tmp_path, other):
    pq.write_table(pa.table({"image": ["photos/1.jpg"], **other}), tmp_path / "s.parquet")
    (frame,) = read(tmp_path)
    assert frame.frame_index == BREAK
    assert "`image` is text" in frame.error and "--manifest" in frame.error


BYTES = [list(JPEG), list(JPEG + b"2")]
LISTS = [
    pa.array(BYTES, pa.list_(pa.uint8())),
    pa.array(BYTES, pa.large_list(pa.uint8())),
    pa.array([BYTES[0], BYTES[0]], pa.list_(pa.uint8(), len(JPEG))),
    pa.array([[JPEG], [JPEG + b"2"]]),
    pa.array([[{"bytes": JPEG, "path": None}], [None, {"bytes": JPEG + b"2", "path": None}]]),
    pa.StructArray.from_arrays([pa.array([JPEG, JPEG + b"2"]).dictionary_encode()], ["bytes"]),
    pa.array([JPEG, JPEG + b"2"], pa.binary_view()),
    pa.ExtensionArray.from_storage(pa.opaque(pa.binary(), "image", "us"), pa.array([JPEG, JPEG + b"2"])),
]


@pytest.mark.parametrize("images", LISTS, ids=lambda images: str(images.type)[:30])
@pytest.mark.parametrize("name", ["image", "photo", "image.bytes"])
def test_bytes_in_other_column_types_are_images_too(tmp_path, images, name):
    pq.write_table(pa.table({name: images, "label": [1, 2]}), tmp_path / "s.parquet")
    first, second = read(tmp_path)
    assert first.image == JPEG
    assert second.image == (JPEG if pa.types.is_fixed_size_list(images.type) else JPEG + b"2")


def test_a_row_without_bytes_gives_the_file_that_its_path_names(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "near.jpg").write_bytes(b"near")
    (tmp_path / "in" / "below.jpg").write_bytes(b"below")
    os.mkfifo(tmp_path / "pipe")
    paths = ["below.jpg", "../near.jpg", str(tmp_path / "near.jpg"), "gone.jpg", "s3://bucket/key", "../pipe"]
    images = pa.array([{"bytes": None, "path": path} for path in paths])
    images = images.cast(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": images}), tmp_path / "in" / "s.parquet")
    frames = read(tmp_path / "in" / "s.parquet")
    assert [frame.image for frame in frames] == [b"below", b"near", b"near", None, None, None]
    gone, elsewhere, pipe = (frame.error for frame in frames[3:])
    assert "only the path gone.jpg, and there is no such file" in gone
    assert "s3://bucket/key, which is not in the shard's own storage" in elsewhere
    assert "not a file" in pipe


def test_a_row_without_bytes_in_a_shard_on_s3(s3, tmp_path):
    images = pa.array([{"bytes": None, "path": path} for path in ("a.jpg", f"{s3}/hf/a.jpg", "/etc/hosts")])
    images = images.cast(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": images}), tmp_path / "s.parquet")
    files = filesystem(s3, S3Settings())
    files.pipe_file(f"{s3}/hf/a.jpg", b"from S3")
    files.put_file(tmp_path / "s.parquet", f"{s3}/hf/s.parquet")
    frames = list(read_shards(list_shards([f"{s3}/hf/s.parquet"], S3Settings()), S3Settings()))
    assert [frame.image for frame in frames] == [b"from S3", b"from S3", None]
    assert "/etc/hosts, which is not in the shard's own storage" in frames[2].error


def test_corrupt_parquet_is_a_break_not_a_refusal(tmp_path):
    (tmp_path / "s.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    (frame,) = read(tmp_path)
    assert (frame.frame_index, frame.refused) == (BREAK, False)


# --- single images ---


def test_a_picture_that_vanished_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"1")
    (tmp_path / "b.jpg").write_bytes(b"2")
    shards = list_shards([str(tmp_path)], S3Settings())
    (tmp_path / "a.jpg").unlink()
    first, second = read_shards(shards, S3Settings())
    assert first.refused and "gone" in first.error
    assert second.image == b"2"


def test_batches_are_bounded_by_frames_and_by_bytes():
    small = [Frame("s", str(i), 0, b"x") for i in range(70)]
    large = [Frame("s", str(i), 0, bytes(5 << 20)) for i in range(4)]
    assert [len(batch) for batch in in_batches(small)] == [32, 32, 6]
    assert [len(batch) for batch in in_batches(large)] == [2, 2]


def test_frames_with_names_that_are_not_utf8_are_read_again(tmp_path):
    names = (b"a\xff.jpg", b"a\\xff.jpg", b"b\\xff.jpg", "ü.jpg".encode())
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    write_tar(tmp_path / os.fsdecode(b"\xe4.tar"), [("m.jpg", b"m")])
    first = {frame.id: (frame.source, frame.image) for frame in read(tmp_path)}
    assert {image for _, image in first.values()} == {*names, b"m"}
    again = read_again({source: {} for source, _ in first.values()}, set(first), S3Settings())
    assert {frame.id: (frame.source, frame.image) for frame in again} == first
