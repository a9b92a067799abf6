"""Describe images and faces by the features of networks that were trained on ImageNet only.

    python -m jobs.training.frozen_features --data DIR --faces FACES --init LITE0 LITE1 LITE2 --out FILE.npz

A network whose weights stay as they are cannot overfit to a thousand ratings. A kernel regression on its
features errs differently from the networks that are tuned, so their mean (`train_teacher`) is better than
each of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from faceq.iqa.dbcnn_lite import SemanticNet, masked_moments, register_imagenet, scaled_picture
from faceq.iqa.dbcnn_lite_weights import BOUND
from jobs.training.train_data import FaceLadders, read_faces, read_rated, to_tensor
from jobs.training.train_norms import blocks_of, fold, unfold

AT_ONCE = 16  # faces that go through a network together
WIDTH, RIDGE = 0.5, 0.05  # of the kernel, relative to the median squared distance; of the regression


class Frozen(torch.nn.Module):
    """The means and standard deviations of the maps of each stage of a published EfficientNet-Lite."""

    mean: Tensor
    std: Tensor

    def __init__(self, init: Path) -> None:
        super().__init__()
        blocks = blocks_of(init)
        following = [*(block[3] for block in blocks[1:]), None]
        ends = [at for at, block in enumerate(blocks) if block[3] != following[at]]
        self.network = SemanticNet(blocks, tuple(ends))
        unfold(self.network, init)
        fold(self.network)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        register_imagenet(self)

    @torch.inference_mode()
    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """(N, D) float32 of images (N, 3, H, W), 0..1, inside masks (N, 1, H, W)."""
        maps = self.network((images - self.mean) / self.std)
        return torch.cat([masked_moments(each, masks) for each in maps], dim=1)


def predicted(
    known: list[NDArray[np.float32]], ratings: NDArray[np.float32], asked: list[NDArray[np.float32]]
) -> NDArray[np.float64]:
    """Kernel ridge regression from features to ratings.

    Args:
        known: the features of the rated images, (N, D) for each network.
        ratings: (N,).
        asked: features of other images, (M, D) for each network.

    Returns:
        (M,), on the scale of the ratings.
    """
    pairs = [_bounded(*each) for each in zip(known, asked, strict=True)]
    among = np.mean([_distances(each, each) for each, _ in pairs], axis=0)
    to_asked = np.mean([_distances(other, each) for each, other in pairs], axis=0)
    width = WIDTH / np.median(among)
    kernel = np.exp(-width * among) + RIDGE * np.eye(len(ratings))
    middle = float(ratings.mean())
    return np.asarray(middle + np.exp(-width * to_asked) @ np.linalg.solve(kernel, ratings - middle))


def _bounded(
    known: NDArray[np.float32], asked: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both in standard deviations of the known ones, bounded."""
    mean, spread = known.mean(axis=0, dtype=float), known.std(axis=0, dtype=float) + 1e-4
    one, other = (BOUND * np.tanh((each - mean) / spread / BOUND) for each in (known, asked))
    return one, other


def _distances(some: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distances per feature, (len(some), len(others))."""
    squares = (some**2).sum(axis=1)[:, None] + (others**2).sum(axis=1)[None]
    return np.asarray((squares - 2 * some @ others.T) / some.shape[1])


def main() -> None:
    """Write the features: `images0`, `faces0`, `images1`…, one of each for each network, float32."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with live_challenge/")
    parser.add_argument("--faces", type=Path, required=True, help="folder that cut_faces wrote")
    parser.add_argument("--init", type=Path, nargs="+", required=True, help="EfficientNet-Lite checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="file for the features")
    options = parser.parse_args()
    rated, faces = read_rated(options.data / "live_challenge"), read_faces(options.faces)
    found: dict[str, NDArray[np.float32]] = {}
    for at, init in enumerate(options.init):
        network = Frozen(init)
        pictures = (to_tensor([scaled_picture(image)]) for image in rated.images)
        found[f"images{at}"] = _gathered(
            network(picture, torch.ones_like(picture[:, :1]))
            for picture in track(pictures, f"images, {init.stem}", total=len(rated.images))
        )
        found[f"faces{at}"] = _gathered(_of_faces(network, faces, f"faces, {init.stem}"))
    np.savez(options.out, **found)  # type: ignore[arg-type]


def _of_faces(network: Frozen, faces: FaceLadders, title: str) -> Iterable[Tensor]:
    """The features of the first clean crop of each face."""
    rows = np.arange(len(faces.falls))
    for start in track(range(0, len(rows), AT_ONCE), title):
        yield network(*faces.tensors(rows[start : start + AT_ONCE], slice(0, 1)))


def _gathered(parts: Iterable[Tensor]) -> NDArray[np.float32]:
    return np.asarray(torch.cat(list(parts)).numpy(), np.float32)


if __name__ == "__main__":
    main()
