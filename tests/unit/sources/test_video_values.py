"""Pixels and times of video frames in difficult cases: non-square pixels, interlaced frames, clocks that
restart, several streams."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from videos import noise, number_in, numbered, numbers, packets, pixels_of, read, write_numbered, write_video

from faceq.sources import Findings, read_shards, video
from faceq.sources.listing import list_shards
from faceq.sources.video import picture
from faceq.sources.video.clock import Clock
from faceq.storage.settings import S3Settings


def decoded(path: Path) -> list[video.VideoFrame]:
    with open(path, "rb") as file:
        return list(video.read(file))


# --- non-square pixels ---


def squeezed(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v.mp4", {}),
        ("v.mov", {"codec": "mpeg4", "b": "20M"}),
        ("v.mkv", {}),
        ("v.ts", {}),
        ("v.flv", {}),
        ("v.avi", {"codec": "mpeg4", "b": "20M"}),
        ("v.mpg", {"codec": "mpeg2video", "b": "20M"}),
        ("v.wmv", {"codec": "wmv2", "b": "20M", "form": "asf"}),
        ("v.ogv", {"codec": "libvpx", "b": "20M"}),
    ],
)
def test_frames_come_at_the_size_at_which_players_show_them(tmp_path, astronaut, name, options):
    shown = squeezed(astronaut, 512, 288)
    context = {"sample_aspect_ratio": Fraction(64, 45)}
    options = {"codec": "libx264", "crf": "5"} | options if "codec" not in options else options
    path = write_video(tmp_path / name, [squeezed(shown, 360, 288)] * 2, context=context, **options)
    frames = read(path)
    assert len(frames) == 2
    assert pixels_of(frames[0]).shape == (288, 512, 3)
    assert np.abs(pixels_of(frames[0]).astype(int) - shown).mean() < 6


def test_tall_pixels_stretch_the_height(tmp_path, astronaut):
    context = {"sample_aspect_ratio": Fraction(1, 2)}
    path = write_video(tmp_path / "v.mp4", [squeezed(astronaut, 256, 128)], context=context, crf="5")
    assert pixels_of(read(path)[0]).shape == (256, 256, 3)


@pytest.mark.parametrize(("angle", "turned"), [(90, np.rot90), (270, lambda image: np.rot90(image, 3))])
def test_a_turned_video_is_stretched_before_it_is_turned(tmp_path, astronaut, angle, turned):
    shown = squeezed(astronaut, 512, 288)
    context = {"sample_aspect_ratio": Fraction(64, 45)}
    path = write_video(
        tmp_path / "v.mp4", [squeezed(shown, 360, 288)], rotation=(angle,), context=context, crf="5"
    )
    (frame,) = read(path)
    assert pixels_of(frame).shape == (512, 288, 3)
    assert np.abs(pixels_of(frame).astype(int) - turned(shown)).mean() < 6


def test_a_matroska_files_display_size_counts(tmp_path):
    path = write_video(tmp_path / "v.webm", [np.full((64, 96, 3), 99, np.uint8)], codec="libvpx")
    duration, size = bytes.fromhex("23e3838402625a00"), bytes.fromhex("b08160ba8140")
    assert duration + b"\xe0\x86" + size in path.read_bytes()
    # DisplayWidth and DisplayHeight replace the bytes of the default duration of a frame.
    longer = b"\xe0\x8e" + size + bytes.fromhex("54b0818054ba8140")
    path.write_bytes(path.read_bytes().replace(duration + b"\xe0\x86" + size, longer))
    (frame,) = read(path)
    assert pixels_of(frame).shape == (64, 128, 3)
    assert np.abs(pixels_of(frame).astype(int) - 99).max() <= 2


def test_each_frame_has_its_own_pixel_shape(tmp_path):
    wide = write_numbered(tmp_path / "a.ts", 8, bf="2", context={"sample_aspect_ratio": Fraction(16, 11)})
    square = write_numbered(tmp_path / "b.ts", 8, bf="2", context={"sample_aspect_ratio": Fraction(1)})
    path = tmp_path / "v.ts"
    path.write_bytes(wide.read_bytes() + square.read_bytes() + wide.read_bytes())
    shapes = [pixels_of(frame).shape for frame in read(path)]
    assert shapes == [(32, 93, 3)] * 8 + [(32, 64, 3)] * 8 + [(32, 93, 3)] * 8


def with_pixel_shape(path: Path, wide: int, high: int) -> Path:
    """The MP4 with a pixel shape other than 4:3."""
    data = write_numbered(path, 3, context={"sample_aspect_ratio": Fraction(4, 3)}).read_bytes()
    place = data.index(b"pasp") + 4
    path.write_bytes(data[:place] + wide.to_bytes(4, "big") + high.to_bytes(4, "big") + data[place + 8 :])
    return path


def test_the_pixel_shape_of_an_mp4_overrides_that_of_the_codec(tmp_path):
    assert pixels_of(read(with_pixel_shape(tmp_path / "v.mp4", 2, 1))[0]).shape == (32, 128, 3)


@pytest.mark.parametrize(("wide", "high"), [(1000, 1), (9, 1), (1, 9)])
def test_absurd_pixel_shapes_are_ignored(tmp_path, wide, high):
    assert pixels_of(read(with_pixel_shape(tmp_path / "v.mp4", wide, high))[0]).shape == (32, 64, 3)


@pytest.mark.parametrize(("wide", "high"), [(0, 1), (1, 0)])
def test_the_codecs_pixel_shape_counts_if_the_container_has_none(tmp_path, wide, high):
    assert pixels_of(read(with_pixel_shape(tmp_path / "v.mp4", wide, high))[0]).shape == (32, 85, 3)


def test_frames_that_are_too_large_once_stretched_are_unreadable_rows(tmp_path, monkeypatch):
    path = write_numbered(tmp_path / "v.mp4", 2, context={"sample_aspect_ratio": Fraction(2)})
    monkeypatch.setattr(picture, "MAX_PIXELS", 3000)
    errors = [(frame.frame_index, frame.error) for frame in read(path)]
    assert errors == [
        (i, "128x32 pixels are more than the maximum of 3000: scale the video down") for i in range(2)
    ]


def test_stretching_leaves_colours_as_they_are(tmp_path):
    colour = np.zeros((64, 96, 3), np.uint8) + np.array([200, 60, 90], np.uint8)
    plain = write_video(tmp_path / "a.mp4", [colour], crf="1")
    context = {"sample_aspect_ratio": Fraction(64, 45)}
    wide = write_video(tmp_path / "b.mp4", [colour], crf="1", context=context)
    one, other = (pixels_of(read(path)[0]).reshape(-1, 3).mean(0) for path in (plain, wide))
    assert np.abs(one - other).max() < 2.5


# --- interlaced frames ---

INTERLACED = 1 << 29 | 1 << 18  # FFmpeg's encoder flags for interlaced motion estimation and DCT
WIDTH, HEIGHT = 160, 96


def moment(time: int) -> np.ndarray:
    """Bars of many widths in two bands, moving to the right, at the time of a field."""
    bars = np.random.default_rng(1).integers(0, 2, (2, 60)).repeat(8, 1) * 160 + 40
    bands = bars[:, 240 - 6 * time : 240 - 6 * time + WIDTH].repeat(HEIGHT // 2, 0)
    return bands.astype(np.uint8)[..., None].repeat(3, 2)


def woven(index: int) -> np.ndarray:
    """An interlaced frame, top field first: every second line is half a frame later."""
    frame = moment(2 * index)
    frame[1::2] = moment(2 * index + 1)[1::2]
    return frame


def combing(pixels: np.ndarray) -> float:
    """Mean difference between a line and its neighbours."""
    green = pixels[..., 1].astype(int)
    return float(np.abs(2 * green[1:-1] - green[:-2] - green[2:]).mean())


INTERLACING = [
    ("v.mp4", {"x264-params": "interlaced=1:tff=1", "bf": "2", "crf": "10"}),
    ("v.ts", {"x264-params": "interlaced=1:tff=1", "bf": "2", "crf": "10"}),
    ("v.mpg", {"codec": "mpeg2video", "b": "9M", "bf": "2", "context": {"flags": INTERLACED}}),
    # The frames of this codec have no interlacing flag. The header of the file has it.
    ("v.mov", {"codec": "png", "pixels": "rgb24", "context": {"field_order": 2}}),
]


@pytest.mark.parametrize(("name", "options"), INTERLACING)
def test_interlaced_frames_are_deinterlaced_without_other_changes(tmp_path, name, options):
    path = write_video(tmp_path / name, [woven(index) for index in range(12)], **options)
    frames = read(path)
    assert [frame.frame_index for frame in frames] == list(range(12))
    assert [frame.timestamp_s for frame in frames] == pytest.approx([index / 25 for index in range(12)])
    assert min(combing(woven(index)) for index in range(12)) > 60
    for index, frame in enumerate(frames):
        pixels = pixels_of(frame).astype(int)
        assert combing(pixels) < 15
        nearest = [np.abs(pixels - moment(time)).mean() for time in range(24)]
        assert np.argmin(nearest) // 2 == index


def test_the_last_frames_come_when_reading_stops_early_or_late(tmp_path):
    path = write_video(tmp_path / "v.mp4", [woven(index) for index in range(12)], **INTERLACING[0][1])
    assert [frame.frame_index for frame in read(path, every=5)] == [0, 5, 10]
    assert [frame.frame_index for frame in read(path, fps=5)] == [0, 5, 10]
    one = write_video(tmp_path / "one.mp4", [woven(0)], **INTERLACING[0][1])
    (frame,) = read(one)
    assert frame.frame_index == 0 and combing(pixels_of(frame)) < 15


def test_progressive_frames_between_interlaced_ones_stay_as_they_are(tmp_path):
    """Joined recordings of both kinds. The filter does not change frames that are not marked as
    interlaced."""
    progressive = write_video(tmp_path / "a.mpg", [moment(2 * i) for i in range(6)], codec="mpeg2video")
    interlaced = write_video(tmp_path / "b.mpg", [woven(i) for i in range(6)], **INTERLACING[2][1])
    path = tmp_path / "v.mpg"
    path.write_bytes(progressive.read_bytes() + interlaced.read_bytes() + progressive.read_bytes())
    frames = [frame.image for frame in read(path)]
    alone = [frame.image for frame in read(progressive)]
    assert len(frames) == 18
    assert frames[:6] == alone and frames[12:] == alone
    assert max(combing(pixels_of(frame)) for frame in read(path)[6:12]) < 15


def test_interlaced_frames_that_change_their_size_are_all_there(tmp_path):
    small = write_video(tmp_path / "a.ts", [woven(i) for i in range(6)], **INTERLACING[1][1])
    frames = [np.ascontiguousarray(woven(i)[:64]) for i in range(6)]
    other = write_video(tmp_path / "b.ts", frames, **INTERLACING[1][1])
    path = tmp_path / "v.ts"
    path.write_bytes(small.read_bytes() + other.read_bytes())
    shapes = [pixels_of(frame).shape for frame in read(path)]
    assert shapes == [(HEIGHT, WIDTH, 3)] * 6 + [(64, WIDTH, 3)] * 6


def test_damage_stays_with_its_frame_through_the_filter(tmp_path):
    rng = np.random.default_rng(0)
    busy = [rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(12)]
    path = write_video(tmp_path / "v.mp4", busy, **INTERLACING[0][1] | {"bf": "0", "g": "1"})
    hit = packets(path)[7]
    data = bytearray(path.read_bytes())
    middle = hit.pos + hit.size // 2
    data[middle : middle + 60] = bytes(byte ^ 0x5A for byte in data[middle : middle + 60])
    path.write_bytes(data)
    frames = read(path)
    assert [frame.frame_index for frame in frames] == list(range(12))
    assert [frame.frame_index for frame in frames if frame.error] == [7]
    assert frames[7].timestamp_s == pytest.approx(7 / 25)


def test_hevc_fields_are_separate_frames(tmp_path):
    """HEVC stores interlaced video as separate fields, so all lines of a coded frame have the same time."""
    fields = [np.ascontiguousarray(moment(time)[time % 2 :: 2]) for time in range(12)]
    options = {"x265-params": "interlace=1:log-level=none:crf=5:pools=1"}
    path = write_video(tmp_path / "v.mp4", fields, codec="libx265", **options)
    frames = decoded(path)
    assert [frame.decoded.interlaced_frame for frame in frames] == [True] * 12
    errors = [np.abs(frame.pixels().astype(int) - fields[frame.index]).mean() for frame in frames]
    assert max(errors) < 4


# --- clocks that restart ---


def times(path: Path) -> list[float]:
    return [float(frame.time) for frame in decoded(path)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v.ts", {"bf": "2"}),
        ("v.m2ts", {}),
        ("v.mpg", {"codec": "mpeg2video", "bf": "2"}),
        ("v.mkv", {"bf": "2"}),
        ("v.webm", {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8"}),
        ("v.avi", {"codec": "mpeg4"}),
        ("v.mp4", {"bf": "2"}),
        ("fragments.mp4", {"bf": "2", "muxer": {"movflags": "frag_keyframe+empty_moov"}, "g": "10"}),
        ("v.mov", {"codec": "mpeg4"}),
        ("v.flv", {"bf": "2"}),
        ("v.wmv", {"codec": "wmv2", "form": "asf"}),
        ("v.ogv", {"codec": "libvpx"}),
    ],
)
def test_time_continues_where_recordings_are_joined(tmp_path, name, options):
    parts = []
    for part in range(3):
        frames = [numbered(30 * part + index) for index in range(30)]
        parts.append(write_video(tmp_path / f"{part}-{name}", frames, **options).read_bytes())
    path = tmp_path / name
    path.write_bytes(b"".join(parts))
    frames = read(path)
    assert numbers(frames) == list(range(90))
    assert [frame.timestamp_s for frame in frames] == pytest.approx([i / 25 for i in range(90)], abs=0.001)
    assert len(read(path, fps=5)) == 18


def shifted(path: Path, seconds: float) -> Path:
    """The same transport stream with its clock shifted by `seconds`, wrapped at 33 bits."""
    out = path.with_name(f"late-{path.name}")
    with (
        av.open(str(path)) as source,
        av.open(str(out), "w", options={"avoid_negative_ts": "disabled"}) as sink,
    ):
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.pts += round(seconds * 90000)
                packet.dts += round(seconds * 90000)
                packet.stream = stream
                sink.mux(packet)
    return out


WRAP = (1 << 33) / 90000


def test_the_clock_of_a_transport_stream_may_overflow(tmp_path):
    path = shifted(write_numbered(tmp_path / "v.ts", bf="2"), WRAP - 2.5)
    assert times(path) == pytest.approx([index / 25 for index in range(50)])
    assert [number_in(frame.pixels()) for frame in decoded(path)] == list(range(50))


def test_an_earlier_clock_in_the_next_recording_causes_no_time_jump(tmp_path):
    """FFmpeg treats the earlier clock as an overflow and adds 26.5 hours."""
    first = shifted(write_numbered(tmp_path / "v.ts"), 3000)
    path = tmp_path / "both.ts"
    path.write_bytes(first.read_bytes() + (tmp_path / "v.ts").read_bytes())
    assert times(path) == pytest.approx([index / 25 for index in range(100)])


def test_frames_slightly_out_of_order_do_not_restart_the_clock():
    with av.open(str(Path(__file__).parent / "nothing"), "w", "null") as sink:
        stream = sink.add_stream("mpeg4", 25)
        stream.time_base = Fraction(1, 25)
        clock = Clock(sink, stream, Fraction(0))
        seen = []
        for stamp in (10, 12, 11, 13, 14):
            frame = av.VideoFrame(16, 16, "yuv420p")
            frame.pts = stamp
            seen.append(float(clock.time(frame)))
    assert seen == pytest.approx([0, 0.08, 0.08, 0.12, 0.16])


def test_a_frame_is_not_lost_where_the_next_recording_has_another_size(tmp_path):
    small = write_numbered(tmp_path / "a.mpg", 20, codec="mpeg2video")
    frames = [numbered(index).repeat(2, 0).repeat(2, 1) for index in range(20)]
    large = write_video(tmp_path / "b.mpg", frames, codec="mpeg2video")
    path = tmp_path / "v.mpg"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    assert [pixels_of(frame).shape[0] for frame in read(path)] == [32] * 20 + [64] * 20


# --- several streams ---


def write_streams(path: Path, sizes: list[int], dispositions: list[Disposition]) -> Path:
    """Write a video with several streams, 64 times `size` pixels wide. All frames of a stream show its
    number."""
    with av.open(str(path), "w") as container:
        streams = []
        for size, disposition in zip(sizes, dispositions, strict=True):
            stream = container.add_stream("libx264" if path.suffix == ".ts" else "mpeg4", 25)
            stream.width, stream.height, stream.disposition = 64 * size, 32 * size, disposition
            streams.append(stream)
        for index in range(10):
            for number, (size, stream) in enumerate(zip(sizes, streams, strict=True)):
                frame = av.VideoFrame.from_ndarray(numbered(number).repeat(size, 0).repeat(size, 1))
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    return path


PLAIN, DEFAULT = Disposition(0), Disposition.default


@pytest.mark.parametrize(
    ("name", "sizes", "dispositions", "chosen", "why"),
    [
        ("v.mkv", [2, 1], [PLAIN, DEFAULT], 1, "the default one"),
        ("v.mkv", [1, 2], [DEFAULT, DEFAULT], 1, "the largest one"),
        ("v.mkv", [1, 2, 2], [PLAIN, PLAIN, PLAIN], 1, "the largest one"),
        ("v.ts", [1, 2], [PLAIN, PLAIN], 1, "the largest one"),
        ("v.mp4", [1, 2], [DEFAULT, DEFAULT], 1, "the largest one"),
        ("v.avi", [1, 2], [PLAIN, PLAIN], 1, "the largest one"),
    ],
)
def test_the_default_or_largest_of_several_streams_is_read_and_reported(
    tmp_path, name, sizes, dispositions, chosen, why
):
    path = write_streams(tmp_path / name, sizes, dispositions)
    findings = Findings()
    frames = list(read_shards(list_shards([str(path)], S3Settings()), S3Settings(), findings=findings))
    size = sizes[chosen]
    assert [pixels_of(frame).shape[:2] for frame in frames] == [(32 * size, 64 * size)] * 10
    assert {number_in(pixels_of(frame)[::size, ::size]) for frame in frames} == {chosen}
    (note,) = findings.notes
    assert note.startswith(f"{path}: {len(sizes)} video streams (")
    assert f"only number {chosen + 1} is read, {why}" in note


def test_a_single_stream_gives_no_note(tmp_path):
    findings = Findings()
    shards = list_shards([str(write_numbered(tmp_path / "v.mp4", 3))], S3Settings())
    assert len(list(read_shards(shards, S3Settings(), findings=findings))) == 3 and not findings.notes


def test_an_attached_picture_is_never_the_video(tmp_path):
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", 25)
        stream.width, stream.height = 64, 32
        cover = container.add_stream("mjpeg", 1)
        cover.width, cover.height, cover.pix_fmt = 640, 480, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        for index in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(index))))
        container.mux(stream.encode())
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.full((480, 640, 3), 9, np.uint8))))
        container.mux(cover.encode())
    findings = Findings()
    frames = list(read_shards(list_shards([str(path)], S3Settings()), S3Settings(), findings=findings))
    assert numbers(frames) == list(range(5)) and not findings.notes


def test_noise_is_the_same_whoever_reads_it(tmp_path):
    """Stretched frames also have the same bytes each time."""
    context = {"sample_aspect_ratio": Fraction(64, 45)}
    path = write_video(tmp_path / "v.mp4", noise(4), context=context)
    assert [frame.image for frame in read(path)] == [frame.image for frame in read(path)]
