"""Batch norms of EfficientNet-Lite0: separate layers during training, folded into convolutions after it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from faceq.iqa.dbcnn_lite import SemanticNet
from faceq.iqa.dbcnn_lite_weights import Block

EXPANSION = 6  # of every block but the first
STAGE_STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the first block of each stage, whose blocks have the same channels
BATCH_NORM_EPS = 1e-3  # EfficientNet's
BATCH_NORM_MOMENTUM = 0.05
"""Averages over about 20 batches: with EfficientNet's 0.01, statistics would lag behind the fast weights."""


@torch.no_grad()
def folded(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that equals a convolution without bias followed by the norm."""
    assert norm.running_mean is not None and norm.running_var is not None
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return weight * factor.view(-1, 1, 1, 1), norm.bias - norm.running_mean * factor


def blocks_of(checkpoint: Path) -> tuple[Block, ...]:
    """The blocks of a published checkpoint of EfficientNet-Lite, of any size."""
    published = torch.load(checkpoint, weights_only=True, map_location="cpu")
    blocks: list[Block] = []
    stage = -1
    while f"_blocks.{len(blocks)}._project_conv.weight" in published:
        name = f"_blocks.{len(blocks)}"
        depthwise, project = (published[f"{name}.{part}_conv.weight"] for part in ("_depthwise", "_project"))
        starts = not blocks or blocks[-1][3] != len(project)
        stage += starts
        expansion = EXPANSION if f"{name}._expand_conv.weight" in published else 1
        blocks.append((depthwise.shape[2], STAGE_STRIDES[stage] if starts else 1, expansion, len(project)))
    return tuple(blocks)


class Normed(nn.Module):
    """A convolution without bias, followed by a batch norm."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        convolution.bias = None
        self.convolution = convolution
        self.norm = nn.BatchNorm2d(convolution.out_channels, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)

    def forward(self, features: Tensor) -> Tensor:
        if features.requires_grad:
            features.register_hook(dense)
        if self.convolution.groups > 1:
            # In half precision, the gradients of these layers took twice the time of all the rest.
            with torch.autocast("cpu", enabled=False):
                out: Tensor = self.norm(self.convolution(features.float()))
            return out
        out = self.norm(self.convolution(features))
        return out


def dense(gradient: Tensor) -> Tensor:
    """Make the gradient contiguous: for the strided gradient of a padded map, batch norm is slow."""
    return gradient.contiguous(memory_format=torch.channels_last)


def unfold(network: SemanticNet, init: Path) -> None:
    """Load EfficientNet-Lite0's published weights, with batch norms as separate layers.

    With frozen statistics, the network overfits to its few hundred training images. The noise of the batch
    statistics prevents that.
    """
    parts = {
        "_expand_conv": ("_bn0", "expand.0"),
        "_depthwise_conv": ("_bn1", "depthwise.0"),
        "_project_conv": ("_bn2", "project"),
    }
    published = torch.load(init, weights_only=True, map_location="cpu")
    wanted = {"stem.0": ("_conv_stem", "_bn0")}
    for index in range(len(network.blocks)):
        for convolution, (norm, ours) in parts.items():
            there = f"_blocks.{index}.{convolution}"
            if f"{there}.weight" in published:
                wanted[f"blocks.{index}.{ours}"] = (there, f"_blocks.{index}.{norm}")
    for ours, names in wanted.items():
        layer = network.get_submodule(ours)
        assert isinstance(layer, nn.Conv2d)
        pair = Normed(layer)
        for part, name in zip((pair.convolution, pair.norm), names, strict=True):
            part.load_state_dict({key: published[f"{name}.{key}"] for key in part.state_dict()})
        _replace(network, ours, pair)


def fold(network: SemanticNet) -> None:
    """Undo `unfold`: fold each batch norm into the convolution before it."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, Normed):
            weight, bias = folded(layer.convolution.weight, layer.norm)
            layer.convolution.weight, layer.convolution.bias = nn.Parameter(weight), nn.Parameter(bias)
            _replace(network, name, layer.convolution)


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, layer)
