"""Videos inside tars and Parquet shards give the same frames as the same files alone."""

import io
import json
import os
import re
import tarfile
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from compressors import FORMS, pack
from parts import read_parts, split
from PIL import Image
from small_s3 import BUCKET, Asked, Refusal, small_s3
from tars import write_tar
from videos import noise, numbered, numbers, only_sound, write_numbered, write_video

from faceq.config import Limits, Video
from faceq.sources import Findings, member_files, read_shards, reading
from faceq.sources import clip as clip_reader
from faceq.sources.frame import READ_SCHEMA, Frame, to_table
from faceq.sources.listing import VIDEO_ENDINGS, Shard, list_shards
from faceq.sources.member_files import Window
from faceq.sources.reread import frames_of
from faceq.sources.tar_archive import Archive
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK

MOST = 16 << 10


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return file.getvalue()


JPEG = jpeg()


def shard_of(path: Path | str, s3: S3Settings | None = None) -> Shard:
    (shard,) = list_shards([str(path)], s3 or S3Settings())
    return shard


def read(path: Path | str, s3: S3Settings | None = None, **how) -> list[Frame]:
    return list(read_shards([shard_of(path, s3)], s3 or S3Settings(), **how))


def facts(frames: list[Frame]) -> list[tuple]:
    """All of the frames but where they are."""
    return [(f.frame_index, f.timestamp_s, f.image, f.error, f.done, f.refused, f.unseen) for f in frames]


def members(frames: list[Frame]) -> dict[str | None, list[Frame]]:
    found: dict[str | None, list[Frame]] = {}
    for frame in frames:
        found.setdefault(frame.member, []).append(frame)
    return found


@pytest.fixture(autouse=True, params=["copied to memory", "in place or on disk"])
def where(request, monkeypatch) -> str:
    """Where videos in tars are while they are decoded."""
    monkeypatch.setattr(member_files, "SMALL", 1 << 30 if request.param == "copied to memory" else 0)
    return request.param


in_place = pytest.mark.parametrize("where", ["in place or on disk"], indirect=True)
parquet = pytest.mark.parametrize("where", ["copied to memory"], indirect=True)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    """Videos by their names: one for each container."""
    folder = tmp_path_factory.mktemp("clips")
    made = {
        **{"a.mp4": {}, "b.mkv": {}, "c.webm": {"codec": "libvpx"}, "d.avi": {"codec": "mpeg4"}},
        **{"e.ts": {"codec": "mpeg2video"}, "f.mpg": {"codec": "mpeg2video"}, "g.flv": {}},
        **{"h.wmv": {"codec": "wmv2", "form": "asf"}, "i.ogv": {"codec": "libvpx"}},
        "j.mov": {"rotation": (90,)},
    }
    return {name: write_numbered(folder / name, 12, **options) for name, options in made.items()}


def as_members(clips: dict[str, Path]) -> list[tuple[str, bytes]]:
    return [(name, path.read_bytes()) for name, path in clips.items()]


# --- Tars ---


def test_the_frames_of_every_container_are_those_of_the_file_alone(clips, tmp_path):
    path = write_tar(tmp_path / "s.tar", [("0.jpg", JPEG), *as_members(clips), ("z.jpg", JPEG)])
    found = members(read(path))
    assert list(found) == ["0.jpg", *clips, "z.jpg"]
    for name, clip in clips.items():
        assert facts(found[name]) == facts(read(clip)) and len(found[name]) >= 12, name
    assert facts(found["z.jpg"]) == [(0, None, JPEG, None, False, False, False)]


def test_every_ending_of_a_video_names_one_in_a_tar(clips, tmp_path):
    content = clips["b.mkv"].read_bytes()
    names = [f"{number}{ending}" for number, ending in enumerate((*VIDEO_ENDINGS, ".MP4"))]
    found = members(read(write_tar(tmp_path / "s.tar", [(name, content) for name in names])))
    assert {name: numbers(frames) for name, frames in found.items()} == {n: list(range(12)) for n in names}


@pytest.mark.parametrize("form", FORMS)
def test_compressed_tars(clips, tmp_path, form):
    made = [("0.jpg", JPEG), *as_members(clips), ("z.jpg", JPEG)]
    whole = write_tar(tmp_path / "s.tar", made)
    packed = tmp_path / f"p.tar.{form}"
    packed.write_bytes(pack(whole.read_bytes(), form))
    assert [replace(frame, source="") for frame in read(packed)] == [
        replace(frame, source="") for frame in read(whole)
    ]


