"""DB-CNN computed directly from the equations of its paper."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]

# The positions of the layers in the public checkpoints.
VGG_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG_POOLS = (4, 9, 16, 23)
SCNN_STRIDES = {0: 1, 3: 2, 6: 1, 9: 2, 12: 1, 15: 2, 18: 1, 21: 1, 24: 2}


def vgg_layers(state: State, images: Tensor) -> dict[int, Tensor]:
    """The outputs of the thirty layers of `features1` in the published layout."""
    outputs, out = {}, images
    for index in range(30):
        if index in VGG_POOLS:
            out = F.max_pool2d(out, 2)
        elif index in VGG_CONVOLUTIONS:
            name = f"features1.{index}"
            out = F.conv2d(out, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)
        else:
            out = out.clamp_min(0)
        outputs[index] = out
    return outputs


def normed(state: State, convolution: str, norm: str, images: Tensor, stride: int) -> list[Tensor]:
    """The outputs of a convolution, of batch normalisation by its equation, and of ReLU."""
    weight = state[f"{convolution}.weight"]
    pad = weight.shape[2] // 2
    convolved = F.conv2d(images, weight, state[f"{convolution}.bias"], stride, pad)
    mean, variance, gain, shift = (
        state[f"{norm}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    scaled = (convolved - mean) / (variance + 1e-5).sqrt() * gain + shift
    return [convolved, scaled, scaled.clamp_min(0)]


def scnn_layers(state: State, prefix: str, images: Tensor) -> dict[int, Tensor]:
    outputs, out = {}, images
    for index, stride in SCNN_STRIDES.items():
        steps = normed(state, f"{prefix}.{index}", f"{prefix}.{index + 1}", out, stride)
        outputs |= dict(zip(range(index, index + 3), steps, strict=True))
        out = steps[-1]
    return outputs


def scnn_logits(state: State, images: Tensor) -> Tensor:
    pooled = scnn_layers(state, "features", images)[26].mean(dim=(2, 3), keepdim=True)
    for index in (0, 3):
        pooled = normed(state, f"projection.{index}", f"projection.{index + 1}", pooled, 1)[-1]
    return pooled.flatten(1) @ state["classifier.weight"].T + state["classifier.bias"]


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing with aligned corners: linear interpolation along one axis, then along the other."""
    out = maps.numpy()
    for axis, length in zip((2, 3), size, strict=True):
        old = out.shape[axis]
        at = np.linspace(0, old - 1, length)
        out = np.apply_along_axis(lambda row, at=at, old=old: np.interp(at, np.arange(old), row), axis, out)
    return torch.from_numpy(out).to(maps.dtype)


def published_score(state: State, images: Tensor, columns: slice = slice(None)) -> Tensor:
    """The score of normalised `images` by the paper's equations. Only the given columns of the maps count."""
    semantic = vgg_layers(state, images)[29]
    distortion = resized(scnn_layers(state, "features2", images)[26], (semantic.shape[2], semantic.shape[3]))
    semantic, distortion = semantic[..., columns], distortion[..., columns]
    positions = semantic.shape[2] * semantic.shape[3]
    bilinear = torch.einsum("nahw,nbhw->nab", semantic, distortion).flatten(1) / positions
    rooted = (bilinear + 1e-8).sqrt()
    unit = rooted / rooted.square().sum(dim=1, keepdim=True).sqrt()
    return (unit @ state["fc.weight"].T + state["fc.bias"])[:, 0]
