"""Videos as input: the frames with their index, time and pixels, and the errors of damaged videos."""

import io
from collections.abc import Callable
from pathlib import Path

import av
import boto3
import cv2
import numpy as np
import pytest
from real_s3 import BUCKET
from videos import (
    noise,
    number_in,
    numbered,
    numbers,
    only_sound,
    packets,
    pixels_of,
    read,
    write_numbered,
    write_video,
)

from faceq import config
from faceq.cli import main
from faceq.config import Video
from faceq.errors import UsageError
from faceq.job import pipeline
from faceq.sources import read_again, read_shards, video
from faceq.sources.frame import to_table
from faceq.sources.listing import group, list_shards
from faceq.sources.video import picture
from faceq.stages.chosen_models import choose, comparison_record
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK, frame_id
from faceq.table.store import Table

# --- frames, indices, times ---


@pytest.mark.parametrize(
    ("name", "options", "reordered"),
    [
        ("v.mp4", {"bf": "3"}, True),
        ("v.mkv", {"bf": "3"}, True),
        ("v.mov", {"codec": "mpeg4", "bf": "2"}, True),
        ("v.webm", {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8"}, False),
        # AVI has times in coded order only. An H.264 frame in it has no time of its own.
        ("mpeg4.avi", {"codec": "mpeg4", "bf": "2"}, True),
        ("h264.avi", {"bf": "3"}, False),
        ("jpeg.avi", {"codec": "mjpeg"}, False),
        ("v.MP4", {"muxer": {"movflags": "frag_keyframe+empty_moov"}, "g": "10"}, True),
    ],
)
def test_every_frame_comes_once_in_the_order_shown(tmp_path, name, options, reordered):
    path = write_numbered(tmp_path / name, **options)
    coded = [packet.pts for packet in packets(path)]
    assert (coded != sorted(coded)) is reordered
    frames = read(path)
    assert [frame.frame_index for frame in frames] == list(range(50))
    assert numbers(frames) == list(range(50))
    assert [frame.timestamp_s for frame in frames] == pytest.approx([index / 25 for index in range(50)])
    assert frames[7].id == frame_id(str(path), None, 7)
    assert [shard.kind for shard in list_shards([str(tmp_path)], S3Settings())] == ["video"]


def test_uneven_times_are_those_of_the_file(tmp_path):
    times = [1000, 1040, 1041, 1500, 4000, 4033]
    path = write_video(tmp_path / "v.mp4", [numbered(i) for i in range(6)], rate=1000, times=times)
    frames = read(path)
    assert numbers(frames) == list(range(6))
    # The first frame has time 0, wherever the clock of the video starts.
    assert [frame.timestamp_s for frame in frames] == pytest.approx([0, 0.04, 0.041, 0.5, 3, 3.033])


def test_a_frame_travels_without_loss_and_in_the_table(tmp_path, astronaut):
    path = write_video(tmp_path / "v.mp4", [astronaut])
    with open(path, "rb") as file:
        (shown,) = (frame.pixels() for frame in video.read(file))
    (frame,) = read(path)
    assert np.array_equal(pixels_of(frame), shown)
    assert np.abs(shown.astype(int) - astronaut).mean() < 5
    (row,) = to_table([frame]).to_pylist()
    assert (row["member"], row["frame_index"], row["timestamp_s"], row["status"]) == (None, 0, 0.0, None)


@pytest.mark.parametrize(
    ("rotation", "turned"),
    [
        ((0,), lambda image: image),
        ((90,), np.rot90),
        ((180,), lambda image: np.rot90(image, 2)),
        ((270,), lambda image: np.rot90(image, 3)),
        ((0, True, False), lambda image: image[:, ::-1]),
        ((0, False, True), lambda image: image[::-1]),
        # Mirrored after the rotation, like front cameras of phones.
        ((90, True, False), lambda image: np.rot90(image)[:, ::-1]),
        ((270, True, False), lambda image: np.rot90(image, 3)[:, ::-1]),
    ],
)
def test_a_turned_or_mirrored_video_comes_upright(tmp_path, astronaut, rotation, turned):
    small = cv2.resize(astronaut, (96, 64))
    (frame,) = read(write_video(tmp_path / "v.mp4", [small], rotation=rotation, crf="5"))
    expected = turned(small)
    assert pixels_of(frame).shape == expected.shape
    assert np.abs(pixels_of(frame).astype(int) - expected).mean() < 10


def test_sound_and_cover_pictures_are_not_frames(tmp_path, astronaut):
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", 44100)
        stream = container.add_stream("mpeg4", 25)
        stream.width, stream.height = 64, 32
        for index in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(index))))
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 44100, index * 1024
            container.mux(sound.encode(silence))
        container.mux(stream.encode())
        container.mux(sound.encode())
    assert numbers(read(path)) == list(range(10))


