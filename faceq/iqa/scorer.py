"""Score mini-batches of images by the network of a checkpoint, on CPUs or on a GPU.

torch is imported only for GPUs and for published DB-CNN.
"""

from faceq.iqa import dbcnn_lite_weights
from faceq.iqa.checkpoint import Checkpoint
from faceq.iqa.dbcnn_lite_onnx import OnnxQuality
from faceq.runtime.minibatch import Model
from faceq.runtime.numerics import F32, Numerics

BF16_TOLERANCE = 3.0
"""Maximum change of a `dbcnn` score in bf16, in points. On 600 CelebA faces it was 1.4."""


def on_cpu(
    checkpoint: Checkpoint, mini_batch: int, side: int, threads: int, numerics: Numerics = F32
) -> Model:
    """A model that scores crops (mini_batch, side, side, 3) uint8 RGB inside masks (mini_batch, side, side)
    float32, and returns (mini_batch,) float32: points, 0...100, not clipped.

    Args:
        checkpoint: the weights.
        mini_batch: number of images in each call.
        side: height and width of the images, pixels.
        threads: number of threads. Published DB-CNN uses the number that is set in torch.
        numerics: how DB-CNN-Lite computes. Published DB-CNN always computes in f32.

    Raises:
        ModelFileError: the file's keys or shapes are not those of the network.
    """
    if not checkpoint.published:
        return OnnxQuality(dbcnn_lite_weights.read(checkpoint.path), mini_batch, side, threads, numerics)
    from faceq.iqa import torch_quality  # noqa: PLC0415 - torch takes a second to import

    return torch_quality.TorchQuality(torch_quality.load(checkpoint), "cpu", half=False)


def on_cuda(checkpoint: Checkpoint, half: bool) -> Model:
    """Like `on_cpu`, on the GPU of this process and for mini-batches of any size. `half`: see
    `TorchQuality`."""
    from faceq.iqa import torch_quality  # noqa: PLC0415 - torch takes a second to import

    return torch_quality.TorchQuality(torch_quality.load(checkpoint, "cuda"), "cuda", half)
