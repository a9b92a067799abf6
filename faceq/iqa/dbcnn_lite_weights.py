"""The weights of DB-CNN-Lite as arrays, and the layers that they belong to. Does not import torch.

`faceq.iqa.dbcnn_lite` describes the network and its sources.
"""

from collections.abc import Mapping
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

# Per block of EfficientNet-Lite0: kernel, stride, expansion, channels out.
LITE0_BLOCKS = (
    (3, 1, 1, 16),
    *[(3, 2, 6, 24), (3, 1, 6, 24)],
    *[(5, 2, 6, 40), (5, 1, 6, 40)],
    *[(3, 2, 6, 80), (3, 1, 6, 80), (3, 1, 6, 80)],
    *[(5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 6, 112)],
    *[(5, 2, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192)],
    (3, 1, 6, 320),
)
# The last block at each scale that is used: 1/8, 1/16 and 1/32 of the image.
LEVEL_BLOCKS = (4, 10, 15)
LEVEL_CHANNELS = tuple(LITE0_BLOCKS[block][3] for block in LEVEL_BLOCKS)

# S-CNN's nine layers as (channels, stride); published widths are 48, 64 and 128.
SCNN_LAYERS = ((16, 1), (16, 2), (24, 1), (24, 2), (32, 1), (32, 2), (64, 1), (64, 1), (64, 2))
SCNN_CHANNELS = SCNN_LAYERS[-1][0]

SEMANTIC_CHANNELS = 64  # channels of the semantic factor of the product

# Standardised products and moments are bounded to this many standard deviations: for an image unlike all
# rated ones, a single one of several thousand values must not dominate the score.
BOUND = 3.0

# Weight of the standardised products relative to the moments: there are four times as many products.
PRODUCT_SCALE = 0.3

PRODUCTS = (SEMANTIC_CHANNELS + 1) * (SCNN_CHANNELS + 1)
"""Number of products of the two networks' maps, each with a channel of ones."""

MOMENTS = 2 * (sum(LEVEL_CHANNELS) + SCNN_CHANNELS)
"""Number of means and standard deviations of maps."""


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding along one axis, before and after the map: output ceil(size / stride), odd
    pixel at the end.

    EfficientNet-Lite0 was trained with it. Symmetric padding would shift every strided layer by half a step.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def shapes() -> dict[str, tuple[int, ...]]:
    """The shape of each weight, by its name."""
    found: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, out: int, channels: int, kernel: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (out, channels, kernel, kernel), (out,)

    channels = STEM_CHANNELS
    convolution("semantic.stem.0", channels, 3, 3)
    for index, (kernel, _, expansion, out) in enumerate(LITE0_BLOCKS):
        block, wide = f"semantic.blocks.{index}", channels * expansion
        if expansion != 1:
            convolution(f"{block}.expand.0", wide, channels, 1)
        convolution(f"{block}.depthwise.0", wide, 1, kernel)
        convolution(f"{block}.project", out, wide, 1)
        channels = out
    channels = 3
    for index, (out, _) in enumerate(SCNN_LAYERS):
        convolution(f"distortion.{index}.0", out, channels, 3)
        channels = out
    convolution("project", SEMANTIC_CHANNELS, sum(LEVEL_CHANNELS), 1)
    pooled = PRODUCTS + MOMENTS
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
    expected = shapes()
    missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected)
    if missing or extra:
        raise ModelFileError(f"{path}: does not fit: missing keys {missing}, extra keys {extra}")
    misshapen = [key for key in expected if weights[key].shape != expected[key]]
    if misshapen:
        raise ModelFileError(f"{path}: does not fit: wrong shapes for {misshapen}")
    return {key: values.astype(np.float32) for key, values in weights.items()}
