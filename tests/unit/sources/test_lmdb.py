"""LMDB files as sources. The `lmdb` package writes them."""

import os
import random
import struct
from pathlib import Path

import lmdb
import pytest
from small_s3 import BUCKET, small_s3

from faceq.config import Limits
from faceq.sources import Findings, read_again, read_shards
from faceq.sources.frame import Frame
from faceq.sources.listing import list_shards
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK

JPEG = b"\xff\xd8\xff\xe0 and so on"


def write(path: Path, entries: dict[bytes, bytes], together: int = 1000, **options) -> Path:
    """Write entries in transactions of `together` each. Returns the path of the file."""
    env = lmdb.open(str(path), map_size=1 << 28, **{"subdir": path.suffix != ".lmdb", **options})
    items = list(entries.items())
    for first in range(0, len(items), together):
        with env.begin(write=True) as transaction:
            for key, value in items[first : first + together]:
                transaction.put(key, value)
    env.close()
    return path / "data.mdb" if path.is_dir() else path


def read(path: Path | str, s3: S3Settings | None = None, **how) -> tuple[list[Frame], Findings]:
    findings, s3 = Findings(), s3 or S3Settings()
    return list(read_shards(list_shards([str(path)], s3), s3, findings=findings, **how)), findings


def facts(frames: list[Frame]) -> dict[str | None, bytes | None]:
    return {frame.member: frame.image for frame in frames}


def pictures(count: int, seed: int = 0) -> dict[bytes, bytes]:
    chance = random.Random(seed)
    sizes = (0, 50, 1500, 2000, 2030, 2040, 4000, 9000, 70_000)
    return {b"%d/%05d.jpg" % (n % 7, n): JPEG + chance.randbytes(chance.choice(sizes)) for n in range(count)}


@pytest.mark.parametrize("together", [1, 50, 1000])
def test_values_are_frames_in_the_order_of_their_keys(tmp_path, together):
    entries = pictures(300)
    path = write(tmp_path / "set", entries, together)
    frames, findings = read(tmp_path / "set")
    assert [frame.member for frame in frames] == [key.decode() for key in sorted(entries)]
    assert facts(frames) == {key.decode(): value for key, value in entries.items()}
    assert {frame.source for frame in frames} == {str(path)} and not findings.notes
    assert findings.finished[0].frames == 300
    env = lmdb.open(str(tmp_path / "set"), readonly=True, lock=False)
    (tmp_path / "copy").mkdir()
    env.copy(str(tmp_path / "copy"), compact=True)
    env.close()
    assert facts(read(tmp_path / "copy")[0]) == facts(frames)


def test_entries_that_were_deleted_and_replaced_are_gone(tmp_path):
    entries = pictures(500)
    write(tmp_path / "set", entries, 100)
    env = lmdb.open(str(tmp_path / "set"), map_size=1 << 28)
    chance = random.Random(4)
    for _ in range(20):
        with env.begin(write=True) as transaction:
            for key in chance.sample(sorted(entries), 20):
                transaction.delete(key)
                del entries[key]
            for key in chance.sample(sorted(entries), 5):
                entries[key] = JPEG + chance.randbytes(chance.choice([10, 5000, 30_000]))
                transaction.put(key, entries[key])
    env.close()
    frames, _ = read(tmp_path / "set")
    assert facts(frames) == {key.decode(): value for key, value in entries.items()}
    env = lmdb.open(str(tmp_path / "set"), map_size=1 << 28)
    with env.begin(write=True) as transaction:
        for key in entries:
            transaction.delete(key)
    env.close()
    assert read(tmp_path / "set")[0] == []


def test_files_folders_and_locks(tmp_path):
    write(tmp_path / "folder", pictures(2))
    write(tmp_path / "one.lmdb", pictures(3))
    (tmp_path / "folder" / "meta_info.txt").write_text("0/00000.jpg (112,112,3) 1\n")
    assert (tmp_path / "folder" / "lock.mdb").exists() and (tmp_path / "one.lmdb-lock").exists()
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    passed_over: set[str] = set()
    shards = list_shards([str(tmp_path)], S3Settings(), passed_over=passed_over)
    assert [shard.kind for shard in shards] == ["lmdb", "lmdb"]
    assert passed_over == {str(tmp_path / "folder" / "meta_info.txt")}
    assert len(read(tmp_path)[0]) == 5
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
    os.rename(tmp_path / "one.lmdb", tmp_path / "one.tar")
    frames, findings = read(tmp_path / "one.tar")
    assert len(frames) == 3 and "read as an LMDB file" in findings.notes[0]


def test_values_that_are_no_images(tmp_path):
    entries = {
        b"__keys__": b"\x80\x04\x95 pickled",
        b"__len__": b"\x80\x04K\x02.",
        b"num-samples": b"2",
        b"label-1": "Müller".encode(),
        b"image-1": JPEG,
        b"image-2": b"\0\1\2 damaged",
        b"image-3": b"",
        b"text.jpg": b"<html>not found</html>",
        b"image-4": b"\x80\x03(pickled image",
    }
    frames, findings = read(write(tmp_path / "set", entries).parent)
    assert facts(frames) == {
        "image-1": JPEG,
        "image-2": entries[b"image-2"],
        "image-3": b"",
        "image-4": None,
        "text.jpg": entries[b"text.jpg"],
    }
    assert frames[3].error.startswith("a Python pickle, which faceq never loads")
    assert findings.passed_over == {"(no extension)": 4}


