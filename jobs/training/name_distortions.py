"""Teach S-CNN, DB-CNN-Lite's distortion network, to tell 39 synthetic distortions apart.

    python -m jobs.training.name_distortions --data DIR --out scnn.pt

DIR holds `kodak24/` and `portraits_1024/`: sharp images, which are distorted synthetically. The script writes
the weights of S-CNN with its norms folded in. The trainings of the teacher and of DB-CNN-Lite start from
them.

Source: Zhang et al., "Blind Image Quality Assessment Using a Deep Bilinear Convolutional Neural Network",
IEEE TCSVT 30(1), 2020, section III-A.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import skimage
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import Dataset

from faceq.evaluation.distortions import Image
from faceq.iqa.dbcnn_lite import DistortionNet
from faceq.iqa.dbcnn_lite_weights import SCNN_CHANNELS, SECOND
from jobs.training.train_data import (
    keep_freed_memory,
    portraits,
    prefetched,
    random_crop,
    read_rgb,
    resize,
    to_tensor,
)
from jobs.training.train_distortions import NAMED
from jobs.training.train_norms import folded

SEED = 20261125
EPOCHS, STEPS = 8, 100
BATCH, SIDE, DEGRADED_SIDE = 64, 112, 256
PORTRAIT_SIDE = 512  # to which portraits are reduced, which makes them sharper

CROPS_OF_ONE = 4
"""Crops per degraded image: degrading an image takes longer than a training step on it."""


def pristine_images(data: Path) -> list[Image]:
    """Kodak's images, the portraits that are not left out, and two images that scikit-image ships."""
    kodak = [read_rgb(path) for path in sorted((data / "kodak24").glob("*.png"))]
    others = [resize(read_rgb(path), PORTRAIT_SIDE) for path in portraits(data, left_out=False)]
    return [*kodak, *others, skimage.data.coffee(), skimage.data.chelsea()]


class NamingBatches(Dataset[tuple[Tensor, Tensor]]):
    """Small crops, each with one of the 39 distortions, and the number of this distortion.

    Item i of an epoch depends only on the seed, the epoch and i.
    """

    def __init__(self, pristine: list[Image], seed: int, epoch: int, steps: int) -> None:
        self.pristine, self.seed, self.epoch, self.steps = pristine, seed, epoch, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, 1, self.epoch, index))
        crops: list[Image] = []
        names: list[int] = []
        for name in rng.integers(0, len(NAMED), BATCH // CROPS_OF_ONE):
            picture = self.pristine[rng.integers(len(self.pristine))]
            part = random_crop(picture, DEGRADED_SIDE, rng)
            part = NAMED[name](part, int(rng.integers(2**31)))
            crops += [random_crop(part, SIDE, rng) for _ in range(CROPS_OF_ONE)]
            names += [int(name)] * CROPS_OF_ONE
        return to_tensor(crops), torch.tensor(names)


def network() -> nn.Sequential:
    """S-CNN with batch norms: each layer has a convolution, a norm and a ReLU."""
    layers: list[nn.Module] = []
    channels = 3
    for out, stride in SECOND.scnn:
        convolution = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        layers.append(nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU()))
        channels = out
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def learn(pristine: list[Image]) -> DistortionNet:
    """Learn to tell the distortions apart."""
    torch.manual_seed(SEED)
    layers, classifier = network(), nn.Linear(SCNN_CHANNELS, len(NAMED))
    optimiser = torch.optim.AdamW([*layers.parameters(), *classifier.parameters()], lr=3e-3)
    schedule = OneCycleLR(optimiser, 6e-3, total_steps=EPOCHS * STEPS)
    layers.train()
    for epoch in range(EPOCHS):
        right = total = 0.0
        for images, names in prefetched(NamingBatches(pristine, SEED, epoch, STEPS)):
            # Approximately the normalisation of the whole model, which differs by colour channel.
            logits = classifier(layers((images - 0.45) / 0.225).mean(dim=(2, 3)))
            loss = F.cross_entropy(logits, names)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            right += (logits.argmax(1) == names).float().mean().item()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / STEPS:.3f}, named rightly {right / STEPS:.1%}", flush=True)
    made = DistortionNet(SECOND.scnn)
    for layer, trained in zip(made, layers, strict=True):
        convolution, norm, _ = trained.children()
        assert isinstance(norm, nn.BatchNorm2d)
        weight, bias = folded(convolution.state_dict()["weight"], norm)
        layer.load_state_dict({"0.weight": weight, "0.bias": bias})
    return made


def main() -> None:
    """Train and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with kodak24/ and portraits_1024/")
    parser.add_argument("--out", type=Path, required=True, help="file for the weights")
    options = parser.parse_args()
    keep_freed_memory(True)
    torch.save(learn(pristine_images(options.data)).state_dict(), options.out)


if __name__ == "__main__":
    main()
