"""Video formats besides MP4, Matroska and AVI; truncated and joined files; errors for files that are not
videos."""

import gzip
import struct
import uuid
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from videos import noise, numbered, numbers, packets, pixels_of, read, write_numbered, write_video

from faceq.sources.listing import list_shards
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK

FORMATS = [
    ("v.m4v", {"form": "mp4", "bf": "3"}),
    ("v.3gp", {"bf": "3"}),
    ("v.3g2", {"codec": "mpeg4"}),
    ("v.ts", {"bf": "3"}),
    ("v.mts", {"bf": "3", "form": "mpegts", "muxer": {"mpegts_m2ts_mode": "1"}}),
    ("v.m2ts", {"codec": "mpeg2video", "bf": "2"}),
    ("v.mpg", {"codec": "mpeg1video", "bf": "2"}),
    ("v.mpeg", {"codec": "mpeg2video", "bf": "2"}),
    ("v.vob", {"codec": "mpeg2video", "bf": "2"}),
    ("v.flv", {"bf": "3"}),
    ("old.flv", {"codec": "flv"}),
    ("v.wmv", {"codec": "wmv2", "form": "asf"}),
    ("v.asf", {"codec": "wmv1"}),
    ("v.ogv", {"codec": "libvpx"}),
]


@pytest.mark.parametrize(("name", "options"), FORMATS)
def test_every_frame_of_each_format_comes_once_in_the_order_shown(tmp_path, name, options):
    path = write_numbered(tmp_path / name, **options)
    assert [shard.kind for shard in list_shards([str(tmp_path)], S3Settings())] == ["video"]
    frames = read(path)
    assert [frame.frame_index for frame in frames] == list(range(50))
    assert numbers(frames) == list(range(50))
    seconds = [index / 25 for index in range(50)]
    assert [frame.timestamp_s for frame in frames] == pytest.approx(seconds, abs=0.001)


@pytest.mark.parametrize(("name", "options"), [FORMATS[3], FORMATS[7], FORMATS[9], FORMATS[11], FORMATS[13]])
def test_the_bytes_of_a_file_decide_what_it_is(tmp_path, name, options):
    data = write_numbered(tmp_path / name, **options).read_bytes()
    path = tmp_path / "renamed.mp4"
    path.write_bytes(data)
    assert numbers(read(path)) == list(range(50))