@pytest.mark.parametrize("form", [None, "gz"])
def test_a_tar_on_s3(clips, tmp_path, form):
    data = write_tar(tmp_path / "s.tar", as_members(clips)).read_bytes()
    key = "in/s.tar" if form is None else f"in/s.tar.{form}"
    with small_s3({key: data if form is None else pack(data, form)}) as store:
        frames = read(f"s3://{BUCKET}/{key}", store.settings)
    assert facts(frames) == facts(read(tmp_path / "s.tar"))


@pytest.mark.parametrize("sampling", [{"fps": 5.0}, {"every": 5}, {"fps": 0.5}])
def test_sampling_counts_within_each_video(clips, tmp_path, sampling):
    path = write_tar(tmp_path / "s.tar", as_members(clips))
    found = members(read(path, sampling=Video(**sampling)))
    for name, clip in clips.items():
        assert facts(found[name]) == facts(read(clip, sampling=Video(**sampling))), name


def test_repeated_names_and_images_are_told_apart(clips, tmp_path):
    content = clips["a.mp4"].read_bytes()
    path = write_tar(tmp_path / "s.tar", [("a.mp4", content), ("a.jpg", JPEG), ("a.mp4", content)])
    frames = read(path)
    assert {name: len(some) for name, some in members(frames).items()} == {
        **{"a.mp4": 12, "a.jpg": 1, "a.mp4#2": 12}
    }
    assert len({frame.id for frame in frames}) == 25


def test_content_counts_before_the_name(clips, tmp_path):
    mp4, mkv = (clips[name].read_bytes() for name in ("a.mp4", "b.mkv"))
    made = [("1.jpg", mp4), ("2.mp4", JPEG), ("3.mp4", mkv), ("4.bin", mkv), ("5", JPEG), ("6.dat", b"1")]
    path = write_tar(tmp_path / "s.tar", made)
    expected = {"1.jpg": 12, "2.mp4": 1, "3.mp4": 12}
    assert {name: len(some) for name, some in members(read(path)).items()} == expected
    found = members(read(path, any_name=True))
    assert {name: len(some) for name, some in found.items()} == {**expected, "4.bin": 12, "5": 1}
    assert found["2.mp4"][0].image == JPEG and found["2.mp4"][0].timestamp_s is None
    # The limit is one for images, whatever the name of a video.
    found = members(read(path, limits=Limits(frame_bytes=len(JPEG))))
    assert {name: len(some) for name, some in found.items()} == expected
    packed = tmp_path / "p.tar.gz"
    packed.write_bytes(pack(path.read_bytes(), "gz"))
    assert facts(read(packed, any_name=True)) == facts(read(path, any_name=True))


def test_text_called_ts_is_a_sidecar(clips, tmp_path):
    made = [("1.jpg", JPEG), ("1.ts", b"2024-01-01T00:00:00"), ("2.ts", clips["e.ts"].read_bytes())]
    found = members(read(write_tar(tmp_path / "s.tar", made), extra_bytes=MOST))
    assert json.loads(found["1.jpg"][0].extra) == {"ts": "2024-01-01T00:00:00"}
    assert list(found) == ["1.jpg", "2.ts"] and len(found["2.ts"]) == 12


# --- Sidecars ---


@pytest.mark.parametrize("form", [None, "gz"])
def test_sidecars_before_and_after_a_video_come_with_each_of_its_frames(clips, tmp_path, form):
    clip = clips["a.mp4"].read_bytes()
    made = [
        *(("1.json", b'{"who": "n1"}'), ("1.mp4", clip), ("1.txt", b"one")),
        *(("2.jpg", JPEG), ("2.mp4", clip), ("2.mp4.json", b"2"), ("2.txt", b"two"), ("2.wav", b"\0")),
        *(("3.left.mp4", clip), ("3.left.txt", b"l"), ("3.right.mp4", clip), ("3.txt", b"both")),
        ("4.mp4", clip),
    ]
    path = write_tar(tmp_path / "s.tar", made)
    if form:
        path = tmp_path / f"s.tar.{form}"
        path.write_bytes(pack((tmp_path / "s.tar").read_bytes(), form))
    findings = Findings()
    frames = read(path, extra_bytes=MOST, findings=findings)
    found = {name: {frame.extra for frame in some} for name, some in members(frames).items()}
    assert {name: [json.loads(text or "null") for text in texts] for name, texts in found.items()} == {
        "1.mp4": [{"json": {"who": "n1"}, "txt": "one"}],
        "2.jpg": [{"mp4.json": 2, "txt": "two", "_left_out": ["wav"]}],
        "2.mp4": [{"mp4.json": 2, "txt": "two", "_left_out": ["wav"]}],
        "3.left.mp4": [{"txt": "l", "txt#2": "both"}],
        "3.right.mp4": [{"txt": "both"}],
        "4.mp4": [None],
    }
    assert [frame.member for frame in frames] == sorted(frame.member for frame in frames)  # the tar's order
    assert len(frames) == 12 * 5 + 1 and not findings.passed_over
    alone = facts(read(clips["a.mp4"]))
    assert all(facts(some) == alone for name, some in members(frames).items() if name != "2.jpg")


