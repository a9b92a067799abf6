"""RecordIO files of MXNet as sources."""

import json
import os
import random
import struct
from pathlib import Path

import pytest
from parts import read_parts, split_records
from records import MAGIC, framed, identities, image_record, offsets_of, write_records
from small_s3 import BUCKET, Refusal, small_s3

from faceq.config import Limits
from faceq.errors import UsageError
from faceq.sources import Findings, read_again, read_shards
from faceq.sources.frame import Frame
from faceq.sources.listing import Shard, index_path, list_shards
from faceq.sources.parts import UnsplitError
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK

JPEG = b"\xff\xd8\xff\xe0 and so on"
EXTRA = 16 << 10


def shard_of(path: Path | str, s3: S3Settings | None = None) -> Shard:
    (shard,) = list_shards([str(path)], s3 or S3Settings())
    return shard


def read(path: Path, s3: S3Settings | None = None, **how) -> tuple[list[Frame], Findings]:
    findings = Findings()
    shards = list_shards([str(path)], s3 or S3Settings())
    return list(read_shards(shards, s3 or S3Settings(), findings=findings, **how)), findings


def facts(frames: list[Frame]) -> list[tuple]:
    return [(frame.member, frame.image) for frame in frames]


def picture(number: int, size: int = 100) -> bytes:
    return JPEG + b"%d" % number + random.Random(number).randbytes(size)


