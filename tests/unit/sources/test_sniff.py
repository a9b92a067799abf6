"""The bytes of a file decide what it is, not its name."""

import io
import tarfile
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from compressors import FORMS, pack
from PIL import Image
from small_s3 import BUCKET, small_s3
from videos import as_file, write_numbered

from faceq.config import Limits
from faceq.job.resume import with_known_videos
from faceq.sources import Findings, read_again, read_shards
from faceq.sources.frame import Frame
from faceq.sources.listing import Shard, list_shards
from faceq.sources.reread import frames_of
from faceq.sources.sniff import ENOUGH, kind_of_bytes
from faceq.storage.settings import S3Settings
from faceq.table.runs import Run
from faceq.table.schema import SCHEMA
from faceq.table.store import Table


def picture(form: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).convert(mode).save(out, form)
    return out.getvalue()


def tar(name: str = "a.jpg", layout: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=layout) as archive:
        info = tarfile.TarInfo(name)
        info.size = 700
        archive.addfile(info, io.BytesIO(bytes(700)))
    return out.getvalue()


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"key": ["k"], "image": [b"abc"]}), out)
    return out.getvalue()


def video(form: str, codec: str) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for shade in range(0, 250, 10):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        *((form, "RGB") for form in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")),
        *(("PPM", "L"), ("PPM", "1"), ("BMP", "P"), ("TIFF", "L")),
    ],
)
def test_pictures_are_known_by_their_bytes(form, mode):
    assert kind_of_bytes(picture(form, mode)[:ENOUGH]) == "picture"


@pytest.mark.parametrize(
    ("form", "codec"),
    [
        *(("mp4", "mpeg4"), ("mov", "mpeg4"), ("matroska", "mpeg4"), ("webm", "libvpx"), ("avi", "mpeg4")),
        *(("flv", "flv"), ("asf", "wmv2"), ("ogg", "libvpx"), ("mpeg", "mpeg1video")),
        *(("mpegts", "mpeg2video"), ("mpeg2video", "mpeg2video"), ("3gp", "mpeg4")),
    ],
)
def test_videos_are_known_by_their_bytes(form, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    made = video(form, codec)
    assert kind_of_bytes(made[:ENOUGH]) == "video"
    if form == "mpegts":  # the variant of cameras, with a time before each packet
        timed = b"".join(b"\0\0\0\1" + made[i : i + 188] for i in range(0, len(made), 188))
        assert kind_of_bytes(timed[:ENOUGH]) == "video"


@pytest.mark.parametrize(
    "name", ["a.jpg", "BM_0001.jpg", "GIF89a.gif", "P6 1.ppm", "\xff\xd8\xff.jpg", "OggS"]
)
@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("form", [None, *FORMS])
def test_tars_are_recognised_whatever_the_name_of_their_first_member(name, layout, form):
    data = tar(name, layout)
    assert kind_of_bytes(pack(data, form) if form else data[:ENOUGH]) == "tar"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"B",
        b"BM",
        b"hello, world" * 50,
        bytes(600),
        *(pack(bytes(9000), form) for form in FORMS),
        b"\x1f\x8b",
        b"P7\n",
    ],
)
def test_other_bytes_are_not_recognised(data):
    assert kind_of_bytes(data[:ENOUGH]) is None


# --- reading ---


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> dict[str, bytes]:
    """A source of each kind, by its usual ending."""
    made = write_numbered(tmp_path_factory.mktemp("v") / "v.mp4").read_bytes()
    return {"jpg": picture("JPEG"), "tar": tar(), "tgz": pack(tar(), "gz"), "parquet": parquet(), "mp4": made}


def facts(frames: list[Frame]) -> list[tuple]:
    return [(f.member, f.frame_index, f.timestamp_s, f.image, f.error) for f in frames]


@pytest.mark.parametrize("named", ["jpg", "tar", "tgz", "parquet", "mp4"])
@pytest.mark.parametrize("real", ["jpg", "tar", "tgz", "parquet", "mp4"])
@pytest.mark.parametrize("where", ["disk", "s3"])
def test_a_source_gives_the_same_frames_under_every_name(kinds, tmp_path, real, named, where):
    content = kinds[real]
    (tmp_path / f"right.{real}").write_bytes(content)
    expected = facts(
        list(read_shards(list_shards([str(tmp_path / f"right.{real}")], S3Settings()), S3Settings()))
    )
    assert expected and all(error is None for *_, error in expected)
    findings = Findings()
    if where == "disk":
        (tmp_path / f"s.{named}").write_bytes(content)
        shards = list_shards([str(tmp_path / f"s.{named}")], S3Settings())
        found = list(read_shards(shards, S3Settings(), findings=findings))
    else:
        with small_s3({f"s.{named}": content}) as store:
            shards = list_shards([f"s3://{BUCKET}/s.{named}"], store.settings)
            found = list(read_shards(shards, store.settings, findings=findings))
    assert facts(found) == expected
    assert {frame.source for frame in found} == {shards[0].source}
    assert len(findings.notes) == (
        shards[0].kind != list_shards([str(tmp_path / f"right.{real}")], S3Settings())[0].kind
    )