def test_shards_of_webdataset(clips, tmp_path):
    clip = clips["a.mp4"].read_bytes()
    with webdataset.ShardWriter(str(tmp_path / "%06d.tar"), maxcount=2, verbose=0) as writer:
        for number in range(3):
            sample = {"__key__": f"v{number}", "mp4": clip, "json": {"id": number}, "txt": f"clip {number}"}
            writer.write(sample)
    for shard, keys in (("000000.tar", [0, 1]), ("000001.tar", [2])):
        found = members(read(tmp_path / shard, extra_bytes=MOST))
        assert list(found) == [f"v{number}.mp4" for number in keys]
        for number, frames in zip(keys, found.values(), strict=True):
            assert numbers(frames) == list(range(12))
            assert {frame.extra for frame in frames} == {
                json.dumps({"json": {"id": number}, "txt": f"clip {number}"})
            }


def test_many_videos_of_one_key_are_a_series(clips, tmp_path):
    clip = clips["a.mp4"].read_bytes()
    made = []
    for number in range(20):
        made += [(f"clip.{number:02}.mp4", clip), (f"clip.{number:02}.json", b"%d" % number)]
    found = members(read(write_tar(tmp_path / "s.tar", made), extra_bytes=MOST, sampling=Video(every=6)))
    assert [{frame.extra for frame in some} for some in found.values()] == [
        {json.dumps({"json": number})} for number in range(20)
    ]


# --- Damage ---


def cut_off(path: Path) -> bytes:
    whole = write_video(path, noise(40), muxer={"movflags": "faststart"}).read_bytes()
    return whole[: len(whole) // 2]


def concealed(path: Path) -> bytes:
    data = bytearray(write_video(path, noise(30), bf="0").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 60] = bytes(byte ^ 0x5A for byte in data[middle : middle + 60])
    return bytes(data)


BAD: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda path: b"",
    "zeros": lambda path: bytes(5000),
    "page": lambda path: b"<html>403 Forbidden</html>" * 50,
    "noise": lambda path: np.random.default_rng(1).bytes(9000),
    "sound": only_sound,
    "cut": cut_off,
    "headless": lambda path: write_numbered(path).read_bytes()[:900],
    "concealed": concealed,
    "joined": lambda path: write_numbered(path, 8).read_bytes() * 2,
}


@pytest.mark.parametrize("form", [None, "zst"])
def test_a_damaged_video_has_the_rows_that_it_has_alone_and_the_rest_is_read(tmp_path, form):
    made, alone = [], {}
    for name, content in BAD.items():
        data = content(tmp_path / f"made_{name}.mp4")
        file = tmp_path / f"{name}.mp4"
        file.write_bytes(data)
        made += [(f"{name}.mp4", data), (f"{name}.txt", b"text")]
        alone[f"{name}.mp4"] = facts(read(file))
    path = write_tar(tmp_path / "s.tar", [*made, ("last.jpg", JPEG)])
    if form:
        path = tmp_path / f"s.tar.{form}"
        path.write_bytes(pack((tmp_path / "s.tar").read_bytes(), form))
    frames = read(path, extra_bytes=MOST)
    found = members(frames)
    assert {name: facts(some) for name, some in found.items() if name != "last.jpg"} == alone
    assert found["last.jpg"][0].image == JPEG
    assert {frame.extra for frame in frames[:-1]} == {'{"txt": "text"}'}
    breaks = {frame.member for frame in frames if frame.frame_index == BREAK}
    assert breaks == {f"{name}.mp4" for name in BAD if name not in ("joined", "concealed")}
    again = read(path, done={frame.id for frame in frames})
    assert all(frame.done for frame in again) and len(again) == len(frames)


