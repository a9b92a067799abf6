"""Videos that are read in parts give the same frames as when they are read as a whole."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
from parts import read_parts, split_video
from videos import noise, write_video

from faceq.config import Video
from faceq.errors import FaceqError
from faceq.sources import Findings, read_shards
from faceq.sources.listing import Shard, list_shards
from faceq.sources.video.pieces import UndividedError
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK

FRAMES = noise(70)
CLOSED = {"x264-params": "open-gop=0"}


def shard_of(path: Path) -> Shard:
    (shard,) = list_shards([str(path)], S3Settings())
    return shard


def check(path: Path, count: int = 5, **sampling) -> None:
    """Compare the frames with those of the whole video."""
    shard, how, findings = shard_of(path), Video(**sampling), Findings()
    whole = list(read_shards([shard], S3Settings(), sampling=how, findings=findings))
    parts = split_video(shard, count)
    frames, found, finished = read_parts(parts, sampling=how)
    assert len(parts) >= 3 and frames == whole
    assert (found.notes, finished) == (findings.notes, findings.finished)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v.mp4", {"g": "8", "bf": "3", **CLOSED}),
        ("v.mov", {"g": "8", "bf": "0"}),
        ("v.mkv", {"g": "8", "bf": "3", **CLOSED}),
        ("annexb.mkv", {"g": "10", "bf": "16", "x264-params": "b-pyramid=normal:ref=5:scenecut=0"}),
        ("v.mp4", {"codec": "libx264", "g": "8", "pixels": "yuv444p10le"}),
        ("v.mp4", {"codec": "mpeg4", "g": "8", "bf": "0"}),
        ("v.webm", {"codec": "libvpx-vp9", "g": "8", "auto-alt-ref": "1", "lag-in-frames": "10"}),
        ("v.mp4", {"codec": "libx265", "x265-params": "keyint=8:open-gop=0:log-level=none"}),
        ("v.mkv", {"codec": "libsvtav1", "g": "8", "svtav1-params": "pred-struct=1"}),
    ],
)
def test_the_parts_hold_the_frames_of_the_whole(tmp_path, name, options):
    check(write_video(tmp_path / name, FRAMES, **options))


@pytest.mark.parametrize("sampling", [{"every": 3}, {"every": 50}, {"fps": 7}, {"fps": 0.7}, {"fps": 24.9}])
def test_sampled_frames_are_the_same(tmp_path, sampling):
    chance = random.Random(1)
    times = np.cumsum([chance.choice([10, 33, 40, 400]) for _ in FRAMES]).tolist()
    for name in ("v.mp4", "v.mkv"):
        check(write_video(tmp_path / name, FRAMES, g="8", times=times, **CLOSED), count=9, **sampling)


def test_turned_videos_and_odd_starts(tmp_path):
    check(write_video(tmp_path / "turned.mp4", FRAMES, g="8", rotation=(90,), **CLOSED))
    times = [5000 + 40 * index for index in range(len(FRAMES))]
    check(write_video(tmp_path / "late.mkv", FRAMES, g="8", times=times, **CLOSED), count=12)


def test_key_frames_far_apart_leave_some_pieces_empty(tmp_path):
    check(write_video(tmp_path / "v.mp4", FRAMES, g="20", **CLOSED), count=40)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v.mp4", {"g": "8", "bf": "3", "x264-params": "open-gop=1"}),
        ("v.mp4", {"codec": "libx265", "x265-params": "keyint=8:open-gop=1:bframes=4:log-level=none"}),
        ("v.mp4", {"codec": "mpeg4", "g": "8", "bf": "2"}),
        ("v.mp4", {"g": "8", "x264-params": "intra-refresh=1"}),
        ("v.mp4", {"g": "8", "flags": "+ildct+ilme"}),
        ("v.mp4", {"g": "8", "muxer": {"movflags": "frag_keyframe+empty_moov"}}),
        ("v.webm", {"codec": "libvpx", "g": "8", "auto-alt-ref": "1", "lag-in-frames": "10"}),
        ("v.ts", {"g": "8"}),
        ("v.avi", {"codec": "mpeg4", "g": "8"}),
    ],
)
def test_what_may_differ_is_not_divided(tmp_path, name, options):
    path = write_video(tmp_path / name, FRAMES, **options)
    with pytest.raises(UndividedError):
        split_video(shard_of(path), 4)


def test_joined_videos_are_not_divided(tmp_path):
    for name in ("v.mp4", "v.mkv"):
        path = write_video(tmp_path / name, FRAMES, g="8", **CLOSED)
        path.write_bytes(path.read_bytes() * 2)
        with pytest.raises(FaceqError):
            split_video(shard_of(path), 4)


def test_damaged_videos_are_the_same_or_not_divided(tmp_path):
    chance, divided = random.Random(3), 0
    for name in ("v.mp4", "v.mkv"):
        data = write_video(tmp_path / name, FRAMES, g="8", **CLOSED).read_bytes()
        for _ in range(25):
            damaged = bytearray(data[: chance.choice([len(data), chance.randrange(len(data))])])
            for _ in range(chance.choice([0, 1, 3])):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            (tmp_path / name).write_bytes(damaged)
            shard = shard_of(tmp_path / name)
            try:
                parts = split_video(shard, 4)
            except FaceqError:
                continue
            divided += 1
            assert read_parts(parts)[0] == list(read_shards([shard], S3Settings(), sampling=Video()))
    print(f"{divided} of 50 were divided")
    assert divided


def test_a_video_that_was_changed_after_it_was_divided_is_a_break(tmp_path):
    path = write_video(tmp_path / "v.mp4", FRAMES, g="8", **CLOSED)
    parts = split_video(shard_of(path), 4)
    os.utime(path, ns=(1, 1))
    for part in parts:
        (frame,) = read_shards([part], S3Settings())
        assert frame.frame_index == BREAK and "was changed while it was read" in frame.error
