"""DB-CNN as published: VGG-16 and S-CNN, with the parameter names of the public checkpoints.

Source: Zhang, Ma, Yan, Deng, Wang, "Blind Image Quality Assessment Using a Deep Bilinear
Convolutional Neural Network", IEEE TCSVT 30(1), 2020. Layers, names and the order of operations are
those of the authors' PyTorch release (zwx8981/DBCNN-PyTorch: SCNN.py, DBCNN.py) and of pyiqa
(chaofengc/IQA-PyTorch: pyiqa/archs/dbcnn_arch.py), whose checkpoints these are.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from faceq.errors import FaceqError
from faceq.iqa.dbcnn_lite import position_weights, register_imagenet

# The channels of VGG-16's thirteen 3x3 convolutions; "pool" halves the map. The last pool is left out.
VGG16_LAYERS: tuple[int | str, ...] = (
    *(64, 64, "pool"),
    *(128, 128, "pool"),
    *(256, 256, 256, "pool"),
    *(512, 512, 512, "pool"),
    *(512, 512, 512),
)
SEMANTIC_CHANNELS = 512

MIN_SIDE = 16
"""Minimum side of an image, in pixels: VGG-16 halves an image four times."""

# S-CNN's nine convolutions, 3x3, as (channels, stride).
SCNN_LAYERS = ((48, 1), (48, 2), (64, 1), (64, 2), (64, 1), (64, 2), (128, 1), (128, 1), (128, 2))
DISTORTION_CHANNELS = 128
DISTORTIONS = 39

POINTS = 100.0
"""The value on faceq's scale of the best score on a checkpoint's own scale."""


def _vgg16() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for layer in VGG16_LAYERS:
        if isinstance(layer, int):
            layers += [nn.Conv2d(channels, layer, 3, padding=1), nn.ReLU(inplace=True)]
            channels = layer
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _normed(channels: int, out: int, kernel: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    ]


def _scnn_features() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for out, stride in SCNN_LAYERS:
        layers += _normed(channels, out, 3, stride)
        channels = out
    return nn.Sequential(*layers)


class SCNN(nn.Module):
    """The distortion network alone, trained to classify which of 39 distortions was applied to an image."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = _scnn_features()
        self.projection = nn.Sequential(*_normed(DISTORTION_CHANNELS, 256, 1, 1), *_normed(256, 256, 1, 1))
        self.classifier = nn.Linear(256, DISTORTIONS)
        register_imagenet(self)

    def forward(self, images: Tensor) -> Tensor:
        """Classify the distortion.

        Args:
            images: (N, 3, H, W) float32 RGB, 0..1. The network was trained on 224x224. At this size the
                published 14x14 average is the mean over all positions; here the mean over all positions is
                used at any size.

        Returns:
            (N, 39) float32 logits.
        """
        features = self.features((images - self.mean) / self.std)
        projected = self.projection(features.mean(dim=(2, 3), keepdim=True))
        logits: Tensor = self.classifier(projected.flatten(1))
        return logits


