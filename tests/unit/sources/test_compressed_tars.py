"""Compressed tars give the frames of the plain tar, and those before damage if they are damaged."""

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from compressors import FORMS, PROGRAMS, pack, unpacked_start
from small_s3 import BUCKET, small_s3
from tars import write_tar

from faceq.config import Limits
from faceq.sources import Findings, read_again, read_shards
from faceq.sources.frame import Frame
from faceq.sources.listing import TAR_ENDINGS, list_shards
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK

MEMBERS = [(f"{index:02}.jpg", os.urandom(3000 + 700 * index)) for index in range(40)]
PLACES = [sum(512 + -(-len(data) // 512) * 512 for _, data in MEMBERS[:count]) for count in range(41)]
"""Where each member begins in the tar, and where the last one ends."""

ENDINGS = {
    "gz": (".tar.gz", ".tgz"),
    "bz2": (".tar.bz2", ".tbz2", ".tbz"),
    "xz": (".tar.xz", ".txz"),
    "zst": (".tar.zst", ".tzst"),
}


def read(path: Path | str, s3: S3Settings | None = None, **how) -> list[Frame]:
    s3 = s3 or S3Settings()
    return list(read_shards(list_shards([str(path)], s3), s3, **how))


def facts(frames: list[Frame]) -> list[tuple]:
    return [(frame.member, frame.frame_index, frame.image, frame.error) for frame in frames]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A tar with images, a sidecar, a long name and a link, by GNU tar."""
    folder = tmp_path_factory.mktemp("plain")
    write_tar(folder / "whole.tar", MEMBERS)
    (folder / "in" / "deep").mkdir(parents=True)
    for name, data in MEMBERS[:5]:
        (folder / "in" / "deep" / name).write_bytes(data)
    (folder / "in" / "a.json").write_bytes(b"{}")
    (folder / "in" / f"{'l' * 130}.png").write_bytes(os.urandom(70_000))
    (folder / "in" / "link.jpg").symlink_to("a.jpg")
    subprocess.run(["tar", "--sort=name", "-cf", "by_tar.tar", "in"], cwd=folder, check=True)
    return folder


def whole(plain: Path) -> bytes:
    return (plain / "whole.tar").read_bytes()


def test_every_ending_of_a_tar_is_tested():
    assert {".tar", *(ending for endings in ENDINGS.values() for ending in endings)} == set(TAR_ENDINGS)


@pytest.mark.parametrize(
    ("form", "ending"), [(form, ending) for form in FORMS for ending in ENDINGS[form]], ids=str
)
def test_the_frames_are_those_of_the_plain_tar(plain, tmp_path, form, ending):
    """`tar -a` chooses the compressor by the ending."""
    path = tmp_path / f"s{ending}"
    if shutil.which(PROGRAMS[form]):
        subprocess.run(["tar", "--sort=name", "-caf", str(path), "in"], cwd=plain, check=True)
        assert path.read_bytes()[:3] != b"in/"
    else:
        path.write_bytes(pack((plain / "by_tar.tar").read_bytes(), form))
    expected, found = Findings(), Findings()
    frames = read(tmp_path, findings=found)
    assert facts(frames) == facts(read(plain / "by_tar.tar", findings=expected))
    assert len(frames) == 7 and {frame.source for frame in frames} == {str(path)}
    assert found.passed_over == expected.passed_over == {".json": 1}
    assert [(each.source, each.frames) for each in found.finished] == [(str(path), 7)]
    (again,) = read_again({str(path): {frames[3].member: 0}}, {frames[3].id}, S3Settings())
    assert again.image == frames[3].image


@pytest.mark.parametrize("form", FORMS)
def test_an_object_on_s3(plain, form):
    with small_s3({f"in/s.tar.{form}": pack(whole(plain), form)}) as store:
        frames = read(f"s3://{BUCKET}/in/", store.settings)
    assert facts(frames) == facts(read(plain / "whole.tar"))


def several(data: bytes, form: str) -> Iterator[bytes]:
    """Files that consist of several streams."""
    cuts = [0, 100, 70_000, 70_001, 400_000, len(data)]
    pieces = [pack(data[begin:end], form) for begin, end in itertools.pairwise(cuts)]
    yield b"".join(pieces)
    yield pack(b"", form).join(pieces)
    if form == "zst":
        # pzstd writes a skippable frame with the size of each frame.
        sizes = [b"\x50\x2a\x4d\x18\4\0\0\0" + len(piece).to_bytes(4, "little") for piece in pieces]
        yield b"".join(size + piece for size, piece in zip(sizes, pieces, strict=True))
    else:
        yield b"".join(piece + bytes(8) for piece in pieces)  # padding
    options = {"xz": ("-T2", "--block-size=100000"), "zst": ("-T2", "-B524288", "--long")}.get(form, ("-1",))
    yield pack(data, form, *options)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_of_several_streams_is_read_to_its_end(plain, tmp_path, form):
    expected = facts(read(plain / "whole.tar"))
    for content in several(whole(plain), form):
        (tmp_path / f"s.tar.{form}").write_bytes(content)
        assert facts(read(tmp_path)) == expected
    # Two archives, one after the other.
    other = write_tar(tmp_path / "other.tar", [("other.jpg", b"other")]).read_bytes()
    (tmp_path / "other.tar").unlink()
    (tmp_path / f"s.tar.{form}").write_bytes(pack(whole(plain), form) + pack(other, form))
    assert facts(read(tmp_path)) == [*expected, ("other.jpg", 0, b"other", None)]


def check_start(frames: list[Frame], count: int) -> None:
    """The first `count` members, and a break."""
    *frames, last = frames
    assert [(frame.member, frame.image) for frame in frames] == MEMBERS[:count]
    assert last.frame_index == BREAK and "end-of-stream" in last.error and not last.refused


@pytest.mark.parametrize("form", FORMS)
def test_no_member_before_the_end_of_a_truncated_file_is_lost(plain, tmp_path, form):
    options = {"bz2": ("-1",), "zst": ("-B65536", "--no-check")}.get(form, ())
    content = pack(whole(plain), form, *options)
    counts = set()
    for part in range(1, 30):
        cut = content[: len(content) * part // 30 + part]
        (tmp_path / f"s.tar.{form}").write_bytes(cut)
        left = len(unpacked_start(cut, form))
        complete = sum(place <= left for place in PLACES[1:])
        check_start(read(tmp_path), complete)
        counts.add(complete)
    assert len(counts) > 4


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_is_cut_off_in_its_last_bytes_has_a_break(plain, tmp_path, form):
    content = pack(whole(plain), form)
    for missing in range(1, 5):
        (tmp_path / f"s.tar.{form}").write_bytes(content[:-missing])
        check_start(read(tmp_path), 40)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_may_be_cut_off_at_any_byte_of_a_further_stream(plain, tmp_path, form):
    data = whole(plain)
    first = pack(data[: PLACES[7]], form)
    second = pack(data[PLACES[7] : PLACES[8]], form)
    for length in (*range(10, 40), len(second) // 2):
        (tmp_path / f"s.tar.{form}").write_bytes(first + second[:length])
        check_start(read(tmp_path), 7)
    # Cut off between two streams, or within the first bytes of one.
    for length in (0, 1, 3, 9):
        (tmp_path / f"s.tar.{form}").write_bytes(first + second[:length])
        *frames, last = read(tmp_path)
        assert len(frames) == 7 and last.frame_index == BREAK


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_stream_is_a_break_after_the_frames_before(plain, tmp_path, form):
    data = whole(plain)
    streams = [pack(data[begin:end], form) for begin, end in itertools.pairwise(PLACES)]
    damaged = bytearray(streams[9])
    for at in range(len(damaged) // 3, len(damaged) // 3 + 20):
        damaged[at] ^= 0xFF
    (tmp_path / f"s.tar.{form}").write_bytes(b"".join([*streams[:9], damaged, *streams[10:]]))
    *frames, last = read(tmp_path)
    assert [(frame.member, frame.image) for frame in frames[:9]] == MEMBERS[:9]
    assert len(frames) <= 10 and last.frame_index == BREAK and not last.refused
    assert any(f"at byte {place} (unpacked)" in last.error for place in PLACES[8:10])


@pytest.mark.parametrize("form", ["bz2", "xz", "zst"])
def test_no_member_before_damage_is_lost(plain, tmp_path, form):
    """The members are compressible, so that a stream is damaged in the middle of what was read at a time."""
    members = [(f"{index:02}.jpg", os.urandom(700).hex().encode()) for index in range(300)]
    data = write_tar(tmp_path / "s.tar", members).read_bytes()
    content = pack(data, form, *({"bz2": ("-1",), "zst": ("-B65536",)}.get(form, ())))
    counts = set()
    for part in range(2, 20):
        damaged = bytearray(content)
        at = len(content) * part // 20
        damaged[at : at + 9] = bytes(9)
        (tmp_path / f"s.tar.{form}").write_bytes(damaged)
        # Decoders also return wrong bytes before they notice the damage.
        start = unpacked_start(bytes(damaged), form)
        (tmp_path / "s.tar").write_bytes(start[: len(start) // 512 * 512])
        *expected, _ = read(tmp_path / "s.tar")
        *frames, last = read(tmp_path / f"s.tar.{form}")
        assert facts(frames[: len(expected)]) == facts(expected) and last.frame_index == BREAK
        counts.add(len(frames))
    assert len(counts) > 2


@pytest.mark.parametrize(
    ("form", "window"),
    [("xz", r"its xz dictionary needs"), ("zst", r"its Zstandard window of \d+ bytes is")],
)
def test_a_window_larger_than_the_allowed_memory_is_a_break(plain, tmp_path, form, window):
    path = tmp_path / f"s.tar.{form}"
    options = {"xz": ("--lzma2=dict=4MiB",), "zst": ("--long=22",)}[form]
    path.write_bytes(pack(whole(plain) * 8, form, *options))
    assert len(read(path, limits=Limits(source_memory=16 << 20))) == 320
    (frame,) = read(path, limits=Limits(source_memory=1 << 20))
    said = f"{window} more .*than limits.source_memory=1048576: the rest is not read"
    assert frame.frame_index == BREAK and re.search(said, frame.error), frame.error


def test_a_window_that_the_decoder_does_not_support_is_a_break(plain, tmp_path):
    frame_of_256_mib = b"\x28\xb5\x2f\xfd\0" + bytes([(28 - 10) << 3]) + b"\1\0\0"
    first = pack(whole(plain)[: PLACES[3]], "zst")
    (tmp_path / "s.tar.zst").write_bytes(first + frame_of_256_mib)
    *frames, last = read(tmp_path)
    assert len(frames) == 3 and "window of 268435456 bytes is more than 134217728" in last.error


@pytest.mark.parametrize("form", ["bz2", "xz", "zst"])
def test_a_file_that_expands_too_much_is_a_break(tmp_path, form):
    """gzip has a maximum ratio; that of the others is far larger."""
    data = write_tar(tmp_path / "s.tar", [("0.jpg", b"0"), ("a.bin", bytes(20 << 20))]).read_bytes()
    (tmp_path / "s.tar").unlink()
    path = tmp_path / f"s.tar.{form}"
    path.write_bytes(pack(data, form))
    assert 1032 * path.stat().st_size < 16 << 20
    assert facts(read(path)) == [("0.jpg", 0, b"0", None)]
    *frames, last = read(path, limits=Limits(source_memory=16 << 20))
    assert facts(frames) == [("0.jpg", 0, b"0", None)] and last.frame_index == BREAK
    assert "it expands to more than 1032 times" in last.error
    assert "limits.source_memory=16777216" in last.error


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["s.tar", "s.jpg", "s.parquet", "s.mp4", "s.tar.gz", "s.tar.zst", "s.bin"])
def test_the_content_decides_and_not_the_name(plain, tmp_path, form, name):
    (tmp_path / name).write_bytes(pack(whole(plain), form))
    shards = list_shards([str(tmp_path)], S3Settings(), any_name=True)
    findings = Findings()
    found = list(read_shards(shards, S3Settings(), findings=findings, any_name=True))
    assert facts(found) == facts(read(plain / "whole.tar"))
    assert len(findings.notes) == (name in ("s.jpg", "s.parquet", "s.mp4"))


@pytest.mark.parametrize("form", FORMS)
def test_other_compressed_files_are_passed_over_in_a_folder(plain, tmp_path, form):
    (tmp_path / f"labels.csv.{form}").write_bytes(pack(b"name,label\n" * 5000, form))
    (tmp_path / f"cut.{form}").write_bytes(pack(whole(plain), form)[:300])
    findings = Findings()
    shards = list_shards([str(tmp_path)], S3Settings(), any_name=True)
    frames = list(read_shards(shards, S3Settings(), findings=findings, any_name=True))
    cut = [frame for frame in frames if frame.source.endswith(f"cut.{form}")]
    assert len(frames) == len(cut) and all(frame.frame_index == BREAK for frame in cut)
    assert findings.passed_over == {f".{form}": 2 - len(cut)}


@pytest.mark.parametrize("form", FORMS)
def test_a_tar_that_is_compressed_twice_says_so(plain, tmp_path, form):
    (tmp_path / f"s.tar.{form}").write_bytes(pack(pack(whole(plain), form), form))
    (frame,) = read(tmp_path)
    article = "an" if form == "xz" else "a"
    assert frame.error == f"this is {article} {FORMS[form]} file, not a tar: unpack it"