@pytest.mark.parametrize("form", [None, *FORMS])
def test_a_tar_that_is_cut_off_inside_a_video_gives_the_frames_before(tmp_path, form):
    # Larger than a block of bzip2.
    clip = write_video(tmp_path / "v.mp4", noise(300), qp="1", muxer={"movflags": "faststart"}).read_bytes()
    path = write_tar(tmp_path / "s.tar", [("1.jpg", JPEG), ("2.mp4", clip), ("2.txt", b"x")])
    data = path.read_bytes()
    if form:
        path = tmp_path / f"s.tar.{form}"
        data = pack(data, form)
    path.write_bytes(data[: len(data) * 3 // 4])
    first, *frames, broken, end = read(path)
    assert first.image == JPEG and 5 < len(frames) < 300
    assert [frame.frame_index for frame in frames] == list(range(len(frames)))
    assert (broken.member, broken.frame_index) == ("2.mp4", BREAK)
    assert (end.member, end.frame_index) == (None, BREAK) and "broken at byte" in end.error


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.FIFOTYPE])
def test_a_link_to_a_video_is_a_row_that_says_so(tmp_path, kind):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        info = tarfile.TarInfo("a.mp4")
        info.type, info.linkname = kind, "b.mp4"
        tar.addfile(info)
    (frame,) = read(tmp_path / "s.tar")
    assert (frame.member, frame.frame_index) == ("a.mp4", BREAK)
    assert "not a video: store the video itself in the tar" in frame.error
    assert read(tmp_path / "s.tar", done={frame.id})[0].done


@in_place
def test_a_sparse_video(clips, tmp_path):
    """GNU tar stores a file with holes without them."""
    clip = clips["a.mp4"].read_bytes()
    hole = 1 << 20
    sparse = tmp_path / "sparse.mp4"
    with open(sparse, "wb") as file:
        file.write(clip)
        file.write((hole + 8).to_bytes(4, "big") + b"free")
        file.truncate(file.tell() + hole)
    made = tmp_path / "s.tar"
    assert os.system(f"cd {tmp_path} && tar --sparse --format=gnu -cf s.tar sparse.mp4") == 0
    assert made.stat().st_size < hole
    assert facts(read(made)) == facts(read(sparse))
    (frame,) = read(made, limits=Limits(source_memory=1 << 21, temporary_bytes=hole))
    assert frame.frame_index == BREAK and "limits.temporary_bytes=1048576" in frame.error


@pytest.mark.parametrize("form", [None, "gz"])
def test_a_storage_failure_inside_a_video_is_not_its_damage(tmp_path, monkeypatch, form):
    monkeypatch.setattr(reading, "READ_AHEAD", 16 << 10)
    clip = write_video(tmp_path / "v.mp4", noise(200), muxer={"movflags": "faststart"}).read_bytes()
    made = [("0.jpg", JPEG), ("1.mp4", clip), ("1.txt", b"x"), ("2.jpg", JPEG)]
    data = write_tar(tmp_path / "s.tar", made).read_bytes()
    data = data if form is None else pack(data, form)

    def refuse(asked: Asked) -> Refusal | None:
        begin = re.search(r"bytes=(\d+)-", str(asked.headers))
        late = begin is not None and len(data) // 2 < int(begin[1]) < len(data) - (20 << 10)
        return Refusal(403, "AccessDenied") if late else None

    findings = Findings()
    with small_s3({"s.tar": data}, refuse) as store:
        first, *frames, end = read(
            f"s3://{BUCKET}/s.tar", store.settings, extra_bytes=MOST, findings=findings
        )
    assert first.image == JPEG and all(frame.member == "1.mp4" and frame.image for frame in frames)
    assert (end.member, end.frame_index, end.refused) == (None, BREAK, True) and "access denied" in end.error
    assert findings.finished == []


# --- Memory and temporary files ---


