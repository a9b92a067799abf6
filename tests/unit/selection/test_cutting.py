"""Clips cut out of their videos: the exact frames, times, colours and sound, and what cannot be cut."""

import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import boto3
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clicks import flashes_and_clicks, flashing, write_clicking
from disks import needs_mounts, small_disk
from here import write_table
from real_s3 import BUCKET
from tars import write_tar
from videos import number_in, numbered, packets, write_numbered, write_video

from faceq.cli.main import main
from faceq.errors import UsageError
from faceq.faces.face_square import MARGIN, relative_side
from faceq.query.rows import Rows
from faceq.selection.clips import Lengths, find
from faceq.selection.cutting import Way, cut
from faceq.selection.face_path import path_of
from faceq.sources import video
from faceq.storage.settings import S3Settings
from faceq.table.schema import SCHEMA, frame_id

WHOLE = Way()


def times_of(path: Path) -> list[float]:
    with path.open("rb") as file:
        return [float(frame.time) for frame in video.read(file)]


def rows_of(source: str, times: list[float], good: range, member: str | None = None, box=None) -> list[dict]:
    """Rows of a video: the frames in `good` fulfil the recommended filter. `box`: the face box by index."""
    found = []
    for i, at in enumerate(times):
        score = 60.0 if i in good else 10.0
        row = {"frame_id": frame_id(source, member, i), "source": source, "member": member, "frame_index": i}
        row |= {"timestamp_s": at, "status": "scored", "serfiq": 0.9, "dbcnn": score, "run_id": "1"}
        face = box(i) if box else None
        if face:
            row |= dict(zip(("face_x", "face_y", "face_w", "face_h"), face, strict=True))
        found.append(row)
    return found


@pytest.fixture
def table_of(tmp_path):
    """Writes a table of rows; returns its path."""

    def write(rows: list[dict]) -> str:
        return write_table(tmp_path / "table", pa.Table.from_pylist(rows, SCHEMA))

    return write


@pytest.fixture
def cut_one(tmp_path, table_of):
    """Cuts one clip out of a video; returns the path of its file and its row."""

    def run(source: Path, good: range, way: Way = WHOLE, box=None) -> tuple[Path, dict]:
        table = table_of(rows_of(str(source), times_of(source), good, box=box))
        (row,) = cut_all(table, tmp_path / "cut", way)
        assert row["error"] is None, row["error"]
        return tmp_path / "cut" / row["file"], row

    return run


def cut_all(table: str, folder: Path, way: Way = WHOLE) -> list[dict]:
    with Rows(table, S3Settings()) as rows:
        clips = find(rows, None, Lengths(0.1, 15, 0.05))
        return cut(rows, clips, str(folder), way, {}, S3Settings()).to_pylist()


def frames_in(path: Path) -> tuple[list[int], list[float]]:
    with path.open("rb") as file:
        found = [(number_in(frame.pixels()[:32, :64]), float(frame.time)) for frame in video.read(file)]
    return [number for number, _ in found], [at for _, at in found]


# --- exact cuts ---


@pytest.mark.parametrize("good", [range(0, 10), range(13, 38), range(40, 50)])
def test_the_file_has_exactly_the_frames_of_the_clip(tmp_path, cut_one, good):
    source = write_numbered(tmp_path / "v.mp4")
    path, row = cut_one(source, good)
    numbers, times = frames_in(path)
    assert numbers == list(good)
    assert times == pytest.approx([i / 25 for i in range(len(good))], abs=1e-4)
    assert (row["file_start_s"], row["file_end_s"]) == (row["start_s"], row["end_s"])
    with av.open(str(path)) as container:
        assert container.duration / av.time_base == pytest.approx(len(good) / 25, abs=0.002)
        assert container.start_time == 0


