"""Scores of whole images: the views, mini-batches of one shape, threads, and images that are too small."""

import copy
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from faceq.cli import main
from faceq.errors import DeviceError, UsageError
from faceq.evaluation import iqa, whole_images
from faceq.iqa.dbcnn_lite import DBCNNLite, load_dbcnn_lite, scaled_picture
from faceq.iqa.dbcnn_lite_weights import DBCNN_LITE_WEIGHTS, Layout, Weights
from faceq.iqa.dbcnn_vgg import DBCNN, published_tensor
from faceq.iqa.torch_quality import TorchQuality
from faceq.models.fetch import FetchOptions
from faceq.runtime import device
from faceq.runtime.parallel import in_threads
from faceq.runtime.threads import limit_threads

TORCH_TOLERANCE = 1e-3
"""Points by which the score from ONNX Runtime may differ from that from torch."""


@pytest.fixture(scope="module")
def lite() -> DBCNNLite:
    return load_dbcnn_lite(DBCNN_LITE_WEIGHTS)


def test_dbcnn_lite_sees_corners_middle_and_their_mirror_images(astronaut) -> None:
    whole, views = scaled_picture(astronaut[:300]), whole_images.lite_views(astronaut[:300])
    assert whole.shape == (500, 853, 3) and views.shape == (whole_images.VIEWS, 384, 384, 3)
    assert np.array_equal(views[0], whole[:384, :384]) and np.array_equal(views[3], whole[-384:, -384:])
    assert np.array_equal(views[4], whole[58:442, 234:618])
    assert np.array_equal(views[5:], views[:5, :, ::-1])
    assert whole_images.lite_views(astronaut, side=256).shape == (whole_images.VIEWS, 256, 256, 3)


def test_scores_are_those_of_the_network_on_one_image(lite, astronaut) -> None:
    rater = whole_images.rater_of(lite)
    pictures = [astronaut, astronaut[100:300], np.ascontiguousarray(astronaut[::-1])]
    with limit_threads(1):
        scores = list(in_threads(rater.rate, pictures, 3))
        assert scores == [rater.rate(picture) for picture in pictures]  # to the last bit
    views = torch.from_numpy(whole_images.lite_views(astronaut)).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode(), limit_threads(1):
        wanted = float(lite(views, torch.ones_like(views[:, :1])).mean())
    assert scores[0] == pytest.approx(wanted, abs=TORCH_TOLERANCE)


def test_dbcnn_lite_uses_all_cpus_in_mini_batches_of_one_shape(lite, astronaut, monkeypatch) -> None:
    monkeypatch.setattr(whole_images, "usable_cpus", lambda: 3)
    shapes, started, waiting = set(), [], threading.Barrier(3, timeout=30)

    class Recorded:
        def __init__(self, weights: Weights, mini_batch: int, side: int, threads: int, layout: Layout):
            started.append(threads)
            assert layout == lite.layout
            assert mini_batch == whole_images.MINI_BATCH and whole_images.VIEWS % mini_batch == 0

        def __call__(self, views: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray]:
            waiting.wait()  # breaks unless three images are scored at the same time
            assert masks.shape == views.shape[:3] and masks.min() == 1
            shapes.add(views.shape)
            return (views.mean(axis=(1, 2, 3), dtype=np.float32),)

    monkeypatch.setattr(whole_images, "OnnxQuality", Recorded)
    rater = whole_images.rater_of(lite)
    assert (rater.at_once, rater.torch_threads, started) == (3, 1, [1])
    pictures = [astronaut, astronaut[:300], astronaut[:, :200]]
    scores = list(in_threads(rater.rate, pictures, rater.at_once))
    assert shapes == {(whole_images.MINI_BATCH, 384, 384, 3)}
    means = [whole_images.lite_views(picture).mean() for picture in pictures]
    assert scores == pytest.approx(means, abs=1e-3)


def test_published_dbcnn_scores_one_image_at_its_own_size_in_all_threads(astronaut) -> None:
    network = DBCNN().eval()
    with torch.inference_mode():
        wanted = float(network(published_tensor(astronaut[:100, :150]))[0])
    rater = whole_images.rater_of(network)
    assert (rater.at_once, rater.torch_threads) == (1, device.usable_cpus())
    assert rater.rate(astronaut[:100, :150]) == pytest.approx(wanted, abs=1e-3)


@pytest.fixture
def rated(tmp_path: Path) -> tuple[str, str]:
    """Ten rated images of 40x16 pixels."""
    (tmp_path / "mos.csv").write_text(
        "\n".join(["image,mos", *(f"{number}.png,{number}" for number in range(10))])
    )
    for number in range(10):
        Image.new("RGB", (40, 16)).save(tmp_path / f"{number}.png")
    return str(tmp_path), str(tmp_path / "mos.csv")


def test_a_picture_too_small_for_vgg_is_named(rated) -> None:
    rater = whole_images.rater_of(DBCNN().eval())
    assert math.isfinite(rater.rate(np.zeros((16, 16, 3), np.uint8)))
    Image.new("RGB", (40, 15)).save(Path(rated[0]) / "2.png")
    with pytest.raises(UsageError, match=r"2\.png: is 40x15 pixels: .* 16 or more per side"):
        iqa.evaluate(*rated, rater)


def test_on_a_gpu_one_image_is_scored_while_others_are_decoded(lite, astronaut, monkeypatch) -> None:
    """On this machine's CPU, by the same code."""
    alone = threading.Lock()

    class OnCpu(TorchQuality):
        def __init__(self, network: DBCNNLite, place: str, half: bool):
            assert (place, half) == ("cuda", False)
            super().__init__(network, "cpu", half)

        def __call__(self, views: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray]:
            assert len(views) == whole_images.VIEWS
            assert alone.acquire(blocking=False)
            try:
                return super().__call__(views, masks)
            finally:
                alone.release()

    small = whole_images.lite_views(astronaut, side=96)
    monkeypatch.setattr(whole_images, "TorchQuality", OnCpu)
    monkeypatch.setattr(whole_images, "lite_views", lambda picture: small)
    monkeypatch.setattr(whole_images, "usable_cpus", lambda: 2)
    rater = whole_images.rater_of(copy.deepcopy(lite), "cuda")
    assert rater.at_once == 2
    (wanted,) = TorchQuality(copy.deepcopy(lite), "cpu", False)(small, np.ones(small.shape[:3], np.float32))
    assert list(in_threads(rater.rate, [astronaut] * 4, 2)) == pytest.approx([wanted.mean()] * 4, abs=1e-3)


@pytest.mark.skipif(device.missing() is None, reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_an_error(rated, capsys) -> None:
    assert main.main(["evaluate", "iqa", *rated, "--set", "dbcnn.device=cuda"]) == DeviceError.exit_status
    assert "device: cuda is not available: " in capsys.readouterr().err


@pytest.mark.skipif(device.missing() is not None, reason=f"no GPU that models can run on: {device.missing()}")
def test_scores_from_a_gpu_are_those_of_the_cpu(astronaut) -> None:
    cuda, cpu = (whole_images.rater("dbcnn-lite", FetchOptions(), where) for where in ("cuda", "cpu"))
    assert cuda.rate(astronaut) == pytest.approx(cpu.rate(astronaut), abs=0.01)