@in_place
def test_memory_does_not_grow_with_the_size_of_a_video(tmp_path):
    """A window onto the tar for a plain one, a file on disk for a compressed one."""
    clip = write_numbered(tmp_path / "v.mkv", 8).read_bytes()
    peaks: dict[str, list[int]] = {"": [], ".gz": []}
    for size in (1 << 20, 48 << 20):
        padding = b"\xec" + (size | 1 << 56).to_bytes(8, "big") + bytes(size)  # an element to be skipped
        path = write_tar(tmp_path / f"{size}.tar", [("v.mkv", clip + padding), ("w.jpg", JPEG)])
        packed = tmp_path / f"{size}.tar.gz"
        packed.write_bytes(pack(path.read_bytes(), "gz", "-1"))
        for ending, measured in peaks.items():
            shard = shard_of(f"{path}{ending}")
            tracemalloc.start()
            assert len(list(read_shards([shard], S3Settings(), extra_bytes=MOST))) == 9
            measured.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert all(large < small + (4 << 20) for small, large in peaks.values()), peaks


@in_place
def test_what_is_too_large_for_temporary_files_is_one_row(clips, tmp_path):
    clip = clips["a.mp4"].read_bytes()
    made = [
        ("1.mp4", clip),
        ("1.txt", b"x"),
        ("2.mp4", clip + bytes(9)),
        ("3.left.mp4", clip),
        ("3.mp4", clip),
    ]
    path = write_tar(tmp_path / "s.tar", [*made, ("4.jpg", JPEG)])
    packed = tmp_path / "p.tar.gz"
    packed.write_bytes(pack(path.read_bytes(), "gz"))
    limits = Limits(temporary_bytes=len(clip))
    found = members(read(packed, limits=limits, extra_bytes=MOST))
    assert [(name, len(some)) for name, some in found.items()] == [
        *(("1.mp4", 12), ("2.mp4", 1), ("3.left.mp4", 12), ("3.mp4", 1), ("4.jpg", 1))
    ]
    assert "limits.temporary_bytes" in found["2.mp4"][0].error and found["2.mp4"][0].frame_index == BREAK
    assert len(members(read(path, limits=limits))["2.mp4"]) >= 12  # a plain tar needs no copy