def test_times_of_a_variable_frame_rate_are_kept(tmp_path, cut_one):
    steps = np.random.default_rng(0).integers(10, 90, 60)
    source = write_numbered(tmp_path / "v.mkv", 60, times=[int(t) for t in np.cumsum(steps)])
    path, _ = cut_one(source, range(20, 45))
    numbers, times = frames_in(path)
    assert numbers == list(range(20, 45))
    expected = np.cumsum(steps)[20:45] / 1000
    assert times == pytest.approx(expected - expected[0], abs=1e-4)


def test_a_rotated_video_becomes_upright(tmp_path, cut_one):
    plain = [np.rot90(numbered(index)) for index in range(30)]
    source = write_video(tmp_path / "v.mp4", plain, rotation=(-90,))
    with source.open("rb") as file:
        first = next(video.read(file)).pixels()
    path, _ = cut_one(source, range(5, 25))
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert frames[0].to_ndarray(format="rgb24").shape == first.shape and frames[0].rotation == 0
    numbers, _ = frames_in(path)
    with source.open("rb") as file:
        assert numbers == [number_in(frame.pixels()) for frame in video.read(file)][5:25]


def test_pixels_become_square(tmp_path, cut_one):
    wide = {"sample_aspect_ratio": Fraction(2, 1)}
    source = write_video(tmp_path / "v.mp4", [numbered(i) for i in range(20)], context=wide)
    path, _ = cut_one(source, range(0, 20))
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        assert (stream.width, stream.height) == (128, 32)
        assert stream.sample_aspect_ratio in (None, 1)