@pytest.mark.parametrize("named", ["jpg", "tar", "parquet", "mp4"])
def test_the_name_decides_if_the_bytes_do_not(tmp_path, named):
    (tmp_path / f"s.{named}").write_bytes(b"neither this nor that" * 100)
    (frame,) = read_shards(list_shards([str(tmp_path)], S3Settings()), S3Settings())
    if named == "jpg":
        assert frame.image and frame.error is None  # decoding reports the error
    else:
        assert frame.frame_index == -1


def test_with_any_name_bytes_decide_and_what_holds_no_frames_is_counted(kinds, tmp_path):
    for ending, content in kinds.items():
        (tmp_path / f"{ending}-without-ending").write_bytes(content)
    for name in ("notes.txt", "more.TXT", "_SUCCESS", "x.bin"):
        (tmp_path / name).write_bytes(b"" if name == "_SUCCESS" else b"text" * 100)
    (tmp_path / "really.jpg").write_bytes(b"no picture")
    findings = Findings()
    frames = list(
        read_shards(
            list_shards([str(tmp_path)], S3Settings(), any_name=True), S3Settings(), findings=findings
        )
    )
    counts = Counter(frame.source.rpartition("/")[2].partition("-")[0] for frame in frames)
    assert counts == {"jpg": 1, "tar": 1, "tgz": 1, "parquet": 1, "mp4": 50, "really.jpg": 1}
    assert findings.passed_over == {".txt": 2, "(no extension)": 1, ".bin": 1}
    assert findings.notes == []  # no name contradicts the content


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size_is_known", [True, False])
def test_a_long_video_without_an_ending_is_not_taken_into_memory(kinds, known, size_is_known):
    """It is requested in parts. Only the first part is read before it is known to be a video."""
    content = kinds["mp4"] + b"\0\0\0\0free" + bytes(40 << 20)
    with small_s3({"v": content}) as store:
        size = len(content) if size_is_known else None
        shard = Shard(f"s3://{BUCKET}/v", f"{BUCKET}/v", "picture", size, seen=False, known=known)
        limits = Limits(frame_bytes=30 << 20)
        frames = list(read_shards([shard], store.settings, limits=limits))
    assert len([frame for frame in frames if frame.error is None]) == 50
    first, *rest = [asked for asked in store.reads() if asked.method == "GET"]
    assert first.headers["range"] == f"bytes=0-{(8 << 20) - 1}" and len(rest) < 4


@pytest.mark.parametrize("size_is_known", [True, False])
def test_an_image_of_unknown_size_is_read_completely(size_is_known):
    content = picture("PNG") + bytes(9 << 20)
    with small_s3({"p": content, "q": content + bytes(9 << 20)}) as store:
        shards = [
            Shard(
                f"s3://{BUCKET}/{n}",
                f"{BUCKET}/{n}",
                "picture",
                len(c) if size_is_known else None,
                seen=False,
            )
            for n, c in store.objects.items()
        ]
        whole, long = read_shards(shards, store.settings, limits=Limits(frame_bytes=10 << 20))
    assert whole.image == content
    assert long.image is None and "limits.frame_bytes=10485760" in long.error


# --- a video that is named like an image, and its table ---


def rows_of(frames: list[Frame]) -> pa.Table:
    columns = ["frame_id", "source", "member", "frame_index", "timestamp_s"]
    rows = [{**{name: getattr(f, name, None) for name in columns}, "frame_id": f.id} for f in frames]
    return pa.Table.from_pylist(rows, pa.schema([SCHEMA.field(name) for name in columns]))


@pytest.fixture
def misnamed(kinds, tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "clip.jpg").write_bytes(kinds["mp4"])
    (tmp_path / "in" / "face.jpg").write_bytes(kinds["jpg"])
    return tmp_path / "in"


def test_its_frames_are_found_again(misnamed):
    frames = list(read_shards(list_shards([str(misnamed)], S3Settings()), S3Settings()))
    assert len(frames) == 51
    for chosen in (frames, frames[3:5], frames[:1], frames[50:]):
        again = {frame.id: frame.image for _, frame in frames_of(rows_of(chosen), S3Settings())}
        assert again == {frame.id: as_file(frame.image) for frame in chosen}
    (one,) = read_again({frames[7].source: {None: 7}}, {frames[7].id}, S3Settings())
    assert one.image == frames[7].image


@pytest.mark.parametrize("finished", ["2025-01-01T00:00:00+00:00", None])
@pytest.mark.parametrize("limit", [None, 1])
def test_a_row_for_its_first_frame_does_not_make_a_video_done(misnamed, tmp_path, finished, limit):
    """This happens after a killed run, or a run with --limit."""
    shards = list_shards([str(misnamed)], S3Settings())
    frames = list(read_shards(shards, S3Settings()))
    table = Table(str(tmp_path / "table"), S3Settings())
    run = Run("r", "0", [], {}, {"limit": limit}, "now", finished, state="ended")
    table.save(run)
    first = rows_of([frames[0], frames[50]])
    (tmp_path / "table" / "status=no_face").mkdir()
    pq.write_table(first, tmp_path / "table" / "status=no_face" / "r-0.parquet")
    done = set(first["frame_id"].to_pylist())
    left = [f for f in read_shards(with_known_videos(table, shards), S3Settings(), done) if not f.done]
    assert len(left) == (0 if finished and limit is None else 49)