@in_place
def test_no_temporary_file_is_left(clips, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    path = tmp_path / "s.tar.gz"
    path.write_bytes(pack(write_tar(tmp_path / "s.tar", as_members(clips)).read_bytes(), "gz"))
    frames = read_shards([shard_of(path)], S3Settings(), extra_bytes=MOST)
    before = len(os.listdir("/proc/self/fd"))
    next(frames)
    assert len(os.listdir("/proc/self/fd")) > before and os.listdir(tmp_path / "temporary") == []
    frames.close()
    assert len(os.listdir("/proc/self/fd")) <= before


@in_place
def test_without_space_for_temporary_files_the_video_is_refused(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null/no-folder")
    path = tmp_path / "s.tar.gz"
    made = [("1.mp4", clips["a.mp4"].read_bytes()), ("2.jpg", JPEG)]
    path.write_bytes(pack(write_tar(tmp_path / "s.tar", made).read_bytes(), "gz"))
    findings = Findings()
    video, image = read(path, findings=findings)
    assert video.refused and "set TMPDIR to another folder" in video.error and image.image == JPEG
    assert findings.finished == []  # so that the next run opens the tar again


@in_place
def test_a_window_reads_no_byte_outside():
    file = io.BytesIO(b"0123456789")
    window = Window(file, 3, 4)
    assert window.read(2) == b"34" and window.read(9) == b"56" and window.read(1) == b""
    assert window.seek(0, io.SEEK_END) == 4 and window.seek(1) == 1
    file.seek(0)
    assert window.read(99) == b"456"
    assert Window(file, 8, 99).seek(0, io.SEEK_END) == 2 and Window(file, 20, 5).read(5) == b""


# --- Resume, parts, reading again ---


@pytest.mark.parametrize("ending", [".tar", ".tar.zst"])
def test_frames_that_are_done_are_not_given_again(clips, tmp_path, ending):
    data = write_tar(tmp_path / "x", as_members(clips)).read_bytes()
    path = tmp_path / f"s{ending}"
    path.write_bytes(pack(data, "zst") if ending == ".tar.zst" else data)
    findings = Findings()
    frames = read(path, sampling=Video(every=2), findings=findings)
    done = {frame.id for frame in frames[: len(frames) // 2 + 1]}
    later = Findings()
    again = read(path, sampling=Video(every=2), done=done, findings=later)
    assert [(f.id, f.timestamp_s) for f in again] == [(f.id, f.timestamp_s) for f in frames]
    assert [frame for frame in again if not frame.done] == [f for f in frames if f.id not in done]
    assert sum(frame.done for frame in again) == len(done)
    assert later.finished == findings.finished and findings.finished[0].frames == len(frames)


@pytest.mark.parametrize("form", ["mp4", "jpg"])
def test_a_video_whose_first_frame_is_done_is_not_done(clips, tmp_path, form):
    path = write_tar(tmp_path / "s.tar", [(f"1.{form}", clips["a.mp4"].read_bytes())])
    frames = read(path)
    again = read(path, done={frames[0].id})
    assert [frame.done for frame in again] == [True, *[False] * 11]


def test_parts_of_a_tar(clips, tmp_path):
    clip = clips["a.mp4"].read_bytes()
    made = []
    for number in range(12):
        made += [(f"{number:02}.json", b"%d" % number), (f"{number:02}.mp4", clip)]
        made += [(f"{number:02}.jpg", JPEG)] if number % 3 == 0 else [(f"{number:02}.txt", b"t")]
        made += [(f"bad{number}.mp4", b"no video")] if number % 5 == 0 else []
    path = write_tar(tmp_path / "s.tar", made)
    how = {"extra_bytes": MOST, "sampling": Video(every=4)}
    findings = Findings()
    whole = list(read_shards([shard_of(path)], S3Settings(), findings=findings, **how))
    for size in (4 << 10, 12 << 10):
        parts = split(shard_of(path), size, extra_bytes=MOST)
        assert len(parts) > 2
        given = []
        for part in parts:
            given += list(read_shards([part], S3Settings(), **how))
        assert given == whole
        assert read_parts(parts, **how)[2] == findings.finished


def count_decoded(monkeypatch) -> list[int]:
    """The number of frames that are decoded, of each video that is opened."""
    decoded: list[int] = []
    real = clip_reader.video.read

    def counted(*args):
        decoded.append(0)
        for frame in real(*args):
            decoded[-1] += 1
            yield frame

    monkeypatch.setattr(clip_reader.video, "read", counted)
    return decoded


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".parquet"])
def test_single_frames_are_read_again_without_decoding_other_videos(clips, tmp_path, monkeypatch, ending):
    path = tmp_path / f"s{ending}"
    made = [("0.jpg", JPEG), *as_members(clips)]
    if ending == ".parquet":
        pq.write_table(pa.table({"key": [n for n, _ in made], "video": [c for _, c in made]}), path)
    else:
        data = write_tar(tmp_path / "x", made).read_bytes()
        path.write_bytes(data if ending == ".tar" else pack(data, "gz"))
    frames = read(path)
    wanted = [f for f in frames if (f.member, f.frame_index) in (("b.mkv", 3), ("g.flv", 5), ("b.mkv", 1))]
    rows = to_table(wanted).select(["frame_id", "source", "member", "frame_index", "timestamp_s"])
    decoded = count_decoded(monkeypatch)
    found = {row: frame for row, frame in frames_of(rows, S3Settings())}
    assert [numbers([frame]) for _, frame in sorted(found.items())] == [[1], [3], [5]]
    assert sorted(decoded) == [4, 6]


def test_frames_that_no_longer_exist_say_why(clips, tmp_path):
    path = write_tar(tmp_path / "s.tar", as_members(clips))
    rows = to_table([f for f in read(path) if f.frame_index == 11])
    broken = [(name, data if name == "a.mp4" else data[: len(data) // 2]) for name, data in as_members(clips)]
    write_tar(path, broken)
    found = {frame.member: frame for _, frame in frames_of(rows, S3Settings())}
    assert found["a.mp4"].image and not found["j.mov"].image
    assert "without its index (moov)" in found["j.mov"].error and "cut off" in found["b.mkv"].error


# --- Parquet ---


@parquet
@pytest.mark.parametrize("column", ["video", "mp4", "image", "data", "anything"])
def test_a_column_of_videos(clips, tmp_path, column):
    made = as_members(clips)
    path = tmp_path / "s.parquet"
    table = pa.table({"key": [name for name, _ in made], column: [data for _, data in made], "n": range(10)})
    pq.write_table(table, path, row_group_size=4)
    frames = read(path, extra_bytes=MOST, sampling=Video(every=3))
    for number, (name, some) in enumerate(members(frames).items()):
        assert facts(some) == facts(read(clips[name], sampling=Video(every=3))), name
        assert {frame.extra for frame in some} == {json.dumps({"n": number})}
    assert len(members(frames)) == 10


@parquet
def test_a_video_column_of_datasets(clips, tmp_path):
    features = datasets.Features({"video": datasets.Video(decode=False), "caption": datasets.Value("string")})
    some = [clips[name] for name in ("a.mp4", "d.avi")]
    rows = {
        "video": [{"bytes": clip.read_bytes(), "path": clip.name} for clip in some],
        "caption": ["a", "b"],
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "s.parquet")
    found = members(read(tmp_path / "s.parquet", extra_bytes=MOST))
    assert list(found) == ["0", "1"]
    for row, clip, caption in zip(found.values(), some, "ab", strict=True):
        assert facts(row) == facts(read(clip))
        assert {frame.extra for frame in row} == {json.dumps({"caption": caption})}


@parquet
def test_a_video_that_a_row_names_by_its_path(clips, tmp_path):
    (tmp_path / "a.mp4").write_bytes(clips["a.mp4"].read_bytes())
    (tmp_path / "b.mp4").write_bytes(JPEG)
    rows = [{"bytes": None, "path": name} for name in ("a.mp4", "b.mp4", "gone.mp4")]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"video": pa.array(rows, kind), "id": ["x", "y", "z"]})
    pq.write_table(table, tmp_path / "s.parquet")
    *frames, image, gone = read(tmp_path / "s.parquet")
    assert facts(frames) == facts(read(clips["a.mp4"])) and {f.member for f in frames} == {"x"}
    assert (image.member, image.frame_index, image.image) == ("y", 0, JPEG)
    assert gone.frame_index == BREAK and gone.refused
    assert "only the path gone.mp4, and there is no such file" in gone.error
    again = read(tmp_path / "s.parquet", done={frames[0].id, image.id})
    assert [frame.done for frame in again] == [True, *[False] * 11, True, False]


@parquet
def test_rows_without_a_readable_video(clips, tmp_path):
    clip = clips["a.mp4"].read_bytes()
    bad = {name: content(tmp_path / f"{name}.mp4") for name, content in BAD.items()}
    values = {**bad, "null": None, "image": JPEG, "last": clip}
    pq.write_table(pa.table({"id": list(values), "mp4": list(values.values())}), tmp_path / "s.parquet")
    found = members(read(tmp_path / "s.parquet"))
    for name, content in bad.items():
        (tmp_path / "alone.mp4").write_bytes(content)
        assert facts(found[name]) == facts(read(tmp_path / "alone.mp4")), name
    assert found["null"][0].error == "the image column is null in this row"
    assert found["image"][0].image == JPEG and len(found["last"]) == 12
    table = pa.table({"id": ["a"], "mp4": [clip + bytes(1 << 20)]})
    pq.write_table(table, tmp_path / "s.parquet", compression="none", use_dictionary=False)
    (frame,) = read(tmp_path / "s.parquet", limits=Limits(source_memory=1 << 20))
    assert frame.frame_index == BREAK and "are more than limits.source_memory=" in frame.error


@parquet
@pytest.mark.parametrize("image", ["image", "thumb"])
def test_a_column_of_images_is_read_before_one_of_videos(clips, tmp_path, image):
    clip = clips["a.mp4"].read_bytes()
    pq.write_table(pa.table({"video": [clip] * 2, image: [JPEG] * 2}), tmp_path / "s.parquet")
    assert [frame.image for frame in read(tmp_path / "s.parquet")] == [JPEG] * 2


@parquet
def test_videos_are_read_before_binary_columns_that_hold_neither(clips, tmp_path):
    clip = clips["a.mp4"].read_bytes()
    pq.write_table(pa.table({"data": [b"1"] * 2, "video": [clip] * 2}), tmp_path / "s.parquet")
    assert len(read(tmp_path / "s.parquet")) == 24


@parquet
@pytest.mark.parametrize("column", ["video", "takes"])
def test_each_video_of_a_list_is_a_member(clips, tmp_path, column):
    names = ["a.mp4", "b.mkv", "e.ts"]
    videos = [clips[name].read_bytes() for name in names]
    rows = [videos, videos[:1], [None, b"no video", JPEG], []]
    table = pa.table({"key": list("wxyz"), column: pa.array(rows, pa.list_(pa.binary())), "n": range(4)})
    path = tmp_path / "s.parquet"
    pq.write_table(table, path)
    frames = read(path, extra_bytes=MOST, sampling=Video(every=3))
    found = members(frames)
    assert list(found) == ["w#0", "w#1", "w#2", "x", "y#1", "y#2", "z"]
    for number, name in enumerate(names):
        assert facts(found[f"w#{number}"]) == facts(read(clips[name], sampling=Video(every=3))), name
        assert {frame.extra for frame in found[f"w#{number}"]} == {json.dumps({"n": 0})}
    assert facts(found["x"]) == facts(found["w#0"]) and found["y#2"][0].image == JPEG
    assert found["z"][0].error == "the image column is null in this row"
    # Only the name says that these bytes should be a video.
    assert found["y#1"][0].frame_index == (BREAK if column == "video" else 0)
    again = read(path, extra_bytes=MOST, sampling=Video(every=3), done={frames[1].id})
    assert [frame.id for frame in again] == [frame.id for frame in frames]
    assert [frame.done for frame in again] == [index == 1 for index in range(len(frames))]
    rows = to_table([f for f in found["w#1"] if f.frame_index == 6])
    assert [frame.member for _, frame in frames_of(rows, S3Settings()) if frame.image] == ["w#1"]


@parquet
def test_videos_in_structs_and_what_comes_with_them(clips, tmp_path):
    clip = clips["a.mp4"].read_bytes()
    samples = [{"mp4": clip, "caption": f"c{number}"} for number in range(3)]
    pq.write_table(pa.table({"sample": samples}), tmp_path / "s.parquet")
    frames = read(tmp_path / "s.parquet", extra_bytes=MOST)
    for number, (name, some) in enumerate(members(frames).items()):
        assert name == str(number) and facts(some) == facts(read(clips["a.mp4"]))
        assert {frame.extra for frame in some} == {json.dumps({"sample": {"caption": f"c{number}"}})}
    images = [{"thumb": JPEG, **sample} for sample in samples]
    pq.write_table(pa.table({"sample": images}), tmp_path / "s.parquet")
    assert [frame.image for frame in read(tmp_path / "s.parquet")] == [JPEG] * 3


@parquet
def test_lists_of_videos_in_several_columns_are_an_error_unless_a_name_decides(clips, tmp_path):
    videos = [[clips["a.mp4"].read_bytes()] * 2] * 2
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"left": videos, "right": videos}), path)
    (frame,) = read(path)
    assert frame.frame_index == BREAK and "several columns contain videos (left, right)" in frame.error
    pq.write_table(pa.table({"left": videos, "clip": videos}), path)
    assert len(read(path)) == 12 * 4


