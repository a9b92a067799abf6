"""DB-CNN-Lite and published DB-CNN in torch: on GPUs, and published DB-CNN on CPUs."""

import numpy as np
import torch

from faceq.iqa.checkpoint import Checkpoint, file_errors
from faceq.iqa.dbcnn_lite import DBCNNLite, load_dbcnn_lite
from faceq.iqa.dbcnn_vgg import DBCNN, load_dbcnn
from faceq.runtime.minibatch import to_device

HALF_TOLERANCE = 0.5
"""Maximum change of a `dbcnn` score in half precision, in points."""


def load(checkpoint: Checkpoint, device: str = "cpu") -> DBCNNLite | DBCNN:
    """Load the network of a checkpoint, in eval mode on `device`. The state of torch's random generator does
    not change, although a new network has random weights at first.

    Raises:
        ModelFileError: the file's keys or shapes are not those of the network.
    """
    with torch.random.fork_rng(devices=[]), file_errors(checkpoint.path):
        if checkpoint.published:
            return load_dbcnn(checkpoint.path, device, checkpoint.best)
        return load_dbcnn_lite(checkpoint.path, device)


class TorchQuality:
    """Scores mini-batches of any size and shape, like `OnnxQuality`.

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
        """Score images: crops (N, H, W, 3) uint8 RGB and masks (N, H, W) float32 to (N,) float32."""
        # (N, S, S, 3) viewed as (N, 3, S, S) is already in channels_last format.
        images = to_device(crops, self._device).permute(0, 3, 1, 2).float() / 255
        with torch.autocast(self._device, torch.float16, enabled=self._half):
            maps = self._network.maps(images)
        inside = to_device(masks, self._device)[:, None]
        return (self._network.rate(maps, inside).cpu().numpy(),)
