"""DB-CNN-Lite: predicts human ratings of the quality of an image, or of the part of it inside a mask.

DB-CNN multiplies the feature maps of two networks: one for the content of the image, the other for its
distortions. DB-CNN-Lite uses EfficientNet-Lite0 instead of VGG-16 for the first and a thinner S-CNN for the
second. It averages the product inside a mask, so that the background has no influence, and adds the mean and
the standard deviation of the feature maps. `dbcnn_lite_weights.Layout` has its two versions.

Source: Zhang, Ma, Yan, Deng, Wang, "Blind Image Quality Assessment Using a Deep Bilinear
Convolutional Neural Network", IEEE TCSVT 30(1), 2020; Tan, Le, "EfficientNet", ICML 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from faceq.iqa.dbcnn_lite_weights import (
    BOUND,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PRODUCT_SCALE,
    PRODUCTS,
    RATING_CENTRE,
    RATING_SPREAD,
    SEMANTIC_CHANNELS,
    STEM_CHANNELS,
    Block,
    Layout,
    Weights,
    layout_of,
    read,
    same_padding,
)

PICTURE_SIDE = 500  # shorter side, pixels: that of the rated images
VIEW_SIDE = 384  # side, pixels, of the square parts of these images that were used for training


class SameConv2d(nn.Conv2d):
    """A convolution with the padding of `same_padding`."""

    def forward(self, input: Tensor) -> Tensor:
        sides = (input.shape[3], input.shape[2])  # the last axis first, as in `F.pad`
        axes = zip(sides, self.kernel_size[::-1], self.stride[::-1], strict=True)
        pads = [pad for size, kernel, stride in axes for pad in same_padding(size, kernel, stride)]
        return super().forward(F.pad(input, pads) if any(pads) else input)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project. The result is added to the input if the shapes match."""

    def __init__(self, channels: int, kernel: int, stride: int, expansion: int, out: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.stride = stride
        self.residual = stride == 1 and channels == out
        self.expand: nn.Module = nn.Identity()
        if expansion != 1:
            self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1), nn.ReLU6())
        self.depthwise = nn.Sequential(SameConv2d(wide, wide, kernel, stride, groups=wide), nn.ReLU6())
        self.project = nn.Conv2d(wide, out, 1)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(features)))
        return out + features if self.residual else out


class SemanticNet(nn.Module):
    """EfficientNet-Lite without its classifier. Each batch norm is folded into the convolution before it.

    Args:
        blocks: its blocks.
        levels: positions of the blocks whose maps are returned.
    """

    def __init__(self, blocks: Sequence[Block], levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = levels
        channels = STEM_CHANNELS
        self.stem = nn.Sequential(SameConv2d(3, channels, 3, 2), nn.ReLU6())
        modules: list[nn.Module] = []
        for kernel, stride, expansion, out in blocks:
            modules.append(InvertedResidual(channels, kernel, stride, expansion, out))
            channels = out
        self.blocks = nn.ModuleList(modules)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) normalised RGB to the maps of the chosen levels."""
        features = self.stem(images)
        levels = []
        for index, block in enumerate(self.blocks):
            features = block(features)
            if index in self.levels:
                levels.append(features)
        return levels


class DistortionNet(nn.Sequential):
    """A thinner S-CNN: (N, 3, H, W) normalised RGB to (N, 64, H/16, W/16), never negative.

    Args:
        layers: (channels, stride) of each convolution.
    """

    def __init__(self, layers: Sequence[tuple[int, int]]) -> None:
        convolutions: list[nn.Module] = []
        channels = 3
        for out, stride in layers:
            convolutions.append(nn.Sequential(nn.Conv2d(channels, out, 3, stride, padding=1), nn.ReLU()))
            channels = out
        super().__init__(*convolutions)


@dataclass(frozen=True)
class Maps:
    """The feature maps of both networks for N images, before masking, float32.

    levels: the maps from SemanticNet. distortion: (N, 64, H/16, W/16).
    """

    levels: list[Tensor]
    distortion: Tensor


def position_weights(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize the mask by area to the size of a feature map, and normalise it to weights that sum to 1.

    Args:
        mask: (N, 1, H, W) float, 0..1.
        size: height and width of the feature map.

    Returns:
        (N, 1, h, w) float; all zeros for an image whose mask is empty.
    """
    weights = F.adaptive_avg_pool2d(mask, size)
    return weights / weights.sum(dim=(2, 3), keepdim=True).clamp_min(1e-6)