# --- truncated files ---


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("v.ts", {"bf": "0"}, "its last packet is incomplete"),
        ("v.m2ts", {"bf": "0"}, "its last packet is incomplete"),
        ("v.flv", {"bf": "0"}, "its header states a duration of 1.6"),
        ("v.wmv", {"codec": "wmv2", "form": "asf"}, "its header states a size of "),
        ("v.ogv", {"codec": "libvpx"}, "its last page is missing"),
    ],
)
def test_a_truncated_file_gives_its_complete_frames_and_one_break(tmp_path, name, options, message):
    whole = write_video(tmp_path / f"whole-{name}", noise(40), **options)
    intact = [frame.image for frame in read(whole)]
    data = whole.read_bytes()
    short = tmp_path / name
    short.write_bytes(data[: len(data) * 6 // 10 // 192 * 192 + 1])
    *frames, end = read(short)
    assert 15 <= len(frames) <= 26
    assert [frame.image for frame in frames[:15]] == intact[:15]
    assert (end.frame_index, end.image) == (BREAK, None)
    assert "cut off at " in end.error and message in end.error and "copy the file again" in end.error


# --- joined files ---


def test_joined_files_of_different_sizes_and_codecs_are_read_completely(tmp_path):
    first = write_numbered(tmp_path / "a.mkv", 20, codec="mpeg2video")
    large = [numbered(20 + index).repeat(2, 0).repeat(2, 1) for index in range(20)]
    second = write_video(tmp_path / "b.mkv", large, codec="mpeg4")
    path = tmp_path / "v.mkv"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    frames = read(path)
    assert [frame.frame_index for frame in frames] == list(range(40))
    assert [frame.timestamp_s for frame in frames] == pytest.approx([i / 25 for i in range(40)], abs=0.001)
    assert [pixels_of(frame).shape[0] for frame in frames] == [32] * 20 + [64] * 20


def test_damage_in_a_joined_file_is_reported_with_its_position(tmp_path):
    first = write_numbered(tmp_path / "a.mp4", 20).read_bytes()
    second = write_video(tmp_path / "b.mp4", noise(40), muxer={"movflags": "faststart"}).read_bytes()
    path = tmp_path / "v.mp4"
    path.write_bytes(first + second[: len(second) // 2])
    *frames, end = read(path)
    assert [frame.frame_index for frame in frames] == list(range(len(frames))) and len(frames) > 30
    assert end.error.startswith(f"in the file that is appended at byte {len(first)}: cut off at 1.")


@pytest.mark.parametrize("pmt", ["4096", "4352"])
def test_a_transport_stream_that_continues_with_other_stream_ids_is_reported(tmp_path, pmt):
    first = write_numbered(tmp_path / "a.ts")
    muxer = {"mpegts_start_pid": "512", "mpegts_pmt_start_pid": pmt}
    path = tmp_path / "v.ts"
    path.write_bytes(first.read_bytes() + write_numbered(tmp_path / "b.ts", muxer=muxer).read_bytes())
    *frames, end = read(path)
    assert numbers(frames) == list(range(50))
    assert end.error == (
        "a recording with other stream numbers was appended at byte "
        f"{first.stat().st_size + 3 * 188} and is not read: save it as a separate file"
    )


# --- files that are not videos or cannot be decoded ---


def sound(path: Path, codec: str, form: str, cover: bool) -> bytes:
    """Silence with a cover image."""
    with av.open(str(path), "w", form) as container:
        stream = container.add_stream(codec, 44100)
        if cover:
            picture = container.add_stream("mjpeg", 1)
            picture.width, picture.height, picture.pix_fmt = 64, 64, "yuvj420p"
            picture.disposition = Disposition.attached_pic
            coded = [*picture.encode(av.VideoFrame(64, 64, "yuvj420p")), *picture.encode()]
            container.start_encoding()
            container.mux(coded)
        silence = av.AudioFrame({"flac": "s16"}.get(codec, "fltp"), "mono", 1024)
        silence.sample_rate, silence.pts = 44100, 0
        for plane in silence.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux([*stream.encode(silence), *stream.encode()])
    return path.read_bytes()


def with_codec(path: Path, name: bytes) -> bytes:
    data = write_numbered(path).read_bytes()
    start = data.index(b"avc1", data.index(b"stsd"))
    return data[:start] + name + data[start + 4 :]


def mkv_with_codec(path: Path) -> bytes:
    return (
        write_numbered(path.with_suffix(".mkv")).read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/XYZ")
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda path: gzip.compress(bytes(9)), "not a video but a compressed file"),
        (lambda path: b'{"error": "NoSuchKey"}', "not a video but JSON"),
        (lambda path: sound(path, "libmp3lame", "mp3", True), "not a video but an audio file (MP3)"),
        (lambda path: sound(path, "flac", "flac", True), "not a video but an audio file (FLAC)"),
        (lambda path: sound(path, "aac", "mp4", True), "an audio file: its only image is the cover art"),
        (lambda path: sound(path, "aac", "mpegts", False), "it has no video stream, only: audio"),
        (lambda path: sound(path, "aac", "matroska", False), "it has no video stream, only: audio"),
        (lambda path: write_numbered(path.with_suffix(".mkv")).read_bytes()[:99], "a Matroska or WebM file"),
        (
            lambda path: write_numbered(path, form="h264").read_bytes(),
            "a bare video stream",
        ),
        (lambda path: with_codec(path, b"dvx9"), "no decoder for its video codec (dvx9)"),
        (mkv_with_codec, "no decoder for its video codec (V_MPEG9/ISO/XYZ)"),
        # FFmpeg would open the file that it names.
        (lambda path: b"ffconcat version 1.0\nfile '/etc/hosts'\n", "not a video but a playlist"),
    ],
)
def test_the_error_for_another_file_says_what_it_is(tmp_path, content: Callable[[Path], bytes], reason: str):
    (tmp_path / "v.mp4").write_bytes(content(tmp_path / "made.mp4"))
    (frame,) = read(tmp_path / "v.mp4")
    assert (frame.frame_index, frame.image) == (BREAK, None)
    assert frame.error.startswith(reason)
    assert "b'" not in frame.error and "\\x" not in frame.error and "\n" not in frame.error


def test_noise_is_never_mistaken_for_a_video(tmp_path):
    """The demuxers of MPEG streams accept almost anything."""
    random = np.random.default_rng(0)
    for index in range(40):
        data = bytearray(random.bytes(50_000))
        if index % 4 == 1:
            data[::188] = b"\x47" * len(data[::188])
        elif index % 4 == 2:
            data[:4] = b"\0\0\1\xba"
        elif index % 4 == 3:
            data = bytearray(random.integers(32, 127, 50_000).astype(np.uint8))
        (tmp_path / "v.ts").write_bytes(data)
        (frame,) = read(tmp_path / "v.ts")
        assert frame.frame_index == BREAK


def encrypted_mp4(path: Path) -> Path:
    key = {"encryption_key": "76a6c65c5ea762046bd749a2e632ccbb", "encryption_kid": "a7" * 16}
    return write_numbered(path, muxer={"encryption_scheme": "cenc-aes-ctr", **key})


def encrypted_wmv(path: Path) -> Path:
    data = write_numbered(path, codec="wmv2", form="asf").read_bytes()
    mark = uuid.UUID("2211b3fb-bd23-11d2-b4b7-00a0c955fc6e").bytes_le + struct.pack("<Q", 40) + bytes(16)
    size, objects = struct.unpack("<QI", data[16:28])
    header = data[:16] + struct.pack("<QI", size + 40, objects + 1) + data[28:size]
    path.write_bytes(header + mark + data[size:])
    return path


def encrypted_webm(path: Path) -> Path:
    data = write_numbered(path, codec="libvpx").read_bytes()
    mark = bytes.fromhex("6d8086 624083 503580")  # ContentEncodings, ContentEncoding, ContentEncryption
    lacing, duration = bytes.fromhex("9c8100"), bytes.fromhex("23e3838402625a00")
    assert lacing in data and duration in data
    path.write_bytes(data.replace(lacing, b"", 1).replace(duration, mark + b"\xec\x80", 1))
    return path


def scrambled_ts(path: Path) -> Path:
    data = bytearray(write_video(path, noise(20)).read_bytes())
    random = np.random.default_rng(0)
    for start in range(0, len(data), 188):
        if (data[start + 1] & 31) << 8 | data[start + 2] == 256:
            data[start + 3] |= 0x80
            first = start + 4 + (data[start + 4] + 1 if data[start + 3] & 0x20 else 0)
            data[first : start + 188] = random.bytes(start + 188 - first)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("v.mp4", encrypted_mp4, "encrypted: 50 of 50 coded frames cannot be decoded: "),
        ("v.wmv", encrypted_wmv, "the video is encrypted: "),
        ("v.webm", encrypted_webm, "the video is encrypted: "),
        ("v.ts", scrambled_ts, "the video is encrypted: "),
    ],
)
def test_encrypted_videos_are_reported(tmp_path, name, make, message):
    (frame,) = read(make(tmp_path / name))
    assert frame.error == f"{message}use a copy without copy protection"


def test_coded_frames_that_give_no_image_are_reported(tmp_path):
    """The decoder accepts them without an error."""
    path = write_video(tmp_path / "v.mkv", noise(60), codec="mpeg2video", g="60")
    data = bytearray(path.read_bytes())
    for packet in packets(path)[20:]:
        place = data.index(bytes(packet), packet.pos)
        data[place : place + packet.size] = b"\1" * packet.size
    path.write_bytes(data)
    *frames, end = read(path)
    assert len(frames) in (19, 20)
    assert end.error.startswith("damaged: 40 of 60 coded frames ")