class DBCNN(nn.Module):
    """DB-CNN: the product of VGG-16's and S-CNN's last feature maps, averaged over all positions, and a head.

    Args:
        best: the best score on the checkpoint's own scale, which starts at 0 and is not bounded: 1 for
            pyiqa's current KonIQ-10k checkpoint, 100 for that of 2022 and for the LIVE Challenge checkpoint,
            9 for TID2013.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, best: float = 1.0) -> None:
        super().__init__()
        self.best = best
        self.features1 = _vgg16()
        self.features2 = _scnn_features()
        self.fc = nn.Linear(SEMANTIC_CHANNELS * DISTORTION_CHANNELS, 1)
        register_imagenet(self)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score images at their own size, without resizing.

        Args:
            images: (N, 3, H, W) float32 RGB, 0..1, H and W at least 16.
            mask: (N, 1, H, W) float32, 0..1: the weight of each position. None: equal weights, as published;
                a mask of ones gives the same result.

        Returns:
            (N,) float32, 0 (bad) to 100 (excellent), not clipped. With an empty mask the score is a constant
            and has no meaning.
        """
        return self.rate(self.maps(images), mask)

    def rate(self, maps: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Scores from feature maps, inside the mask; `mask` and the result as in `forward`."""
        # The networks may run in half precision, but the 65,536 products need single precision: they are
        # small and are summed over all positions.
        with torch.autocast(maps[0].device.type, enabled=False):
            return POINTS / self.best * self.head(self.pool(*maps, mask))

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Both feature maps of images (N, 3, H, W) RGB 0..1, at the size of VGG's map.

        They are (N, 512, h, w) and (N, 128, h, w), and never negative.

        When halving a side, VGG rounds down and S-CNN rounds up. If a side is not a multiple of 16, S-CNN's
        map is therefore larger; it is resized to VGG's size with aligned corners.
        """
        normalised = (images - self.mean) / self.std
        semantic, distortion = self.features1(normalised), self.features2(normalised)
        size = semantic.shape[2:]
        if distortion.shape[2:] != size:
            distortion = F.interpolate(distortion, size, mode="bilinear", align_corners=True)
        return semantic, distortion

    def pool(self, semantic: Tensor, distortion: Tensor, mask: Tensor | None) -> Tensor:
        """Square root of the mean outer product of the maps, L2-normalised: (N, 512 * 128)."""
        at_least_single = torch.promote_types(semantic.dtype, torch.float32)
        semantic, distortion = semantic.to(at_least_single), distortion.to(at_least_single)
        height, width = semantic.shape[2:]
        weighted = (
            semantic / (height * width)
            if mask is None
            else semantic * position_weights(mask, (height, width))
        )
        product = weighted.flatten(2) @ distortion.flatten(2).transpose(1, 2)
        return F.normalize((product.flatten(1) + 1e-8).sqrt(), dim=1)

    def head(self, pooled: Tensor) -> Tensor:
        """Scores (N,) on the checkpoint's own scale, about 0 to `best`, from pooled values (N, 512 * 128)."""
        score: Tensor = self.fc(pooled).squeeze(1)
        return score


class TooSmallError(FaceqError, ValueError):
    """An image is too small for the network. The message states its size and the minimum."""


def check_sides(picture: NDArray[np.uint8]) -> None:
    """Raises TooSmallError if a side of an image (H, W, 3) is shorter than MIN_SIDE."""
    height, width = picture.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise TooSmallError(f"is {width}x{height} pixels: published DB-CNN needs {MIN_SIDE} or more per side")


def published_tensor(picture: NDArray[np.uint8]) -> Tensor:
    """Prepare an image (H, W, 3) uint8 RGB for published DB-CNN: at its own size, (1, 3, H, W), 0..1.

    Raises TooSmallError if a side is shorter than MIN_SIDE.
    """
    check_sides(picture)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def load_dbcnn(path: str | Path, device: str = "cpu", best: float = 1.0) -> DBCNN:
    """Load DB-CNN from a public checkpoint, in eval mode on `device`.

    Args:
        path: pyiqa's `DBCNN_KonIQ10k-2de81c0a.pth` (a state dict under `params`), a state dict saved by the
            authors' code (`module.` before each name), or safetensors with the same names.
        device: `cpu` or `cuda`.
        best: the best score on its scale, see `DBCNN`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint, or its keys or shapes are not those of this network.
    """
    model = DBCNN(best)
    _fill(model, Path(path))
    return model.eval().to(device)


def load_scnn(path: str | Path, device: str = "cpu") -> SCNN:
    """Load S-CNN from the authors' `scnn.pkl` or pyiqa's `DBCNN_scnn-7ea73d75.pth`; otherwise like
    `load_dbcnn`."""
    model = SCNN()
    _fill(model, Path(path))
    return model.eval().to(device)


def _fill(model: nn.Module, path: Path) -> None:
    """Load the file's weights into the model, as float32. Raises ValueError if they do not fit."""
    weights = read_state(path)
    expected = model.state_dict()
    # Batch norm counts its batches for training only, and older releases of PyTorch did not store the count.
    needed = {key for key in expected if not key.endswith(".num_batches_tracked")}
    missing, extra = sorted(needed - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or extra:
        raise ValueError(f"dbcnn: {path} does not fit: missing keys {missing}, extra keys {extra}")
    misshapen = [
        f"{key} {tuple(tensor.shape)}, expected {tuple(expected[key].shape)}"
        for key, tensor in weights.items()
        if tensor.shape != expected[key].shape
    ]
    if misshapen:
        raise ValueError(f"dbcnn: {path} does not fit: wrong shapes: {'; '.join(misshapen)}")
    model.load_state_dict(expected | weights)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict from a checkpoint file, without `params` or `module.` around it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it contains no state dict, or anything but plain tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"dbcnn: {path} not found: give a DB-CNN checkpoint")
    _check_size(path)
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a broken byte can make an unpickler raise anything
        raise ValueError(
            f"dbcnn: {path} is not a checkpoint of plain tensors ({type(error).__name__}): "
            "download it again, or save only its state dict"
        ) from error
    state = content["params"] if isinstance(content, Mapping) and "params" in content else content
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"dbcnn: {path} has no state dict, neither at the top level nor under 'params'")
    return {str(key).removeprefix("module."): tensor for key, tensor in state.items()}


def _check_size(path: Path) -> None:
    """Raises ValueError if a checkpoint is compressed: PyTorch never compresses checkpoints, but it unpacks a
    compressed one, and 3 MB may become 3 GB."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile:
        return  # older releases did not write an archive: PyTorch checks the file
    if size > path.stat().st_size:
        raise ValueError(
            f"dbcnn: {path} would unpack to {size:,} bytes, but checkpoints are not compressed: "
            "download it again"
        )