def masked_moments(features: Tensor, mask: Tensor) -> Tensor:
    """Weighted mean and standard deviation of every channel over all positions.

    Args:
        features: (N, C, h, w) float.
        mask: (N, 1, H, W) float, 0..1.

    Returns:
        (N, 2C): the means, then the standard deviations.
    """
    weights = position_weights(mask, (features.shape[2], features.shape[3]))
    mean = (features * weights).sum(dim=(2, 3))
    squares = (features - mean[:, :, None, None]).square()
    variance = (squares * weights).sum(dim=(2, 3))
    return torch.cat([mean, (variance + 1e-6).sqrt() - 1e-3], dim=1)


def masked_bilinear(semantic: Tensor, distortion: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over positions of the outer product of two feature maps.

    A constant channel of ones is appended to each map first, so that the product also contains the mean of
    each map.

    Args:
        semantic: (N, A, h, w) float.
        distortion: (N, B, h, w) float.
        weights: (N, 1, h, w) from `position_weights`.

    Returns:
        (N, (A + 1) * (B + 1)).

    Source: Lin, RoyChowdhury, Maji, "Bilinear CNN Models", ICCV 2015.
    """
    left = F.pad(semantic, (0, 0, 0, 0, 0, 1), value=1.0) * weights
    right = F.pad(distortion, (0, 0, 0, 0, 0, 1), value=1.0)
    product = left.flatten(2) @ right.flatten(2).transpose(1, 2)
    return product.flatten(1)


def evened(products: Tensor) -> Tensor:
    """Signed square root, then L2 normalisation: (N, D) to (N, D).

    The root prevents a few strong channels from dominating. Zeros stay zeros.
    """
    floor = 1e-4  # keeps the slope of the root finite at zero
    rooted = products.sign() * ((products.abs() + floor).sqrt() - floor**0.5)
    return F.normalize(rooted, dim=1)


def bounded(standardised: Tensor) -> Tensor:
    """Bound values smoothly to +-BOUND, almost unchanged near zero; any shape."""
    return BOUND * torch.tanh(standardised / BOUND)


def register_imagenet(model: nn.Module) -> None:
    """Add the buffers `mean` and `std`, (3, 1, 1), to a model: ImageNet's normalisation of RGB 0..1."""
    for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        model.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)


