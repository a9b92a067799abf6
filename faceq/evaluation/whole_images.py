"""Score whole images, with or without faces, by DB-CNN-Lite or published DB-CNN."""

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faceq.iqa import checkpoint, torch_quality
from faceq.iqa.dbcnn_lite import VIEW_SIDE, DBCNNLite, scaled_picture
from faceq.iqa.dbcnn_lite_onnx import OnnxQuality
from faceq.iqa.dbcnn_vgg import DBCNN, check_sides
from faceq.iqa.torch_quality import TorchQuality
from faceq.models import zoo
from faceq.models.fetch import FetchOptions, fetch
from faceq.runtime.device import check_cuda, usable_cpus
from faceq.runtime.minibatch import Model, OomSafeBatcher, in_mini_batches

VIEWS = 10
"""Number of views of an image that DB-CNN-Lite scores."""

MINI_BATCH = 1
"""Views that go through DB-CNN-Lite together on a CPU. A view of 384 pixels takes 23 ms alone, and 27 ms in a
mini-batch of eight, whose feature maps do not fit into the cache (AMD EPYC with AVX-512, one thread)."""

Picture = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB of any size."""


@dataclass(frozen=True)
class Rater:
    """A scorer for whole images.

    rate: takes one image and returns its score, higher is better. Raises TooSmallError. at_once: number of
    threads that should call it at the same time. torch_threads: number of torch's threads in each call.
    """

    rate: Callable[[Picture], float]
    at_once: int = 1
    torch_threads: int = 1


def rater(model: str, options: FetchOptions, device: str = "cpu") -> Rater:
    """A scorer that runs a model from the zoo.

    Args:
        model: `dbcnn-lite` or a published DB-CNN; fetched if necessary.
        options: how models are fetched.
        device: `cpu` or `cuda`.

    Raises:
        DeviceError: `device` is `cuda`, but models cannot run on CUDA here.
    """
    if device == "cuda":
        check_cuda()
    found = checkpoint.identify(fetch(model, options), zoo.find(model).quality_scale)
    return rater_of(torch_quality.load(found, device), device)


def rater_of(network: DBCNNLite | DBCNN, device: str = "cpu") -> Rater:
    """A scorer that runs a network, in single precision, on all usable CPUs or on the GPU.

    On CPUs, DB-CNN-Lite scores as many images at once as there are CPUs, each in one thread. Published DB-CNN
    scores one image at a time in all threads, because it needs half a gigabyte of memory per megapixel. A GPU
    scores one image at a time, all its views together, while the CPUs decode others.

    Args:
        network: in eval mode on `device`.
        device: `cpu` or `cuda`.
    """
    cpus = usable_cpus()
    if isinstance(network, DBCNNLite) and device == "cpu":
        weights, layout = network.arrays(), network.layout
        quality = OnnxQuality(weights, MINI_BATCH, VIEW_SIDE, threads=1, layout=layout)
        mini_batches = functools.partial(in_mini_batches, quality, MINI_BATCH)
        return Rater(_mean_score(lite_views, mini_batches), at_once=cpus)
    views_of, count = (lite_views, VIEWS) if isinstance(network, DBCNNLite) else (own_size, 1)
    model = TorchQuality(network, device, half=False)
    if device == "cuda":
        batcher = OomSafeBatcher(model, count, "dbcnn")
        return Rater(_mean_score(views_of, _one_at_a_time(batcher)), at_once=cpus)
    return Rater(_mean_score(views_of, functools.partial(in_mini_batches, model, count)), torch_threads=cpus)


def _mean_score(views_of: Callable[[Picture], Picture], scores_of: Model) -> Callable[[Picture], float]:
    def rate(picture: Picture) -> float:
        views = views_of(picture)
        (scores,) = scores_of(views, np.ones(views.shape[:3], np.float32))
        return float(scores.mean(dtype=np.float64))

    return rate


def _one_at_a_time(model: Model) -> Model:
    """A model that several threads may call: a GPU has memory for one mini-batch."""
    lock = threading.Lock()

    def locked(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        with lock:
            return model(*arrays)

    return locked


def lite_views(picture: Picture, side: int = VIEW_SIDE) -> Picture:
    """Squares at the corners and in the middle of an image, as in DBCNNLite's training, and their mirror
    images: (VIEWS, side, side, 3) uint8 RGB, side at most 500.

    On held-out images, the mean score of squares of 384 pixels reaches an SRCC of 0.846 with MOS; the mean
    score of the whole image and its mirror image reaches 0.835.
    """
    whole = scaled_picture(picture)
    down, right = whole.shape[0] - side, whole.shape[1] - side
    corners = ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2))
    squares = np.stack([whole[y : y + side, x : x + side] for y, x in corners])
    return np.concatenate([squares, squares[:, :, ::-1]])


def own_size(picture: Picture) -> Picture:
    """The image as published DB-CNN scores it: whole and at its own size, (1, H, W, 3) uint8 RGB.

    Raises TooSmallError if a side is too short.
    """
    check_sides(picture)
    return picture[None]
