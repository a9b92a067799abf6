"""Either form of DB-CNN out of a file, and its scores of mini-batches."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from faceq import geometry
from faceq.dbcnn import DBCNNLite, load_dbcnn_lite
from faceq.dbcnn_onnx import OnnxMaps
from faceq.dbcnn_vgg import DBCNN, load_dbcnn, read_state
from faceq.onnx_runtime import ModelFileError

HALF_TOLERANCE = 0.5
"""Points of `dbcnn` by which half precision may move a score."""


def load(path: Path, device: str = "cpu") -> DBCNNLite | DBCNN:
    """DB-CNN-Lite or DB-CNN as published, whichever a checkpoint is of, in eval mode.

    Raises:
        ModelFileError: it is of neither.
    """
    try:
        state = read_state(path)
        if "semantic.stem.0.weight" in state:
            return load_dbcnn_lite(path, device)
        if "features1.0.weight" in state:
            return load_dbcnn(path, device)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: {str(error).removeprefix(f'dbcnn: {path} ')}") from None
    raise ModelFileError(
        f"{path}: is of neither form of DB-CNN: DB-CNN-Lite has semantic.stem.0.weight, published DB-CNN "
        f"features1.0.weight; this has {_some(state)}"
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


def to_device(array: np.ndarray, device: str) -> torch.Tensor:
    """An array as a tensor on a device; to CUDA by way of pinned memory, while the processor goes on."""
    tensor = torch.from_numpy(array)
    if device == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