# --- sampling ---


def test_a_rate_takes_the_first_frame_at_or_after_each_tick(tmp_path):
    path = write_numbered(tmp_path / "v.mp4")
    half_seconds = read(path, fps=2.0)
    assert [frame.frame_index for frame in half_seconds] == [0, 13, 25, 38]
    assert numbers(half_seconds) == [0, 13, 25, 38]
    assert [frame.timestamp_s for frame in half_seconds] == pytest.approx([0, 0.52, 1, 1.52])
    assert len(read(path, fps=25)) == len(read(path, fps=1000)) == 50
    assert [frame.frame_index for frame in read(path, fps=0.1)] == [0]


def test_ticks_without_a_frame_are_skipped(tmp_path):
    times = [0, 100, 2600, 2700, 3000, 3900]
    path = write_video(tmp_path / "v.mp4", [numbered(i) for i in range(6)], rate=1000, times=times)
    assert [frame.timestamp_s for frame in read(path, fps=1)] == pytest.approx([0, 2.6, 3.0])


@pytest.mark.parametrize(("fps", "count"), [(30, 60), (10, 20), (7.5, 15)])
def test_times_that_matroska_rounds_are_still_at_their_ticks(tmp_path, fps, count):
    frames = read(write_numbered(tmp_path / "v.mkv", 60, rate=30), fps=fps)
    assert [frame.frame_index for frame in frames] == list(range(0, 60, 60 // count))
    assert frames[1].timestamp_s in (0.033, 0.1, 0.133)


def test_every_kth_frame_keeps_its_index(tmp_path):
    frames = read(write_numbered(tmp_path / "v.mp4"), every=20)
    assert [(frame.frame_index, frame.timestamp_s) for frame in frames] == [(0, 0), (20, 0.8), (40, 1.6)]
    assert numbers(frames) == [0, 20, 40]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["--fps", "2", "--every", "3"], "video: fps and every cannot be combined"),
        (["--fps", "0"], "video.fps: input should be greater than 0"),
        (["--every", "0"], "video.every: input should be greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense_are_wrong_usage(tmp_path, capsys, chosen, message):
    assert main.main(["score", str(tmp_path), "--out", str(tmp_path / "t"), *chosen]) == 2
    assert message in capsys.readouterr().err


def test_sampling_is_on_record():
    for name, value in (("fps", 2), ("every", 3)):
        settings = config.build({"video": {name: value}})
        assert comparison_record(settings, choose(settings))[f"video_{name}"] == value


# --- damaged videos ---


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v.mp4", {"muxer": {"movflags": "faststart"}}),
        ("v.mkv", {}),
        ("v.webm", {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8"}),
        ("v.avi", {"codec": "mpeg4"}),
    ],
)
@pytest.mark.parametrize("between_frames", [True, False])
def test_a_truncated_video_gives_its_complete_frames_and_one_break(tmp_path, name, options, between_frames):
    whole = write_video(tmp_path / f"whole-{name}", noise(40), **options)
    last = packets(whole)[24]
    short = tmp_path / f"short-{name}"
    short.write_bytes(whole.read_bytes()[: last.pos if between_frames else last.pos + last.size // 2])
    *frames, end = read(short)
    assert 15 <= len(frames) <= 25
    intact = {frame.frame_index: frame.image for frame in read(whole)}
    assert all(frame.image == intact[frame.frame_index] for frame in frames[:15])
    assert (end.member, end.frame_index, end.image, end.timestamp_s) == (None, BREAK, None, None)
    assert "cut off at 0.9" in end.error or "cut off at 1.0" in end.error
    assert "copy the file again" in end.error and not end.refused


def test_coded_frames_that_the_decoder_refuses_are_skipped_and_reported(tmp_path):
    path = write_video(tmp_path / "v.mp4", noise(40), g="10", bf="0")
    data = bytearray(path.read_bytes())
    for packet in packets(path)[20:23]:
        data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    *frames, end = read(path)
    assert [frame.frame_index for frame in frames] == list(range(37))
    assert frames[-1].timestamp_s == pytest.approx(39 / 25)
    assert end.error == "damaged: 3 of 40 coded frames cannot be decoded, the first at 0.80 s"


def test_a_frame_that_the_decoder_concealed_is_unreadable(tmp_path):
    path = write_video(tmp_path / "v.mp4", noise(30), bf="0")
    hit = packets(path)[12]
    data = bytearray(path.read_bytes())
    middle = hit.pos + hit.size // 2
    data[middle : middle + 60] = bytes(byte ^ 0x5A for byte in data[middle : middle + 60])
    path.write_bytes(data)
    frames = read(path)
    assert [frame.frame_index for frame in frames] == list(range(30))
    assert [frame.frame_index for frame in frames if frame.error] == [12]
    assert "damaged" in frames[12].error
    assert frames[12].timestamp_s == pytest.approx(0.48)


def without_decoder(path: Path) -> bytes:
    data = write_numbered(path).read_bytes()
    start = data.index(b"avc1", data.index(b"stsd"))
    return data[:start] + b"zzzz" + data[start + 4 :]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda path: b"", "empty (0 bytes)"),
        (lambda path: b"<html>403 Forbidden</html>" * 50, "not a video but a web page (HTML)"),
        (lambda path: np.random.default_rng(1).bytes(9000), "not a video, or cut off in its header"),
        (lambda path: bytes(9000), "not a video but zero bytes"),
        # FFmpeg would open the files that a playlist names.
        (
            lambda path: b"#EXTM3U\n#EXTINF:9,\nfile:///etc/hosts\n#EXT-X-ENDLIST\n",
            "not a video but a playlist",
        ),
        (lambda path: write_numbered(path).read_bytes()[:-200], "without its index (moov)"),
        (lambda path: write_numbered(path).read_bytes()[:-1000], "copy it again if it is cut off"),
        (lambda path: write_numbered(path).read_bytes()[:900], "without its index (moov)"),
        (without_decoder, "no decoder for its video codec (zzzz): convert it"),
        (only_sound, "it has no video stream, only: audio"),
    ],
)
def test_a_file_that_is_no_video_is_one_break_with_the_reason(
    tmp_path, content: Callable[[Path], bytes], reason: str
):
    data = content(tmp_path / "made.mp4")
    (tmp_path / "v.mp4").write_bytes(data)
    (frame,) = read(tmp_path / "v.mp4")
    assert (frame.frame_index, frame.image, frame.refused) == (BREAK, None, False)
    assert reason in frame.error


def test_a_video_with_frames_above_the_limit_for_images_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(picture, "MAX_PIXELS", 2000)
    (frame,) = read(write_numbered(tmp_path / "v.mp4"))
    assert frame.error == "64x32 pixels are more than the maximum of 2000: scale the video down"


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.avi"])
def test_a_storage_failure_is_not_damage(tmp_path, name):
    path = write_video(tmp_path / name, noise(40), muxer={"movflags": "faststart"})

    class Failing(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            if self.tell() + size > path.stat().st_size * 0.7:
                raise ConnectionResetError("the server hung up")
            return super().read(size)

    frames = []
    with Failing(path) as file, pytest.raises(ConnectionResetError, match="hung up"):
        for frame in video.read(file):
            frames.append(frame.index)
    assert frames == list(range(len(frames)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v.mp4", {}),
        ("v.mkv", {}),
        ("v.avi", {"codec": "mpeg4"}),
        ("v.ts", {"codec": "mpeg2video"}),
        ("v.flv", {}),
        ("v.wmv", {"codec": "wmv2", "form": "asf"}),
        ("interlaced.mp4", {"x264-params": "interlaced=1:tff=1"}),
    ],
)
def test_changed_bytes_anywhere_never_raise(tmp_path, name, options):
    whole = write_video(tmp_path / name, noise(8), **options).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(40):
        data = bytearray(whole)
        for place in random.integers(0, len(data), random.integers(1, 30)):
            data[place] = random.integers(256)
        (tmp_path / name).write_bytes(data)
        frames = read(tmp_path / name)
        breaks = [frame for frame in frames if frame.frame_index == BREAK]
        assert len(frames) <= 9 and len(breaks) <= 1 and breaks == frames[-1:][: len(breaks)]
        assert not any(frame.refused for frame in breaks)
        times = [frame.timestamp_s for frame in frames if frame.frame_index != BREAK]
        assert times == sorted(times)


# --- reading again ---


def test_done_frames_are_marked(tmp_path):
    path = write_numbered(tmp_path / "v.mp4")
    done = {frame_id(str(path), None, index) for index in (0, 20, 21)}
    frames = read(path, done=done, every=10)
    assert [(frame.frame_index, frame.done, frame.image is None) for frame in frames] == [
        *((0, True, True), (10, False, False), (20, True, True), (30, False, False), (40, False, False))
    ]
    assert to_table(frames)["frame_index"].to_pylist() == [10, 30, 40]


def test_a_break_is_done_once_it_has_a_row(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"")
    (first,) = read(tmp_path)
    (again,) = read(tmp_path, done={first.id})
    assert not first.done and again.done


def test_frames_of_a_table_are_read_again(tmp_path):
    path = write_numbered(tmp_path / "v.mp4")
    wanted = {frame_id(str(path), None, index) for index in (3, 17)}
    frames = list(read_again({str(path): {None: 17}}, wanted, S3Settings()))
    assert [(frame.frame_index, number_in(pixels_of(frame))) for frame in frames] == [(3, 3), (17, 17)]


def test_each_video_has_its_own_read_task(tmp_path):
    for name in ("a.jpg", "b.jpg", "v.mp4", "w.webm"):
        (tmp_path / name).touch()
    assert [len(shards) for shards in group(list_shards([str(tmp_path)], S3Settings()))] == [1, 1, 2]


# --- the job ---


@pytest.fixture(scope="module")
def clip(tmp_path_factory, astronaut) -> Path:
    """Two seconds of a face that is sharp at first and then increasingly blurred."""
    frames = [cv2.blur(astronaut, (1 + index, 1 + index)) for index in range(20)]
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames, rate=10, bf="2")


def rows_of(settings: config.Config) -> list[dict]:
    columns = ["frame_index", "timestamp_s", "status", "serfiq", "width", "error", "source"]
    return Table(settings.out, settings.s3).rows(columns).sort_by("frame_index").to_pylist()


def test_the_job_gives_each_frame_a_row(local_ray, clip, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.mkv").write_bytes(b"")
    settings = config.build(
        {
            "input": [str(clip), str(tmp_path / "in")],
            "out": str(tmp_path / "table"),
            "fiq_threshold": 0,
            "video": {"fps": 5},
        }
    )
    done = pipeline.score(settings)
    end, *rows = rows_of(settings)
    assert (done.run.frames, done.run.rows) == (11, 11)
    assert (end["frame_index"], end["error"], end["timestamp_s"]) == (-1, "the file is empty (0 bytes)", None)
    assert [row["frame_index"] for row in rows] == list(range(0, 20, 2))
    assert [row["timestamp_s"] for row in rows] == pytest.approx([index / 10 for index in range(0, 20, 2)])
    assert {row["width"] for row in rows} == {512}
    assert rows[0]["status"] == "scored" and rows[0]["serfiq"] > rows[-1]["serfiq"]
    assert pipeline.score(settings).run.already_done == 11
    with pytest.raises(UsageError, match=r"video\.fps was 5\.0, is now null"):
        pipeline.score(settings.model_copy(update={"video": Video()}))


def test_a_video_on_s3_is_read_as_on_disk(s3, clip):
    boto3.client("s3").upload_file(str(clip), BUCKET, "videos/my clip.mp4")
    (shard,) = list_shards([f"{s3}/videos"], S3Settings())
    remote = list(read_shards([shard], S3Settings()))
    local = read(clip)
    assert remote[3].source == f"{s3}/videos/my clip.mp4"
    assert [(f.frame_index, f.timestamp_s, f.image) for f in remote] == [
        (f.frame_index, f.timestamp_s, f.image) for f in local
    ]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["d11", "d18", "d19", "d20", "s18", "s32"])
def test_real_clips_agree_with_an_independent_reading(name, shared):
    path = shared / "videos" / f"{name}.mp4"
    capture = cv2.VideoCapture(str(path))
    with av.open(str(path)) as container:
        unit = container.streams.video[0].time_base
        times = sorted(packet.pts * unit for packet in container.demux(video=0) if packet.size)
    with open(path, "rb") as file:
        count = 0
        for frame in video.read(file):
            read_too, theirs = capture.read()
            assert read_too
            assert float(frame.time) == float(times[frame.index] - times[0])
            assert capture.get(cv2.CAP_PROP_POS_MSEC) == pytest.approx(1000 * float(frame.time), abs=0.01)
            assert not frame.damaged
            if frame.index % 50 == 0:
                assert np.abs(frame.pixels().astype(int) - theirs[..., ::-1]).max() <= 2
            count += 1
    assert count == len(times) and not capture.read()[0]