def test_names_that_are_not_text_and_numbers(tmp_path):
    frames, _ = read(write(tmp_path / "bytes", {b"\xff\0a": JPEG}).parent)
    assert [frame.member for frame in frames] == ["\\xff\0a"]
    (again,) = read_again({frames[0].source: {"\\xff\0a": 0}}, {frames[0].id}, S3Settings())
    assert again == frames[0]


def test_single_frames_are_read_again_by_their_keys(tmp_path):
    entries = pictures(2000)
    path = write(tmp_path / "set", entries)
    frames, _ = read(path)
    for frame in random.Random(1).sample(frames, 30):
        assert list(read_again({frame.source: {frame.member: 0}}, {frame.id}, S3Settings())) == [frame]
    last = {str(path): {frame.member: 0 for frame in frames}}
    assert list(read_again(last, {frame.id for frame in frames}, S3Settings())) == frames
    last = {str(path): dict.fromkeys(("8/00001.jpg", "0", "nothing"), 0)}
    assert list(read_again(last, {1}, S3Settings())) == []


def test_frames_with_a_row_are_not_read(tmp_path):
    path = write(tmp_path / "set", pictures(20))
    frames, findings = read(path)
    again, found = read(path, done={frame.id for frame in frames[:15]})
    assert [frame.done for frame in again] == [True] * 15 + [False] * 5
    assert found.finished == findings.finished


def test_values_beyond_the_limit(tmp_path):
    path = write(tmp_path / "set", {b"a": JPEG, b"b": JPEG + bytes(99_000)})
    frames, _ = read(path, limits=Limits(frame_bytes=1000))
    assert frames[1].error.startswith("99014 bytes are more than limits.frame_bytes=1000")


def test_what_is_not_supported_says_so(tmp_path):
    env = lmdb.open(str(tmp_path / "named"), map_size=1 << 24, max_dbs=2)
    with env.begin(write=True) as transaction:
        transaction.put(b"x", JPEG, db=env.open_db(b"other", transaction))
        transaction.put(b"a.jpg", JPEG)
    env.close()
    frames, findings = read(tmp_path / "named")
    assert facts(frames) == {"a.jpg": JPEG}
    assert "its database other is not read: only the main one is" in findings.notes[0]
    for content, error in (
        (b"", "this file is empty"),
        (b"x" * 9999, "this is text, such as CSV, not an LMDB"),
    ):
        (tmp_path / "a.mdb").write_bytes(content)
        (frame,), _ = read(tmp_path / "a.mdb")
        assert frame.frame_index == BREAK and frame.error.startswith(error)
    with small_s3({"data.mdb": write(tmp_path / "set", pictures(1)).read_bytes()}) as store:
        (frame,), _ = read(f"s3://{BUCKET}/data.mdb", store.settings)
        assert frame.error.startswith("LMDB files are read from local disks only") and not frame.refused


@pytest.mark.parametrize("cut", [1000, 5000, 100_000, 1_000_000])
def test_a_file_that_is_cut_off(tmp_path, cut):
    entries = pictures(300)
    path = write(tmp_path / "set", entries)
    os.truncate(path, path.stat().st_size - cut)
    frames, _ = read(path)
    given = {frame.member: frame.image for frame in frames if frame.image is not None}
    assert given.items() <= {key.decode(): value for key, value in entries.items()}.items()
    lost = [frame for frame in frames if frame.image is None]
    assert lost and all("broken" in frame.error for frame in lost)
    assert all(frame.frame_index != BREAK for frame in frames[:-1])
    if len(given) + len(lost) < 300:
        assert frames[-1].frame_index == BREAK and "of 300 entries: copy it again" in frames[-1].error


def test_pages_that_lead_to_themselves_end(tmp_path):
    path = write(tmp_path / "set", pictures(3000))
    data = bytearray(path.read_bytes())
    size = 4096
    for at in range(2 * size, len(data), size):
        (flags,) = struct.unpack_from("<H", data, at + 10)
        if flags == 1:  # a branch: all its children are page 2
            low = struct.unpack_from("<H", data, at + 12)[0]
            for (node,) in struct.iter_unpack("<H", data[at + 16 : at + low]):
                data[at + node : at + node + 6] = struct.pack("<IH", at // size, 0)
    path.write_bytes(data)
    frames, _ = read(path)
    assert len(frames) == 1 and frames[0].frame_index == BREAK


def test_damaged_files_lose_no_more_than_they_say(tmp_path):
    entries = pictures(200)
    path = write(tmp_path / "set", entries)
    whole = path.read_bytes()
    texts = {key.decode(): value for key, value in entries.items()}
    for seed in range(150):
        chance, data = random.Random(seed), bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data) // 4096) * 4096 + chance.randrange(100)
            data[at : at + 4] = chance.randbytes(4)
        path.write_bytes(data[: len(whole)])
        frames, _ = read(path)
        assert len({frame.id for frame in frames}) == len(frames)
        is_broken = bool(frames) and frames[-1].frame_index == BREAK
        assert is_broken or len(frames) == 200
        assert all(frame.frame_index != BREAK for frame in frames[:-1])
        assert sum(texts.get(frame.member) == frame.image for frame in frames) >= (0 if is_broken else 190)
