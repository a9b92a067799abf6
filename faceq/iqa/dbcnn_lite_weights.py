"""The weights of DB-CNN-Lite as arrays, and the layers that they belong to. Does not import torch.

`faceq.iqa.dbcnn_lite` describes the network and its sources.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from faceq.errors import ModelFileError

Weights = Mapping[str, NDArray[np.float32]]
"""The weights of DB-CNN-Lite, by the names of `shapes`."""

DBCNN_LITE_WEIGHTS = Path(__file__).parents[1] / "models" / "weights" / "dbcnn-lite.safetensors"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Centre and spread of the ratings in LIVE In the Wild. The head predicts in these units.
RATING_CENTRE = 58.0
RATING_SPREAD = 20.0

STEM_CHANNELS = 32

Block = tuple[int, int, int, int]
"""A block of EfficientNet-Lite: kernel, stride, expansion, channels out."""

LITE0_BLOCKS: tuple[Block, ...] = (
    (3, 1, 1, 16),
    *[(3, 2, 6, 24), (3, 1, 6, 24)],
    *[(5, 2, 6, 40), (5, 1, 6, 40)],
    *[(3, 2, 6, 80), (3, 1, 6, 80), (3, 1, 6, 80)],
    *[(5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 6, 112)],
    *[(5, 2, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192)],
    (3, 1, 6, 320),
)

LEVEL_STRIDES = (8, 16, 32)
"""Pixels of the semantic network's input per position of each of its maps that are used."""

MAP_STRIDE = 16
"""Pixels of the image per position of the distortion network's map, where the maps are multiplied."""

SCNN_CHANNELS = 64


@dataclass(frozen=True)
class Layout:
    """What differs between the versions of DB-CNN-Lite.

    Attributes:
        share: numerator and denominator of the side of the semantic network's input, relative to the image.
            The content of an image can be seen at a smaller scale, its distortions cannot.
        scnn: the layers of the distortion network, S-CNN, as (channels, stride); published widths are 48, 64
            and 128.
        blocks: the blocks of the semantic network.
    """

    share: tuple[int, int]
    scnn: tuple[tuple[int, int], ...]
    blocks: tuple[Block, ...] = LITE0_BLOCKS

    @property
    def side_unit(self) -> int:
        """The side of an image, pixels, must be a multiple of it, so that all strides divide it."""
        numerator, denominator = self.share
        return LEVEL_STRIDES[-1] * denominator // math.gcd(LEVEL_STRIDES[-1], numerator)

    @property
    def level_blocks(self) -> tuple[int, ...]:
        """The last block at each of LEVEL_STRIDES."""
        following = [*(stride for _, stride, _, _ in self.blocks[1:]), 2]
        last = [index for index, stride in enumerate(following) if stride == 2]
        return tuple(last[-len(LEVEL_STRIDES) :])

    @property
    def level_channels(self) -> tuple[int, ...]:
        """The channels of the maps of `level_blocks`."""
        return tuple(self.blocks[block][3] for block in self.level_blocks)

    @property
    def moments(self) -> int:
        """Number of means and standard deviations of maps."""
        return 2 * (sum(self.level_channels) + SCNN_CHANNELS)


FIRST = Layout((1, 1), ((16, 1), (16, 2), (24, 1), (24, 2), (32, 1), (32, 2), (64, 1), (64, 1), (64, 2)))
"""DB-CNN-Lite of version 0.1: `dbcnn-lite`."""

SECOND = Layout((3, 4), ((16, 2), (24, 2), (32, 1), (48, 2), (48, 1), (64, 2)))
"""DB-CNN-Lite with half the arithmetic, which `jobs.training` trains. The model zoo has none yet."""


def layout_of(keys: Collection[str]) -> Layout:
    """The version that weights with these names belong to; FIRST if they fit none."""
    layers = sum(key.startswith("distortion.") and key.endswith(".weight") for key in keys)
    return SECOND if layers == len(SECOND.scnn) else FIRST


SEMANTIC_CHANNELS = 64  # channels of the semantic factor of the product

# Standardised products and moments are bounded to this many standard deviations: for an image unlike all
# rated ones, a single one of several thousand values must not dominate the score.
BOUND = 3.0

# Weight of the standardised products relative to the moments: there are four times as many products.
PRODUCT_SCALE = 0.3

PRODUCTS = (SEMANTIC_CHANNELS + 1) * (SCNN_CHANNELS + 1)
"""Number of products of the two networks' maps, each with a channel of ones."""


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding along one axis, before and after the map: output ceil(size / stride), odd
    pixel at the end.

    EfficientNet-Lite0 was trained with it. Symmetric padding would shift every strided layer by half a step.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """The shape of each weight, by its name."""
    found: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, out: int, channels: int, kernel: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (out, channels, kernel, kernel), (out,)

    channels = STEM_CHANNELS
    convolution("semantic.stem.0", channels, 3, 3)
    for index, (kernel, _, expansion, out) in enumerate(layout.blocks):
        block, wide = f"semantic.blocks.{index}", channels * expansion
        if expansion != 1:
            convolution(f"{block}.expand.0", wide, channels, 1)
        convolution(f"{block}.depthwise.0", wide, 1, kernel)
        convolution(f"{block}.project", out, wide, 1)
        channels = out
    channels = 3
    for index, (out, _) in enumerate(layout.scnn):
        convolution(f"distortion.{index}.0", out, channels, 3)
        channels = out
    convolution("project", SEMANTIC_CHANNELS, sum(layout.level_channels), 1)
    pooled = PRODUCTS + layout.moments
    return found | {
        "head.weight": (1, pooled),
        "head.bias": (1,),
        "pooled_mean": (pooled,),
        "pooled_std": (pooled,),
    }


def read(path: Path) -> Weights:
    """Read the weights of DB-CNN-Lite.

    Args:
        path: a safetensors file from the training job; it may contain float16.

    Raises:
        ModelFileError: there is no such file, it is not a safetensors file, or its keys or shapes are not
            those of this network.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: not found: give a DB-CNN-Lite safetensors file")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ModelFileError(f"{path}: is not a safetensors file: {error}") from error
    expected = shapes(layout_of(weights))
    missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected)
    if missing or extra:
        raise ModelFileError(f"{path}: does not fit: missing keys {missing}, extra keys {extra}")
    misshapen = [key for key in expected if weights[key].shape != expected[key]]
    if misshapen:
        raise ModelFileError(f"{path}: does not fit: wrong shapes for {misshapen}")
    return {key: values.astype(np.float32) for key, values in weights.items()}