class DBCNNLite(nn.Module):
    """DB-CNN-Lite: both networks, masked pooling and a linear head."""

    mean: Tensor
    std: Tensor
    pooled_mean: Tensor
    pooled_std: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.semantic = SemanticNet(layout.blocks, layout.level_blocks)
        self.distortion = DistortionNet(layout.scnn)
        self.project = nn.Conv2d(sum(layout.level_channels), SEMANTIC_CHANNELS, 1)
        self.dropout = nn.Dropout(0.3)
        pooled = PRODUCTS + layout.moments
        self.head = nn.Linear(pooled, 1)
        # Mean and standard deviation of products and moments on the rated images, before fine-tuning.
        self.register_buffer("pooled_mean", torch.zeros(pooled))
        self.register_buffer("pooled_std", torch.ones(pooled))
        register_imagenet(self)

    def arrays(self) -> Weights:
        """The weights of a model on the CPU, as `dbcnn_lite_weights.read` returns them. They share its
        memory."""
        return {key: tensor.numpy() for key, tensor in self.state_dict().items()}

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        """Score images.

        Args:
            images: (N, 3, H, W) float32 RGB, 0..1, H and W at least 64.
            mask: (N, 1, H, W) float32, 0..1: the weight of each position. Use ones for the whole image.

        Returns:
            (N,) float32 on the MOS scale, 0 (bad) to 100 (excellent), not clipped. With an empty mask the
            score is a constant and has no meaning.
        """
        return self.rate(self.maps(images), mask)

    def maps(self, images: Tensor) -> Maps:
        """The feature maps of both networks; `images` as in `forward`."""
        normalised = (images - self.mean) / self.std
        levels = [level.float() for level in self.semantic(self._reduced(normalised))]
        return Maps(levels, self.distortion(normalised).float())

    def _reduced(self, images: Tensor) -> Tensor:
        """The input of the semantic network."""
        numerator, denominator = self.layout.share
        return resized(images, [side * numerator // denominator for side in images.shape[2:]])

    def rate(self, maps: Maps, mask: Tensor) -> Tensor:
        """Scores from feature maps, inside the mask; `mask` and the result as in `forward`."""
        mask_is_there = mask.amax(dim=(2, 3)) > 0
        standardised = self.standardised(self.pool(maps, mask)) * mask_is_there
        score = self.head(self.dropout(standardised)).squeeze(1)
        return RATING_CENTRE + RATING_SPREAD * score

    def standardised(self, pooled: Tensor) -> Tensor:
        """Standardise (N, D) from `pool` for the head: about 0 +- 1 on the rated images, products less."""
        return self.weighed(bounded((pooled - self.pooled_mean) / self.pooled_std))

    def weighed(self, values: Tensor) -> Tensor:
        """Scale down the products in standardised values (N, D), relative to the moments."""
        return torch.cat([PRODUCT_SCALE * values[:, :PRODUCTS], values[:, PRODUCTS:]], dim=1)

    def pool(self, maps: Maps, mask: Tensor) -> Tensor:
        """(N, D) float32 inside the mask: the products at 1/16, then the moments of every map."""
        moments = [masked_moments(features, mask) for features in (*maps.levels, maps.distortion)]
        return torch.cat([self._products(maps, mask), *moments], dim=1)

    def _products(self, maps: Maps, mask: Tensor) -> Tensor:
        size = (maps.distortion.shape[2], maps.distortion.shape[3])
        aligned = [resized(level, size) for level in maps.levels]
        semantic = self.project(torch.cat(aligned, dim=1))
        return evened(masked_bilinear(semantic, maps.distortion, position_weights(mask, size)))


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (N, C, H, W) interpolated linearly to another height and width."""
    if list(maps.shape[2:]) == list(size):
        return maps
    return F.interpolate(maps, list(size), mode="bilinear", align_corners=False)


def scaled_picture(picture: NDArray[np.uint8], side: int = PICTURE_SIDE) -> NDArray[np.uint8]:
    """Resize a whole image to the size of the rated images. The aspect ratio is kept.

    Args:
        picture: (H, W, 3) uint8 RGB.
        side: length of the shorter side, in pixels.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    height, width = picture.shape[:2]
    scale = side / min(height, width)
    size = (round(width * scale), round(height * scale))
    # Reduce by area to avoid aliasing.
    scaled = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.asarray(scaled, np.uint8)


def load_dbcnn_lite(path: str | Path, device: str = "cpu") -> DBCNNLite:
    """Load DB-CNN-Lite in eval mode with float32 weights, on `device`.

    Args:
        path: see `dbcnn_lite_weights.read`, which also raises the errors.
        device: `cpu` or `cuda`.
    """
    weights = read(Path(path))
    model = DBCNNLite(layout_of(weights))
    model.load_state_dict({key: torch.from_numpy(values) for key, values in weights.items()})
    return model.eval().to(device)
