"""The shots of videos: cuts, fades and dissolves are found, flashes and movement are not."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scenes import SIZE, Images, begins_of, dissolve, fade, scene
from videos import read, write_video

from faceq.sources import video
from faceq.sources.video.pieces import look, read_span, spans
from faceq.sources.video.shots import content, find_by

MEMORY = 1 << 30


def begins(path: Path) -> list[int]:
    """The indices of frames at which a shot begins, but for the first one."""
    return begins_of(read(path))


def test_cuts_are_found_to_the_frame(tmp_path):
    parts = [scene(seed, count) for seed, count in enumerate((30, 12, 25, 40, 3, 30))]
    path = write_video(tmp_path / "cuts.mp4", list(itertools.chain(*parts)))
    assert begins(path) == list(itertools.accumulate(map(len, parts[:-1])))


@pytest.mark.parametrize("length", [10, 16, 24])
def test_a_dissolve_is_one_boundary_inside_it(tmp_path, length):
    path = write_video(tmp_path / "v.mp4", dissolve(scene(1, 60, 0.1), scene(2, 60, 0.1), length))
    (at,) = begins(path)
    assert 60 - length <= at <= 60


@pytest.mark.parametrize("length", [4, 8, 12])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_fade_to_black_and_back_is_one_boundary(tmp_path, length, seed):
    """Also if the same picture comes back."""
    path = write_video(tmp_path / "v.mp4", fade(scene(1, 60, 0), scene(seed, 60, 0), length))
    (at,) = begins(path)
    assert 60 - length <= at <= 60 + length


def _flashes(images: Images) -> Images:
    for at in (15, 40, 41):
        images[at] = 255 - (255 - images[at]) // 4
    return images


def _brightens(images: Images) -> Images:
    return [(image * min(1, 0.4 + at / 100)).astype(np.uint8) for at, image in enumerate(images)]


def _repeats(images: Images) -> Images:
    return [images[at // 2] for at in range(len(images))]


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(scene(1, 80, 6.0), id="fast pan"),
        pytest.param(_flashes(scene(2, 80)), id="flashes"),
        pytest.param(_brightens(scene(3, 80)), id="brightens"),
        pytest.param(_repeats(scene(4, 80, 4.0)), id="every frame twice"),
        pytest.param(scene(5, 1) * 80, id="still"),
        pytest.param([np.zeros((*SIZE, 3), np.uint8)] * 80, id="black"),
        pytest.param(scene(6, 1), id="one frame"),
        pytest.param([np.zeros((*SIZE, 3), np.uint8)] * 9 + scene(7, 2), id="black, then two frames"),
    ],
)
def test_a_single_shot_is_not_divided(images, tmp_path):
    expected = [9] if len(images) == 11 else []
    assert begins(write_video(tmp_path / "v.mp4", images)) == expected


def test_sampling_and_done_frames_keep_the_numbers(tmp_path):
    images = [*scene(1, 33), *scene(2, 31), *scene(3, 36)]
    path = write_video(tmp_path / "v.mp4", images)
    every = {frame.frame_index: frame.shot for frame in read(path)}
    sampled = {frame.frame_index: frame.shot for frame in read(path, every=7)}
    assert sampled == {at: every[at] for at in range(0, 100, 7)} and set(sampled.values()) == {0, 1, 2}
    done = {frame.id for frame in read(path, every=2)}
    rest = {frame.frame_index: frame.shot for frame in read(path, done=done) if not frame.done}
    assert rest == {at: every[at] for at in range(1, 100, 2)}


def test_none_leaves_the_column_empty(tmp_path):
    path = write_video(tmp_path / "v.mp4", [*scene(1, 20), *scene(2, 20)])
    assert {frame.shot for frame in read(path, shots="none")} == {None}


def test_frames_before_a_damage_come_first(tmp_path):
    """The frames that are held back are not lost."""
    path = write_video(tmp_path / "v.mkv", [*scene(1, 40), *scene(2, 40)])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    *frames, end = read(path)
    assert len(frames) > 41 and end.frame_index == -1 and end.error
    assert [frame.shot for frame in frames[38:42]] == [0, 0, 1, 1]
    assert [frame.id for frame in frames] == [frame.id for frame in read(path, shots="none")[:-1]]


def test_few_frames_are_held_back(tmp_path):
    path = write_video(tmp_path / "v.mp4", scene(1, 60))
    taken = 0

    def counted() -> Iterator[video.VideoFrame]:
        nonlocal taken
        for frame in video.read(file):
            taken += 1
            yield frame

    with path.open("rb") as file:
        for given, _ in enumerate(video.numbered(counted(), content.Content(), lambda frame: None), 1):
            assert taken - given < content.BLOCK + content.REACH + content.AROUND


@pytest.mark.parametrize("pieces", [2, 3, 7])
def test_pieces_of_a_video_have_the_shots_of_the_whole(tmp_path, pieces):
    """Key frames lie at cuts and elsewhere, also inside a dissolve."""
    images = [
        *scene(1, 40),
        *dissolve(scene(2, 50, 0), scene(3, 60, 0), 20),
        *fade(scene(4, 30, 0), scene(5, 40, 0), 8),
    ]
    path = write_video(tmp_path / "v.mp4", images, g="13", bf="0", **{"x264-params": "scenecut=0"})
    with path.open("rb") as file:
        finder = find_by("content")
        whole = [shot for _, shot in video.numbered(video.read(file), finder, lambda frame: None)]
        assert whole[-1] == 4
        found = [look(file, number, pieces, MEMORY, finder) for number in range(pieces)]
        divided = spans(found, finder)
        assert len(divided) == pieces
        parts = [frame.shot for span in divided for frame in read_span(file, span, MEMORY)]
    assert parts == whole
    with path.open("rb") as file:
        (span, *_) = spans([look(file, number, pieces, MEMORY) for number in range(pieces)])
        assert (span.shot, span.cuts) == (None, ())