def plain(count: int, size: int = 100) -> list[tuple[int, bytes]]:
    return [(n, image_record(n, float(n // 3), picture(n, size))) for n in range(count)]


# --- frames, labels and names ---


@pytest.mark.parametrize("index", [True, False])
def test_images_of_a_training_set_are_frames_and_its_other_records_are_not(tmp_path, index):
    images = [(label, picture(label)) for label in (0, 0, 1, 1, 1, 2)]
    path = write_records(tmp_path / "train.rec", identities(images), index)
    frames, findings = read(tmp_path, extra_bytes=EXTRA)
    assert facts(frames) == [(f"{number}", image) for number, (_, image) in enumerate(images, 1)]
    assert [json.loads(frame.extra) for frame in frames] == [{"identity": label} for label, _ in images]
    assert not findings.notes and not findings.passed_over
    assert {frame.source for frame in frames} == {str(path)}
    assert findings.finished[0].frames == 6


def test_the_index_gives_the_names(tmp_path):
    records = [("b", image_record(5, 1.0, JPEG)), ("a", image_record(6, 1.0, JPEG + b"2"))]
    frames, _ = read(write_records(tmp_path / "a.rec", records))
    assert facts(frames) == [("b", JPEG), ("a", JPEG + b"2")]
    frames, _ = read(write_records(tmp_path / "b.rec", records, index=False))
    assert facts(frames) == [("5", JPEG), ("6", JPEG + b"2")]
    records = [(30, records[0][1]), (4, records[1][1])]
    frames, _ = read(write_records(tmp_path / "c.rec", records))
    assert facts(frames) == [("30", JPEG), ("4", JPEG + b"2")]


def test_labels_are_extra(tmp_path):
    records = [
        (1, image_record(1, 7.0, JPEG)),
        (2, image_record(2, 0.5, JPEG)),
        (3, image_record(3, [9.0, 1.0], JPEG)),
        (4, image_record(4, [8.0], JPEG)),
        (5, image_record(5, float("nan"), JPEG)),
        (6, image_record(6, [1.0] * 5000, JPEG)),
    ]
    path = write_records(tmp_path / "a.rec", records)
    frames, _ = read(path, extra_bytes=200)
    assert [json.loads(frame.extra) for frame in frames] == [
        {"identity": 7},
        {"identity": 0.5},
        {"identity": 9, "label": [9, 1]},
        {"identity": 8},
        {"identity": None},
        {"identity": 1, "_left_out": ["label"]},
    ]
    assert all(frame.image == JPEG for frame in frames)
    assert frames[0].extra == '{"identity": 7}'
    frames, _ = read(path)
    assert {frame.extra for frame in frames} == {None}


def test_content_with_the_magic_number_is_put_together_again(tmp_path):
    contents = [
        MAGIC,
        MAGIC * 3,
        b"1234" + MAGIC + b"56",
        b"12" + MAGIC + b"34",  # not at a multiple of four: stays
        b"1234" + MAGIC + MAGIC + b"123456" + MAGIC,
        b"12345678" + MAGIC,
    ]
    records = [(n, image_record(n, 0.0, JPEG[:12] + content)) for n, content in enumerate(contents)]
    path = write_records(tmp_path / "a.rec", [*records, (9, image_record(9, 0.0, JPEG))])
    assert path.read_bytes().count(MAGIC) > 13
    frames, _ = read(path)
    assert [frame.image for frame in frames] == [*(JPEG[:12] + content for content in contents), JPEG]


def test_writers_that_do_not_split_records_are_read_too(tmp_path):
    content = image_record(0, 0.0, JPEG[:12] + MAGIC + struct.pack("<I", 20) + b"x" * 50)
    data = MAGIC + struct.pack("<I", len(content)) + content + bytes(-len(content) % 4)
    (tmp_path / "a.rec").write_bytes(data + framed(image_record(1, 0.0, JPEG)))
    frames, _ = read(tmp_path)
    assert facts(frames) == [("0", content[24:]), ("1", JPEG)]


def test_repeated_keys_get_numbers(tmp_path):
    records = [(7, image_record(0, 0.0, picture(n))) for n in range(3)]
    for index in (True, False):
        path = write_records(tmp_path / f"{index}.rec", records, index)
        frames, _ = read(path)
        name = "7" if index else "0"
        assert [frame.member for frame in frames] == [name, f"{name}#2", f"{name}#3"]
        (again,) = read_again({str(path): {frames[2].member: 0}}, {frames[2].id}, S3Settings())
        assert again.image == picture(2)


def test_an_index_is_no_file_without_frames(tmp_path):
    write_records(tmp_path / "train.rec", plain(3))
    (tmp_path / "other.idx").write_text("1\t0\n")
    (tmp_path / "property").write_text("3,112,112")
    passed_over: set[str] = set()
    for any_name in (False, True):
        shards = list_shards([str(tmp_path)], S3Settings(), any_name=any_name, passed_over=passed_over)
        assert (str(tmp_path / "train.idx") in {shard.source for shard in shards}) is False
    assert passed_over == {str(tmp_path / "other.idx"), str(tmp_path / "property")}


def test_content_decides(tmp_path):
    path = write_records(tmp_path / "train.rec", plain(3))
    os.rename(path, tmp_path / "train.tar")
    frames, findings = read(tmp_path / "train.tar")
    assert [frame.member for frame in frames] == ["0", "1", "2"]
    assert "read as a RecordIO file: its content does not match its extension" in findings.notes[0]
    (tmp_path / "image.rec").write_bytes(JPEG)
    (tmp_path / "image.idx").write_text("# VobSub index file, v7\n")
    frames, findings = read(tmp_path / "image.rec")
    assert facts(frames) == [(None, JPEG)] and "read as an image" in findings.notes[0]
    for content, error in (
        (b"", "this file is empty"),
        (bytes(100), "this is zero bytes, not a RecordIO file"),
        (b"PK\3\4" + bytes(99), "this is a ZIP archive, not a RecordIO file"),
        (
            b"\x08\x01" + bytes(range(90)),
            "this is not a RecordIO file: its first bytes are not the magic",
        ),
    ):
        (tmp_path / "x.rec").write_bytes(content)
        (frame,), _ = read(tmp_path / "x.rec")
        assert frame.frame_index == BREAK and frame.error.startswith(error)
    with pytest.raises(UsageError, match="no frames"):
        list_shards([str(tmp_path / "*.idx")], S3Settings())


def test_frames_with_a_row_are_not_read(tmp_path):
    path = write_records(tmp_path / "train.rec", identities([(0, picture(0)), (1, picture(1))]))
    frames, findings = read(path)
    again, found = read(path, done={frames[0].id})
    assert [(frame.done, frame.image) for frame in again] == [(True, None), (False, picture(1))]
    assert found.finished == findings.finished


def test_single_frames_are_read_again_by_the_index(tmp_path):
    records = plain(200, 5000)
    records[150] = (150, image_record(150, 0.0, JPEG + MAGIC))
    path = write_records(tmp_path / "a.rec", records)
    data = bytearray(path.read_bytes())
    frames, _ = read(path)
    # Only these records are read: all others are destroyed.
    offsets = offsets_of(path)
    for number in range(1, 199):
        if number not in (20, 150):
            begin, end = offsets[f"{number}"], offsets[f"{number + 1}"]
            data[begin:end] = bytes(end - begin)
    path.write_bytes(data)
    wanted = {frames[150].id, frames[20].id}
    again = list(read_again({str(path): {"150": 0, "20": 0}}, wanted, S3Settings()))
    assert again == [frames[20], frames[150]]


# --- damage ---


def broken(frames: list[Frame]) -> list[tuple]:
    return [(f.member, f.error) for f in frames if f.error is not None]


@pytest.mark.parametrize("index", [True, False])
def test_a_file_that_is_cut_off(tmp_path, index):
    path = write_records(tmp_path / "a.rec", plain(5), index)
    size = path.stat().st_size
    for cut in (1, 60, 130):
        os.truncate(path, size - cut)
        frames, _ = read(path)
        assert facts(frames[:-1]) == [(f"{n}", picture(n)) for n in range(4)]
        assert frames[-1].frame_index == BREAK
        assert "broken at byte" in frames[-1].error and "the rest is not read" in frames[-1].error
        assert ("its index lists 1 more record:" in frames[-1].error) is index
    os.truncate(path, size // 5 * 2)  # between two records
    frames, _ = read(path)
    assert len(frames) == (3 if index else 2)
    assert not index or "its index lists 3 more records" in frames[2].error


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("place", [0, 4, 7])
def test_reading_continues_after_damage(tmp_path, index, place):
    """The magic number of record 3, its length, or its flag is wrong."""
    path = write_records(tmp_path / "a.rec", plain(8))
    data, at = bytearray(path.read_bytes()), offsets_of(path)["3"]
    data[at + place] ^= 0x41
    path.write_bytes(data)
    if not index:
        os.unlink(index_path(str(path)))
    frames, _ = read(path)
    others = [(f"{n}", picture(n)) for n in range(8) if n != 3]
    assert [fact for fact in facts(frames) if fact[1] is not None] == others
    ((member, error),) = broken(frames)
    assert member == ("3" if index else None)
    assert error.startswith(f"broken at byte {at}: its bytes are damaged")
    assert index or error.endswith(f"read again from byte {offsets_or(at, data)}")


def offsets_or(at: int, data: bytes) -> int:
    return data.find(MAGIC, at + 4)


def test_a_length_that_skips_records_loses_none(tmp_path):
    """The length of record 2 leads to the beginning of record 5."""
    path = write_records(tmp_path / "a.rec", plain(8))
    offsets, data = offsets_of(path), bytearray(path.read_bytes())
    data[offsets["2"] + 4 : offsets["2"] + 8] = struct.pack("<I", offsets["5"] - offsets["2"] - 8)
    path.write_bytes(data)
    for _ in range(2):
        frames, _ = read(path)
        assert [frame.member for frame in frames if frame.image] == ["0", "1", "3", "4", "5", "6", "7"]
        assert len(broken(frames)) == 1
        Path(index_path(str(path))).unlink(missing_ok=True)


def test_garbage_between_records(tmp_path):
    first, second = framed(image_record(1, 0.0, JPEG)), framed(image_record(2, 0.0, JPEG))
    (tmp_path / "a.rec").write_bytes(first + b"garbage!" * 3 + second + b"x" * 40 + second + b"end")
    frames, _ = read(tmp_path)
    assert [frame.member for frame in frames] == ["1", "2", "2#2", None]
    assert frames[-1].error == (
        f"broken at byte {len(first)}: its bytes are damaged: read again from byte {len(first) + 24}; "
        f"more is broken, the last at byte {len(first) + 64 + 2 * len(second)}"
    )


def test_a_huge_length_costs_no_memory(tmp_path):
    path = write_records(tmp_path / "a.rec", plain(3), index=False)
    data = path.read_bytes()
    path.write_bytes(data + MAGIC + struct.pack("<I", (1 << 29) - 1) + b"x" * 100)
    frames, _ = read(path)
    assert [frame.member for frame in frames] == ["0", "1", "2", None]
    assert f"broken at byte {len(data)}: the file is cut off or damaged" in frames[-1].error


def test_records_beyond_the_limit(tmp_path):
    records = [
        (0, image_record(0, 5.0, JPEG)),
        (1, image_record(1, 6.0, JPEG + bytes(3000))),
        (2, image_record(2, 7.0, JPEG + bytes(-len(JPEG) % 4) + MAGIC + bytes(2000) + MAGIC + bytes(2000))),
        (3, image_record(3, 8.0, JPEG)),
    ]
    path = write_records(tmp_path / "a.rec", records)
    frames, _ = read(path, limits=Limits(frame_bytes=1000), extra_bytes=EXTRA)
    assert [frame.member for frame in frames] == ["0", "1", "2", "3"]
    assert frames[1].error.startswith("3014 bytes are more than limits.frame_bytes=1000")
    assert frames[2].error.startswith("4024 bytes are more than limits.frame_bytes=1000")
    assert [frame.extra for frame in frames] == [f'{{"identity": {n}}}' for n in range(5, 9)]


def test_records_that_hold_no_image_are_rows(tmp_path):
    records = [
        (1, image_record(1, 3.0)),
        (2, image_record(2, [3.0, 1.0])),
        (3, b"short"),
        (4, struct.pack("<IfQQ", 100, 0, 4, 0) + b"x" * 50),
        (5, image_record(5, 1.0, b"not an image")),
    ]
    expected = [
        "the record holds no image",
        "the record holds no image",
        "a record of 5 bytes, which is less than the header of an image record",
        "a record of 74 bytes that claims 100 labels: its header is damaged",
    ]
    path = write_records(tmp_path / "a.rec", records)
    frames, _ = read(path)
    assert broken(frames) == list(zip("1234", expected, strict=True))
    assert frames[4].image == b"not an image"
    os.unlink(index_path(str(path)))
    frames, _ = read(path)
    assert [error for _, error in broken(frames)] == expected
    assert [frame.member for frame in frames] == ["1", "2", f"@{32 + 40}", "4", "5"]


def test_an_image_that_is_missing_from_a_training_set_is_not_taken_for_an_identity(tmp_path):
    images = [(0, picture(0)), ([0.0, 1.0], b""), (1, picture(2))]
    path = write_records(tmp_path / "a.rec", identities(images))
    frames, _ = read(path)
    assert [(frame.member, frame.error) for frame in frames] == [
        ("1", None),
        ("2", "the record holds no image"),
        ("3", None),
    ]


# --- damaged indices ---


def rewritten(path: Path, change) -> None:
    place = Path(index_path(str(path)))
    place.write_text(change(place.read_text()))


def test_an_index_that_points_between_records(tmp_path):
    path = write_records(tmp_path / "a.rec", plain(4))
    at = offsets_of(path)["2"]
    rewritten(path, lambda text: text.replace(f"2\t{at}\n", f"2\t{at + 8}\n"))
    frames, findings = read(path)
    assert {frame.member for frame in frames} == {"0", "1", "2", "3", f"@{at}"}
    ((member, error),) = broken(frames)
    assert member == "2" and error.startswith(f"its index places it at byte {at + 8}, where no record begins")
    (unlisted,) = [frame for frame in frames if frame.member == f"@{at}"]
    assert unlisted.image == picture(2)
    assert "does not list 1 image, named by" in findings.notes[0]
    (again,) = read_again({str(path): {unlisted.member: 0}}, {unlisted.id}, S3Settings())
    assert again.image == picture(2)


def test_an_index_that_points_beyond_the_end(tmp_path):
    path = write_records(tmp_path / "a.rec", plain(4))
    rewritten(path, lambda text: text + "4\t999999\n5\t9999999999999999\n")
    frames, _ = read(path)
    assert [frame.member for frame in frames] == ["0", "1", "2", "3", None]
    assert frames[-1].error.startswith("its index lists 2 more records") and frames[-1].frame_index == BREAK


def test_lines_of_an_index_that_are_missing_mixed_up_or_garbage(tmp_path):
    path = write_records(tmp_path / "a.rec", plain(6))
    offsets = offsets_of(path)

    def change(text: str) -> str:
        lines = text.splitlines()
        random.Random(1).shuffle(lines)
        lines.remove(f"4\t{offsets['4']}")
        return "\n".join([*lines, lines[0], "garbage", "7", "8\tx", "\t5", "9\t-4", "", "1\t2\t3"]) + "\r\n"

    rewritten(path, change)
    frames, findings = read(path)
    assert facts(frames) == [(f"{n}" if n != 4 else f"@{offsets['4']}", picture(n)) for n in range(6)]
    assert findings.notes[0].endswith("named by the byte of the record, such as @1234")
    assert findings.notes[1].endswith("skipped 7 lines of its index: not a key and a byte")


def test_two_keys_of_one_record_are_two_frames(tmp_path):
    path = write_records(tmp_path / "a.rec", plain(2))
    rewritten(path, lambda text: text + "9\t0\n")
    frames, _ = read(path)
    assert facts(frames) == [("0", picture(0)), ("9", picture(0)), ("1", picture(1))]


@pytest.mark.parametrize("text", ["", "version https://git-lfs.github.com/spec/v1\n", "\0" * 50])
def test_a_file_that_is_no_index_stops_the_reading(tmp_path, text):
    path = write_records(tmp_path / "a.rec", plain(2))
    rewritten(path, lambda _: text)
    (frame,), _ = read(path)
    assert frame.frame_index == BREAK and "a.idx has no line with a key and a byte" in frame.error


def test_the_memory_of_an_index_is_limited(tmp_path):
    path = write_records(tmp_path / "a.rec", plain(100))
    (frame,), _ = read(path, limits=Limits(source_memory=1000))
    assert "needs more memory than limits.source_memory=1000 bytes" in frame.error


# --- parts ---


def check_parts(path: Path, sizes=(1000, 3000, 9000), least: int = 2, **how) -> None:
    """Compare the frames, and what is found besides them, for several sizes of the parts."""
    whole, findings = read(path, **how)
    most = 0
    for size in sizes:
        parts = split_records(shard_of(path), size)
        most = max(most, len(parts))
        frames, found, finished = read_parts(parts, **how)
        assert frames == whole, size
        assert (finished, found.notes) == (findings.finished, findings.notes)
        assert sum(part.size for part in parts) == path.stat().st_size
    assert most >= least


@pytest.mark.parametrize("index", [True, False])
def test_the_parts_hold_the_frames_of_the_whole(tmp_path, index):
    chance = random.Random(3)
    images = [
        (n // 5, picture(n, chance.choice([0, 90, 2000])) + MAGIC * chance.choice([0, 0, 3]))
        for n in range(100)
    ]
    images[70] = (14, b"")
    path = write_records(tmp_path / "a.rec", identities(images), index)
    check_parts(path, extra_bytes=EXTRA)
    whole, _ = read(path)
    check_parts(path, done={frame.id for frame in whole[5:60]})


def test_a_damaged_file_with_an_index_has_the_same_frames_in_parts(tmp_path):
    path = write_records(tmp_path / "a.rec", plain(60, 500))
    whole, chance = path.read_bytes(), random.Random(5)
    for number in range(20):
        data = bytearray(whole[: chance.randrange(10_000, len(whole))] if number % 3 else whole)
        at = chance.randrange(len(data))
        data[at : at + 40] = chance.randbytes(len(data[at : at + 40]))
        path.write_bytes(data)
        frames, _ = read(path)
        parts, _, _ = read_parts(split_records(shard_of(path), 5000))
        assert facts(parts) == facts(frames)


def test_what_cannot_be_read_in_parts_is_refused(tmp_path):
    path = write_records(tmp_path / "a.rec", plain(40))
    text = Path(index_path(str(path))).read_text()
    for change, why in (
        (text + "garbage\n", "lines that are no entries"),
        (text + text.splitlines()[0] + "\n", "not in the order"),
        (text.replace("12\t", "11\t"), "several entries of the same key"),
        (text.replace("12\t", "twelve\t"), "keys that are not numbers"),
    ):
        rewritten(path, lambda _, change=change: change)
        with pytest.raises(UnsplitError, match=why):
            split_records(shard_of(path), 1000)
    os.unlink(index_path(str(path)))
    data = bytearray(path.read_bytes())
    data[1000:1200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(UnsplitError, match="damaged"):
        split_records(shard_of(path), 1000)
    write_records(path, [(n, image_record(0, 0.0, picture(n))) for n in range(40)], index=False)
    with pytest.raises(UnsplitError, match="several of its images have the same id"):
        split_records(shard_of(path), 1000)


def test_a_file_or_index_that_was_changed_after_it_was_divided_is_a_break_in_each_part(tmp_path):
    path = write_records(tmp_path / "a.rec", plain(40))
    parts = split_records(shard_of(path), 1000)
    rewritten(path, lambda text: text + "77\t0\n")
    for part in parts:
        (frame,) = read_shards([part], S3Settings())
        assert frame.frame_index == BREAK and "was changed while it was read" in frame.error


# --- S3 ---


def test_a_file_on_s3_and_its_parts(tmp_path):
    images = [(n // 5, picture(n, 2000)) for n in range(100)]
    path = write_records(tmp_path / "train.rec", identities(images))
    local, _ = read(path)
    objects = {f"d/{each.name}": each.read_bytes() for each in tmp_path.iterdir()}
    with small_s3({**objects, "alone.rec": path.read_bytes()}) as store:
        uri = f"s3://{BUCKET}/d/train.rec"
        passed_over: set[str] = set()
        (shard,) = list_shards([f"s3://{BUCKET}/d/"], store.settings, passed_over=passed_over)
        assert not passed_over
        frames, findings = read(f"s3://{BUCKET}/d/", store.settings)
        assert facts(frames) == facts(local) and frames[0].source == uri
        parts = split_records(shard, 50_000, store.settings)
        assert len(parts) >= 4
        in_parts, _, finished = read_parts(parts, store.settings)
        assert in_parts == frames and finished == findings.finished
        wanted = {frames[80].id: "81"}
        (again,) = read_again({uri: {"81": 0}}, wanted, store.settings)
        assert again.image == frames[80].image
        alone, _ = read(f"s3://{BUCKET}/alone.rec", store.settings)
        assert facts(alone) == facts(local)


def test_single_frames_on_s3_are_read_without_the_rest(tmp_path):
    path = write_records(tmp_path / "a.rec", plain(100, 50_000))
    with small_s3({each.name: each.read_bytes() for each in tmp_path.iterdir()}) as store:
        uri = f"s3://{BUCKET}/a.rec"
        (frame,) = read_again({uri: {"90": 0}}, {Frame(uri, "90", 0, None).id}, store.settings)
        assert frame.image == picture(90, 50_000)
        reads = [each for each in store.reads() if each.key == "a.rec" and each.method == "GET"]
        ranges = [each.headers["range"].removeprefix("bytes=").split("-") for each in reads]
        assert sum(int(end) - int(begin) for begin, end in ranges) < path.stat().st_size / 10


def test_an_index_that_the_storage_refuses_is_an_outage_not_a_file_without_index(tmp_path):
    write_records(tmp_path / "a.rec", plain(3))
    objects = {each.name: each.read_bytes() for each in tmp_path.iterdir()}

    def refuse(asked) -> Refusal | None:
        return Refusal(403, "AccessDenied") if asked.key == "a.idx" else None

    with small_s3(objects, refuse) as store:
        (frame,), findings = read(f"s3://{BUCKET}/a.rec", store.settings)
        assert frame.frame_index == BREAK and frame.refused and not findings.finished
