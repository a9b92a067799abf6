"""EfficientNet-Lite0's published checkpoint with random values."""

import numpy as np
import torch
from torch import Tensor

from faceq.iqa.dbcnn_lite_weights import LITE0_BLOCKS


def published_state(seed: int) -> dict[str, Tensor]:
    """EfficientNet-Lite0's keys and shapes with random values."""
    torch.manual_seed(seed)
    state: dict[str, Tensor] = {}

    def layer(convolution: str, norm: str, shape: tuple[int, ...]) -> None:
        state[f"{convolution}.weight"] = torch.randn(shape) / np.prod(shape[1:]) ** 0.5
        for name, values in (("weight", torch.rand), ("bias", torch.randn), ("running_mean", torch.randn)):
            state[f"{norm}.{name}"] = values(shape[0]) + (0.5 if name == "weight" else 0)
        state[f"{norm}.running_var"] = torch.rand(shape[0]) + 0.5
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    layer("_conv_stem", "_bn0", (32, 3, 3, 3))
    channels = 32
    for index, (kernel, _, expansion, out) in enumerate(LITE0_BLOCKS):
        wide = channels * expansion
        if expansion > 1:
            layer(f"_blocks.{index}._expand_conv", f"_blocks.{index}._bn0", (wide, channels, 1, 1))
        layer(f"_blocks.{index}._depthwise_conv", f"_blocks.{index}._bn1", (wide, 1, kernel, kernel))
        layer(f"_blocks.{index}._project_conv", f"_blocks.{index}._bn2", (out, wide, 1, 1))
        channels = out
    state["_fc.weight"] = torch.randn(1000, 1280)
    return state
