"""Either form of DB-CNN out of a file, and its scores of mini-batches."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from faceq.faces import geometry
from faceq.iqa.dbcnn_lite import DBCNNLite, load_dbcnn_lite
from faceq.iqa.dbcnn_lite_onnx import OnnxMaps
from faceq.iqa.dbcnn_vgg import DBCNN, load_dbcnn, read_state
from faceq.runtime.minibatch import to_device
from faceq.runtime.onnx_runtime import ModelFileError

HALF_TOLERANCE = 0.5
"""Points of `dbcnn` by which half precision may move a score."""


NORMAL = (-50.0, 150.0)
"""Unclipped scores, 0...100, of a checkpoint that is read on its own scale. They are not bounded, and may lie
some points outside 0...100."""

LEAST_SPREAD = 2.0
"""Points, either side of 0: a checkpoint all of whose scores lie within them answers on a smaller scale."""

LEAST_FACES = 3
"""Fewer scores are not taken for a sign of a wrong scale: a single face may be unlike all that were rated."""


def load(path: Path, device: str = "cpu", best: float | None = None) -> DBCNNLite | DBCNN:
    """DB-CNN-Lite or DB-CNN as published, whichever a checkpoint is of, in eval mode.

    Args:
        best: the best score on the scale of a published DB-CNN; None: 1, as pyiqa's files have it now.

    Raises:
        ModelFileError: it is of neither, or DB-CNN-Lite was given another scale than its own.
    """
    try:
        state = read_state(path)
        if "semantic.stem.0.weight" in state:
            if best not in (None, 100):
                raise ModelFileError(
                    f"{path}: is DB-CNN-Lite, which always answers from 0 to 100: leave quality_scale out"
                )
            return load_dbcnn_lite(path, device)
        if "features1.0.weight" in state:
            return load_dbcnn(path, device, best or 1.0)
    except ModelFileError:
        raise
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: {str(error).removeprefix(f'dbcnn: {path} ')}") from None
    raise ModelFileError(
        f"{path}: is of neither form of DB-CNN: DB-CNN-Lite has semantic.stem.0.weight, published DB-CNN "
        f"features1.0.weight; this has {_some(state)}"
    )


def probes(side: int) -> np.ndarray:
    """Pictures on which a checkpoint shows its scale: a ramp of colours, a bright oval before it, and noise.

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
    """That a checkpoint answers on the scale that it is taken to have.

    Args:
        points: (N,) scores of different pictures on faceq's scale, 0...100, not clipped.
        network, name: whose they are.
        both_sides: whether scores all about 0 are wrong, too: faces may be that bad, `probes` are not.

    Raises:
        ModelFileError: all of them lie outside NORMAL, or, with `both_sides`, within LEAST_SPREAD of 0.
    """
    if len(points) < LEAST_FACES:
        return
    low, high = NORMAL
    outside = ((points < low) | (points > high) | ~np.isfinite(points)).all()
    if not outside and not (both_sides and (np.abs(points) < LEAST_SPREAD).all()):
        return
    best = network.best if isinstance(network, DBCNN) else 100.0
    remedy = (
        "set quality_scale to the best score of the ratings that it was trained on (mostly 1 or 100)"
        if isinstance(network, DBCNN)
        else "DB-CNN-Lite must have been trained on ratings of that scale"
    )
    own = points * (best / 100)
    raise ModelFileError(
        f"{name}: answers from {own.min():.4g} to {own.max():.4g}, but its scale is taken to be 0 to "
        f"{best:g}: {remedy}"
    )


def _some(state: Mapping[str, object]) -> str:
    names = sorted(state)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing"


class OnnxQuality:
    """DB-CNN-Lite's scores of mini-batches of one shape; its networks run in ONNX Runtime.

    Takes crops (mini_batch, S, S, 3) uint8 RGB and masks (mini_batch, S, S) float32, gives (mini_batch,)
    float32.
    """

    def __init__(self, network: DBCNNLite, mini_batch: int, threads: int, side: int = geometry.CROP_SIZE):
        self._network = network
        self._maps = OnnxMaps(network, mini_batch, side, threads)

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray]:
        maps = self._maps(crops)
        return (self._network.rate(maps, torch.from_numpy(masks)[:, None]).numpy(),)


class TorchQuality:
    """The same in torch, for either form of DB-CNN.

    Args:
        network: on `device`.
        device: `cpu` or `cuda`.
        half: the networks run in half precision, what is pooled and all after it in single; scores then
            differ from those in single precision by HALF_TOLERANCE points at most.
    """

    def __init__(self, network: DBCNNLite | DBCNN, device: str, half: bool):
        self._device = device
        self._half = half
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray]:
        # (N, S, S, 3) seen as (N, 3, S, S) is channels_last already.
        images = to_device(crops, self._device).permute(0, 3, 1, 2).float() / 255
        with torch.autocast(self._device, torch.float16, enabled=self._half):
            maps = self._network.maps(images)
        inside = to_device(masks, self._device)[:, None]
        return (self._network.rate(maps, inside).cpu().numpy(),)
