"""Load DB-CNN-Lite or published DB-CNN from a file, and score mini-batches."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from faceq.faces import geometry
from faceq.iqa.dbcnn_lite import DBCNNLite, load_dbcnn_lite
from faceq.iqa.dbcnn_lite_onnx import OnnxMaps
from faceq.iqa.dbcnn_vgg import DBCNN, load_dbcnn, read_state
from faceq.runtime.minibatch import to_device
from faceq.runtime.numerics import F32, Numerics
from faceq.runtime.onnx_runtime import ModelFileError

HALF_TOLERANCE = 0.5
"""Maximum change of a `dbcnn` score in half precision, in points."""

BF16_TOLERANCE = 3.0
"""Maximum change of a `dbcnn` score in bf16, in points. On 600 CelebA faces it was 1.4."""

NORMAL = (-50.0, 150.0)
"""Plausible range of unclipped scores if the scale of a checkpoint is right. Scores are not bounded and may
be somewhat outside 0...100."""

MIN_SPREAD = 2.0
"""If all scores of a checkpoint are within this many points of 0, its scale is smaller than assumed."""

MIN_FACES = 3
"""Minimum number of scores to decide that a scale is wrong: a single face may be unlike all rated images."""


def load(path: Path, device: str = "cpu", best: float | None = None) -> DBCNNLite | DBCNN:
    """Load DB-CNN-Lite or published DB-CNN from a checkpoint, in eval mode.

    Args:
        path: the checkpoint. Its keys decide which network it is.
        device: `cpu` or `cuda`.
        best: the best score on the scale of a published DB-CNN. None: 1, as in pyiqa's current files.

    Raises:
        ModelFileError: the file is neither of them, or `best` is not the scale of DB-CNN-Lite.
    """
    try:
        state = read_state(path)
        if "semantic.stem.0.weight" in state:
            if best not in (None, 100):
                raise ModelFileError(
                    f"{path}: is DB-CNN-Lite, whose scale is always 0 to 100: remove quality_scale"
                )
            return load_dbcnn_lite(path, device)
        if "features1.0.weight" in state:
            return load_dbcnn(path, device, best or 1.0)
    except ModelFileError:
        raise
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: {str(error).removeprefix(f'dbcnn: {path} ')}") from None
    raise ModelFileError(
        f"{path}: is neither DB-CNN-Lite, which has the key semantic.stem.0.weight, nor published DB-CNN, "
        f"which has features1.0.weight: this file has {_some(state)}"
    )


def probes(side: int) -> np.ndarray:
    """Test images to check the scale of a checkpoint: a colour ramp, a bright oval on a ramp, and noise.

    Returns:
        (3, side, side, 3) uint8 RGB.
    """
    y, x = np.mgrid[0:side, 0:side] / (side - 1)
    ramp = 255 * np.stack([x, y, (x + y) / 2], axis=2)
    inside = ((x - 0.5) / 0.3) ** 2 + ((y - 0.5) / 0.4) ** 2 < 1
    oval = np.where(inside[..., None], [220, 180, 150], ramp / 2)
    noise = np.random.default_rng(0).integers(0, 256, ramp.shape)
    return np.stack([ramp, oval, noise]).astype(np.uint8)


def check_scale(points: np.ndarray, network: DBCNNLite | DBCNN, name: str, both_sides: bool = True) -> None:
    """Check that a checkpoint's scores are on the assumed scale.

    Args:
        points: (N,) scores of different images on faceq's scale, 0...100, not clipped.
        network, name: the network that gave them, and its name.
        both_sides: also treat scores that are all close to 0 as wrong. Faces can be so bad, `probes` cannot.

    Raises:
        ModelFileError: all scores are outside NORMAL or, with `both_sides`, within MIN_SPREAD of 0.
    """
    if len(points) < MIN_FACES:
        return
    low, high = NORMAL
    outside = ((points < low) | (points > high) | ~np.isfinite(points)).all()
    if not outside and not (both_sides and (np.abs(points) < MIN_SPREAD).all()):
        return
    best = network.best if isinstance(network, DBCNN) else 100.0
    remedy = (
        "set quality_scale to the best possible rating in its training data (usually 1 or 100)"
        if isinstance(network, DBCNN)
        else "use a DB-CNN-Lite that was trained on ratings of this scale"
    )
    own = points * (best / 100)
    raise ModelFileError(
        f"{name}: its scores are {own.min():.4g} to {own.max():.4g}, but the assumed scale is 0 to {best:g}: "
        f"{remedy}"
    )


def _some(state: Mapping[str, object]) -> str:
    names = sorted(state)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing"


class OnnxQuality:
    """Scores mini-batches of one shape by DB-CNN-Lite, whose networks run in ONNX Runtime or OpenVINO.

    Takes crops (mini_batch, S, S, 3) uint8 RGB and masks (mini_batch, S, S) float32; returns (mini_batch,)
    float32.
    """

    def __init__(
        self,
        network: DBCNNLite,
        mini_batch: int,
        threads: int,
        side: int = geometry.CROP_SIZE,
        numerics: Numerics = F32,
    ):
        self._network = network
        self._maps = OnnxMaps(network, mini_batch, side, threads, numerics)

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray]:
        maps = self._maps(crops)
        return (self._network.rate(maps, torch.from_numpy(masks)[:, None]).numpy(),)


class TorchQuality:
    """Like OnnxQuality, in torch, for DB-CNN-Lite and published DB-CNN.

    Args:
        network: the network, on `device`.
        device: `cpu` or `cuda`.
        half: run the networks in half precision, and pooling and the head in single precision. Scores then
            differ by at most HALF_TOLERANCE points from those in single precision.
    """

    def __init__(self, network: DBCNNLite | DBCNN, device: str, half: bool):
        self._device = device
        self._half = half
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray]:
        # (N, S, S, 3) viewed as (N, 3, S, S) is already in channels_last format.
        images = to_device(crops, self._device).permute(0, 3, 1, 2).float() / 255
        with torch.autocast(self._device, torch.float16, enabled=self._half):
            maps = self._network.maps(images)
        inside = to_device(masks, self._device)[:, None]
        return (self._network.rate(maps, inside).cpu().numpy(),)