@parquet
def test_a_video_column_beside_its_height_and_width_holds_no_pixels(clips, tmp_path):
    rows = {"a": clips["a.mp4"].read_bytes(), "b": bytes(4 * 4 * 3)}
    table = {"key": list(rows), "video": list(rows.values()), "height": [4, 4], "width": [4, 4]}
    pq.write_table(pa.table(table), tmp_path / "s.parquet")
    found = members(read(tmp_path / "s.parquet"))
    assert facts(found["a"]) == facts(read(clips["a.mp4"]))
    assert [frame.frame_index for frame in found["b"]] == [BREAK]


@parquet
def test_few_large_rows_are_in_memory(tmp_path):
    """Eight of these rows would take 160 MiB."""
    clip = write_video(tmp_path / "v.mkv", [numbered(1)]).read_bytes()
    size = 20 << 20
    value = clip + b"\xec" + (size | 1 << 56).to_bytes(8, "big") + bytes(size)
    table = pa.table({"video": pa.array([value] * 8, pa.large_binary())})
    path = tmp_path / "s.parquet"
    pq.write_table(
        table, path, use_dictionary=False, compression="none", write_batch_size=1, data_page_size=1
    )
    del table
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() for _ in read_shards([shard_of(path)], S3Settings())) - before
    assert most < 5 * size


@parquet
def test_the_schema_of_rows_is_that_of_files(clips, tmp_path):
    path = write_tar(tmp_path / "s.tar", as_members(clips))
    assert to_table(read(path)).schema == READ_SCHEMA


def test_the_start_of_a_member_stays_the_same(tmp_path):
    """It is wanted twice for a member whose content is of another kind than its name says."""
    content = bytes(range(256)) * 8
    with write_tar(tmp_path / "t.tar", [("a.mp4", content)]).open("rb") as stream:
        archive = Archive(stream, reading.Reading(S3Settings()))
        member = archive.next_member()
        assert member.start(archive, 512) == member.start(archive, 512) == content[:512]
        assert member.read(archive) == content