def test_an_odd_row_and_column_are_left_out(tmp_path, cut_one):
    frames = [np.pad(numbered(i), ((0, 1), (0, 1), (0, 0)), "edge") for i in range(20)]
    source = write_video(tmp_path / "v.mkv", frames, "ffv1", pixels="yuv444p")
    path, _ = cut_one(source, range(3, 20))
    with av.open(str(path)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (64, 32)
    assert frames_in(path)[0] == list(range(3, 20))


def test_repeating_timestamps_are_no_obstacle(tmp_path, cut_one):
    times = [40 * i for i in range(10)] + [400] * 3 + [440 + 40 * i for i in range(10)]
    source = write_numbered(tmp_path / "v.mkv", len(times), times=times, codec="ffv1")
    path, _ = cut_one(source, range(2, 20))
    assert frames_in(path)[0] == list(range(2, 20))


def test_a_single_frame_is_a_clip(tmp_path, table_of):
    source = write_numbered(tmp_path / "v.mp4", 1)
    table = table_of(rows_of(str(source), [0.0], range(1)))
    assert main(["clips", table, "--min-seconds", "0", "--cut", str(tmp_path / "cut")]) == 0
    (row,) = pq.read_table(tmp_path / "cut" / "clips.parquet").to_pylist()
    assert frames_in(tmp_path / "cut" / row["file"])[0] == [0]


# --- colours ---


@pytest.mark.parametrize(
    ("codec", "pixels", "matrix", "limited", "size"),
    [
        ("libx264", "yuv420p", 1, 1, (720, 1280)),  # BT.709
        ("libx264", "yuv420p", 6, 1, (480, 640)),  # BT.601
        ("libx264", "yuv420p", 2, 0, (480, 640)),  # not stated
        ("libx264", "yuvj420p", 5, 2, (480, 640)),  # full range
        ("libx264", "yuv422p", 1, 1, (480, 640)),
        ("ffv1", "yuv420p10le", 9, 1, (480, 640)),  # BT.2020
        ("ffv1", "bgr0", 0, 0, (480, 640)),  # RGB
        ("ffv1", "gray", 2, 0, (480, 640)),
    ],
)
@pytest.mark.parametrize("crop", [None, "face"])
def test_colours_are_those_of_the_video(tmp_path, cut_one, codec, pixels, matrix, limited, size, crop):
    height, width = size
    patches = np.random.default_rng(3).integers(20, 236, (3, 4, 3), np.uint8)
    picture = patches.repeat(height // 3, 0).repeat(width // 4, 1)
    if pixels == "gray":
        picture = picture[..., :1].repeat(3, 2)
    context = {"colorspace": matrix, "color_range": limited}
    source = tmp_path / "v.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream(codec, 25, options={"crf": "1"} if codec == "libx264" else {})
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for index in range(6):
            rgb = av.VideoFrame.from_ndarray(picture[: height // 3 * 3])
            frame = rgb.reformat(
                format=pixels,
                dst_colorspace={1: 1, 9: 9}.get(matrix, 5),
                dst_color_range={2: 2}.get(limited, 1 if pixels.startswith("yuv") else 2),
            )
            frame.colorspace, frame.color_range = matrix, limited
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with source.open("rb") as file:
        expected = next(video.read(file)).pixels()
    box = (width / 2 - height / 4, height / 4, height / 2, height / 2)
    path, _ = cut_one(source, range(6), Way(crop=crop, size=height), box=lambda index: box)
    with path.open("rb") as file:
        found = next(video.read(file)).pixels()
    if crop:
        left = (width - height) // 2
        expected = expected[:, left : left + height]
    ys = np.arange(3) * (height // 3) + height // 6
    xs = np.arange(4) * (width // 4) + width // 8
    if crop:
        xs = xs - left
        xs = xs[(xs > 8) & (xs < height - 8)]
    difference = np.abs(found[np.ix_(ys, xs)].astype(int) - expected[np.ix_(ys, xs)])
    assert difference.max() <= 2
    with av.open(str(path)) as container:
        decoder = container.streams.video[0].codec_context
        next(container.decode(video=0))
        is_full = pixels in ("yuvj420p", "gray")
        assert (decoder.color_range == 2) == is_full
        assert decoder.pix_fmt == ("yuvj420p" if is_full else "yuv420p")
        assert decoder.colorspace in {0: (1,), 5: (5, 6)}.get(matrix, (matrix,))


# --- sound ---


@pytest.mark.parametrize("start", [0, 8, 31])
@pytest.mark.parametrize(
    ("name", "rate", "sound", "delay", "codec"),
    [
        ("v.mp4", Fraction(25), 48000, 0, "aac"),
        ("v.mp4", Fraction(30000, 1001), 44100, 0, "aac"),
        ("v.mkv", Fraction(30000, 1001), 48000, Fraction(1, 2), "aac"),
        ("v.ts", Fraction(25), 44100, Fraction(1, 5), "aac"),
        ("v.mkv", Fraction(25), 37800, 0, "flac"),
    ],
)
@pytest.mark.parametrize("mode", ["encode", "copy"])
def test_click_and_flash_still_coincide(tmp_path, cut_one, name, rate, sound, delay, codec, start, mode):
    source = write_clicking(tmp_path / name, 100, rate, sound, Fraction(delay), codec, g="25")
    good = range(start, start + 60)
    path, _ = cut_one(source, good, Way(mode))
    flashes, clicks = flashes_and_clicks(path)
    clicks = [click for click in clicks if click <= flashes[-1] + 0.02]
    expected = [i for i in good if i % 7 == 3]
    assert len(flashes) == len(expected) if mode == "encode" else len(flashes) >= len(expected)
    # In a copy, the first packet of the sound lacks the one before it.
    assert len(clicks) == len(flashes) if mode == "encode" else len(clicks) >= len(flashes) - 1
    clicks = clicks[len(clicks) - len(flashes) :] if mode == "encode" else clicks
    flashes = flashes[len(flashes) - len(clicks) :]
    assert np.abs(np.subtract(flashes, clicks)).max() < 0.012
    if mode == "encode":
        with av.open(str(path)) as container:
            (stream,) = container.streams.audio
            length = float(stream.duration * stream.time_base)
        assert length == pytest.approx(60 / rate, abs=0.03)


def test_clips_that_follow_each_other_share_the_sound(tmp_path, table_of):
    source = write_clicking(tmp_path / "v.mp4", 120)
    table = table_of(rows_of(str(source), times_of(source), range(3, 117)))
    assert (
        main(["clips", table, "--max-seconds", "1", "--min-seconds", "0.5", "--cut", str(tmp_path / "cut")])
        == 0
    )
    found = pq.read_table(tmp_path / "cut" / "clips.parquet").to_pylist()
    assert len(found) == 5
    for row in found:
        path = tmp_path / "cut" / row["file"]
        assert frames_in(path)[0] == list(range(row["start_frame"], row["end_frame"] + 1))
        flashes, clicks = flashes_and_clicks(path)
        assert flashes == pytest.approx(clicks, abs=0.012)


def test_sound_that_is_missing_or_restarts_is_never_out_of_place(tmp_path, table_of):
    """The sound of the first video ends early: the rest is silence. The clock of the second one restarts."""
    late = write_clicking(tmp_path / "v.mp4", 100)
    short = tmp_path / "short.mp4"
    with av.open(str(late)) as given, av.open(str(short), "w") as container:
        streams = [container.add_stream_from_template(stream, opaque=True) for stream in given.streams]
        for packet in given.demux():
            if packet.dts is not None and not (packet.stream.type == "audio" and packet.pts > 96_000):
                packet.stream = streams[packet.stream.index]
                container.mux(packet)
    twice = tmp_path / "twice.ts"
    one = write_clicking(tmp_path / "one.ts", 50)
    twice.write_bytes(2 * one.read_bytes())
    rows = rows_of(str(short), times_of(short), range(40, 90)) + rows_of(
        str(twice), times_of(twice), range(60, 90)
    )
    rows += rows_of(str(one), times_of(one), range(10, 40))
    found = {Path(row["source"]).name: row for row in cut_all(table_of(rows), tmp_path / "cut")}
    assert "the place of its sound is unknown" in found["twice.ts"]["error"]
    flashes, clicks = flashes_and_clicks(tmp_path / "cut" / found["short.mp4"]["file"])
    assert flashes[: len(clicks)] == pytest.approx(clicks, abs=0.012) and 0 < len(clicks) < len(flashes)
    with av.open(str(tmp_path / "cut" / found["short.mp4"]["file"])) as container:
        (stream,) = container.streams.audio
        assert float(stream.duration * stream.time_base) == pytest.approx(2, abs=0.03)
    assert found["one.ts"]["error"] is None


def test_ctrl_c_ends_soon_and_says_how_to_continue(tmp_path, table_of):
    frames = [flashing(j % 120).repeat(10, 0).repeat(10, 1) for j in range(300)]
    source = write_video(tmp_path / "v.mp4", frames)
    table = table_of(rows_of(str(source), times_of(source), range(300)))
    folder = tmp_path / "cut"
    command = [sys.executable, "-m", "faceq", "clips", table, "--min-seconds", "0.4", "--cut", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while time.monotonic() < until and not list(folder.glob(".*.mp4.*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert "run the same command again to continue" in process.communicate(timeout=10)[1]
    assert process.returncode == 130
    assert os.listdir(folder) == ["_faceq"]


# --- copies ---


def test_a_copy_begins_at_a_key_frame_and_says_so(tmp_path, cut_one):
    source = write_numbered(tmp_path / "v.mp4", 100, g="20")
    path, row = cut_one(source, range(33, 70), Way("copy"))
    numbers, _ = frames_in(path)
    keys = [i for i, packet in enumerate(sorted(packets(source), key=lambda p: p.pts)) if packet.is_keyframe]
    first = max(key for key in keys if key <= 33)
    assert numbers[0] == first and row["file_start_s"] == pytest.approx(first / 25)
    assert 69 <= numbers[-1] <= 72 and row["file_end_s"] == pytest.approx(numbers[-1] / 25)
    assert numbers == list(range(first, numbers[-1] + 1))


def test_a_copy_of_a_codec_that_mp4_cannot_hold_is_matroska(tmp_path, cut_one):
    source = write_numbered(tmp_path / "v.mkv", 50, codec="libvpx", g="10")
    path, row = cut_one(source, range(10, 40), Way("copy"))
    assert path.suffix == ".mkv" and frames_in(path)[0] == list(range(10, 40))
    assert (row["file_start_s"], row["file_end_s"]) == pytest.approx((0.4, 1.56))


def test_a_copy_of_an_avi_whose_frames_are_reordered_is_refused(tmp_path, table_of):
    source = write_numbered(tmp_path / "v.avi", codec="mpeg4", bf="2")
    table = table_of(rows_of(str(source), times_of(source), range(10, 40)))
    (row,) = cut_all(table, tmp_path / "cut", Way("copy"))
    assert "use --cut-mode encode" in row["error"]


def test_a_copy_stays_rotated(tmp_path, cut_one):
    source = write_video(tmp_path / "v.mp4", [np.rot90(numbered(i)) for i in range(30)], rotation=(-90,))
    path, _ = cut_one(source, range(0, 25), Way("copy"))
    with source.open("rb") as file:
        expected = [number_in(frame.pixels()) for frame in video.read(file)]
    assert frames_in(path)[0][:25] == expected[:25]


# --- crops ---


def test_the_crop_follows_the_face(tmp_path, cut_one):
    """A white square moves over a grey frame, and its box is only in every fifth row."""

    def place(index: int) -> tuple[float, float]:
        return 40 + 3 * index, 60 + 20 * np.sin(index / 12)

    frames = []
    for index in range(75):
        frame = np.full((180, 320, 3), 60, np.uint8)
        x, y = place(index)
        cv2.rectangle(frame, (round(x), round(y)), (round(x) + 29, round(y) + 29), (230, 230, 230), -1)
        frames.append(frame)
    source = write_video(tmp_path / "v.mp4", frames)
    way = Way(crop="face", size=120)
    path, _ = cut_one(source, range(75), way, lambda i: None if i % 5 and i < 74 else (*place(i), 30, 30))
    with path.open("rb") as file:
        found = [frame.pixels()[..., 0] for frame in video.read(file)]
    assert {picture.shape for picture in found} == {(120, 120)}
    for picture in found:
        ys, xs = np.nonzero(picture > 150)
        assert (xs.mean(), ys.mean()) == pytest.approx((59.5, 59.5), abs=6)
        assert np.sqrt(len(xs)) == pytest.approx(120 / relative_side(MARGIN), abs=3)


def test_the_crop_is_continued_beyond_the_edge(tmp_path, cut_one):
    frame = np.zeros((96, 96, 3), np.uint8)
    frame[:, :32] = 200
    source = write_video(tmp_path / "v.mp4", [frame] * 10)
    path, _ = cut_one(source, range(10), Way(crop="face", size=64), lambda i: (0, 0, 48, 48))
    with path.open("rb") as file:
        pixels = next(video.read(file)).pixels()[..., 0]
    # The square reaches from -24 to 72.
    assert (pixels[:, :33] > 180).all() and (pixels[:, 42:] < 20).all()


def test_the_path_is_smooth_and_has_no_delay():
    times = np.arange(0, 4, 0.04)
    noise = np.random.default_rng(0).normal(0, 3, (len(times), 2))
    boxes = np.stack([100 * times, 50 + 0 * times, 80 + noise[:, 0], 100 + noise[:, 1]], 1)
    path = path_of(0, 3.96, times, boxes)
    x, _, side = np.array([path.at(time) for time in times]).T
    assert np.abs(x - (100 * times + 40)).max() < 2.5
    assert np.abs(np.diff(side)).max() < 0.5
    assert np.abs(side - 100 * relative_side(MARGIN)).max() < 8


def test_a_clip_without_a_face_has_no_crop(tmp_path, table_of):
    source = write_numbered(tmp_path / "v.mp4")
    table = table_of(rows_of(str(source), times_of(source), range(50)))
    (row,) = cut_all(table, tmp_path / "cut", Way(crop="face"))
    assert row["error"] == "no frame of the clip has a face" and row["file"] is None


# --- several clips, shards, failures ---


def test_videos_in_shards_are_cut(tmp_path, table_of):
    one, two = write_numbered(tmp_path / "1.mp4", 40), write_clicking(tmp_path / "2.mp4", 60)
    shard = str(write_tar(tmp_path / "s.tar", [("a.mp4", one.read_bytes()), ("b.mp4", two.read_bytes())]))
    zipped = str(write_tar(tmp_path / "s.tar.gz", [("a.mp4", one.read_bytes())], "w:gz"))
    table = str(tmp_path / "s.parquet")
    pq.write_table(pa.table({"key": ["x", "y"], "video": [one.read_bytes(), two.read_bytes()]}), table)
    rows = rows_of(shard, times_of(one), range(5, 35), "a.mp4") + rows_of(
        shard, times_of(two), range(9, 50), "b.mp4"
    )
    rows += rows_of(zipped, times_of(one), range(5, 35), "a.mp4")
    rows += rows_of(table, times_of(two), range(9, 50), "y")
    rows += rows_of(shard, times_of(one), range(5, 35), "gone.mp4")
    for number, way in enumerate((Way(), Way("copy"))):
        found = cut_all(table_of(rows), tmp_path / str(number), way)
        failed = [row for row in found if row["error"]]
        assert [(row["member"], row["error"]) for row in failed] == [
            ("gone.mp4", "there is no such video in its source any more")
        ]
        for row in found:
            if row["file"]:
                numbers, _ = frames_in(tmp_path / str(number) / row["file"])
                wanted = range(row["start_frame"], row["end_frame"] + 1)
                assert numbers == list(wanted) if way.mode == "encode" else set(wanted) <= set(numbers)
    assert len(found) == 5


@pytest.mark.parametrize("mode", ["encode", "copy"])
def test_a_video_on_s3_is_cut(tmp_path, table_of, s3, mode):
    source = write_clicking(tmp_path / "v.mp4")
    boto3.client("s3").upload_file(str(source), BUCKET, "cut/v.mp4")
    times = times_of(source)
    rows = rows_of(f"{s3}/cut/v.mp4", times, range(10, 60)) + rows_of(
        f"{s3}/cut/gone.mp4", times, range(10, 60)
    )
    gone, row = cut_all(table_of(rows), tmp_path / "cut", Way(mode))
    assert set(range(10, 60)) <= set(frames_in(tmp_path / "cut" / row["file"])[0])
    assert "not found" in gone["error"]


def test_each_failure_is_a_row_and_the_others_are_cut(tmp_path, table_of, capsys):
    good = write_numbered(tmp_path / "good.mp4")
    times = times_of(good)
    names = ["gone", "short", "slow", "text"]
    write_numbered(tmp_path / "short.mp4", 30)
    write_numbered(tmp_path / "slow.mp4", rate=24)
    (tmp_path / "text.mp4").write_text("hello")
    rows = [
        row
        for name in (*names, "good")
        for row in rows_of(str(tmp_path / f"{name}.mp4"), times, range(20, 50))
    ]
    damaged = tmp_path / "damaged.mkv"
    content = bytearray(write_numbered(damaged, 100, g="10").read_bytes())
    damaged_times = times_of(damaged)
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    damaged.write_bytes(content)
    rows += rows_of(str(damaged), damaged_times, range(0, 20))
    for row in rows:
        if row["source"] == str(damaged) and row["frame_index"] >= 80:
            row["dbcnn"] = 60.0
    table = table_of(rows)
    folder = tmp_path / "cut"
    for extra in ([], ["--cut-mode", "copy"]):
        out = str(folder) + "".join(extra)
        assert main(["clips", table, "--min-seconds", "0.5", "--cut", out, *extra]) == 1
        found = pq.read_table(f"{out}/clips.parquet").to_pylist()
        errors = {(Path(row["source"]).stem, row["start_frame"]): row["error"] for row in found}
        assert errors["good", 20] is None and errors["damaged", 0] is None
        assert "not found" in errors["gone", 20]
        assert "score it again" in errors["short", 20]
        assert "score it again" in errors["slow", 20]
        assert "not a video" in errors["text", 20]
        assert errors["damaged", 80]
        assert sorted(os.listdir(out)) == sorted(
            ["_faceq", "clips.parquet", *(row["file"] for row in found if row["file"])]
        )
        shown = capsys.readouterr()
        assert shown.out.startswith("2 clips, ") and "5 clips could not be cut, the first: " in shown.err


def test_existing_files_are_kept_and_another_selection_is_refused(tmp_path, table_of, capsys):
    source = write_numbered(tmp_path / "v.mp4")
    table = table_of(rows_of(str(source), times_of(source), range(5, 45)))
    command = ["clips", table, "--min-seconds", "1", "--cut", str(tmp_path / "cut")]
    assert main(command) == 0
    before = pq.read_table(tmp_path / "cut" / "clips.parquet")
    path = tmp_path / "cut" / before["file"][0].as_py()
    content = path.read_bytes()
    source.unlink()
    assert main(command) == 0
    assert pq.read_table(tmp_path / "cut" / "clips.parquet") == before and path.read_bytes() == content
    for other in (["--cut-mode", "copy"], ["--crop", "face"], ["--max-gap", "0.1"]):
        assert main([*command, *other]) == 2
        assert "contains another export" in capsys.readouterr().err
    path.write_bytes(content[: len(content) // 2])
    assert main(command) == 1  # a file that something else has damaged is cut again


def test_a_killed_command_is_continued(tmp_path, table_of):
    sources = [
        write_video(tmp_path / f"{i}.mp4", [flashing(j).repeat(8, 0).repeat(8, 1) for j in range(120)])
        for i in "ab"
    ]
    rows = []
    for source in sources:
        rows += rows_of(str(source), times_of(source), range(120))
    table, folder = table_of(rows), tmp_path / "cut"
    command = ["clips", table, "--min-seconds", "0.4", "--max-seconds", "0.6", "--cut", str(folder)]
    process = subprocess.Popen([sys.executable, "-m", "faceq", *command], stdout=subprocess.PIPE)
    until = time.monotonic() + 60
    while time.monotonic() < until and not list(folder.glob("*.mp4")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    early = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.mp4")}
    assert early and not (folder / "clips.parquet").exists()
    assert all(frames_in(folder / name)[0] for name in early)
    assert main(command) == 0
    found = pq.read_table(folder / "clips.parquet").to_pylist()
    assert len(found) > len(early)
    assert sorted(os.listdir(folder)) == sorted(["_faceq", "clips.parquet", *(row["file"] for row in found)])
    assert {name: (folder / name).stat().st_mtime_ns for name in early} == early


@needs_mounts
def test_a_full_disk_is_an_error_of_each_clip(tmp_path, table_of):
    noise = [np.random.default_rng(i).integers(0, 255, (240, 320, 3), np.uint8) for i in range(30)]
    source = write_video(tmp_path / "v.mp4", noise)
    table = table_of(rows_of(str(source), times_of(source), range(30)))
    with small_disk(tmp_path / "disk", 256) as disk:
        (row,) = cut_all(table, disk / "cut")
        assert "No space left" in row["error"]
        assert sorted(os.listdir(disk / "cut")) == ["_faceq", "clips.parquet"]


def test_wrong_flags_are_refused(table_of, tmp_path):
    table = table_of(rows_of("v.mp4", [0.0], range(1)))
    for flags in (
        ["--cut-mode", "copy"],
        ["--crop", "face"],
        ["--cut", "d", "--crop-size", "64"],
        ["--cut", "d", "--crop", "face", "--crop-size", "65"],
        ["--cut", "d", "--crop", "face", "--cut-mode", "copy"],
        ["--cut", "s3://bucket/d"],
    ):
        assert main(["clips", table, *flags]) == 2
    with pytest.raises(UsageError, match="even number"):
        Way(crop="face", size=7)
