"""SER-FIQ's distances of aligned faces, computed with a recogniser on the CPU or on one GPU."""

from pathlib import Path

import numpy as np
import torch

from faceq.fiq import serfiq
from faceq.fiq.recogniser import Backbone
from faceq.models.zoo import Recogniser
from faceq.runtime.minibatch import OomSafeBatcher, in_mini_batches, to_device
from faceq.runtime.numerics import F32, Numerics

HEAD_BATCH = 32
"""Number of faces for which a CPU computes the closed form in one step. Most of the time is spent reading the
last layer from memory."""

GAP = 0.01
"""Maximum relative difference between the distances of the closed form and of Monte Carlo dropout, without a
warning."""

GAP_FACES = 8
"""Maximum number of faces on which this difference is measured."""

_GAP_PASSES = 1600
"""Total number of dropout passes for this measurement, over all faces. Its accuracy is about 0.2%, and it
takes a second or two."""

CUDA_TOLERANCE = 1e-3
"""Maximum difference of `serfiq_raw` between CUDA and a CPU. Both compute in single precision, but in a
different order."""

BF16_TOLERANCE = 3e-3
"""Maximum change of `serfiq_raw` if the recogniser computes in bf16. On 1,172 CelebA faces it was 0.0015."""


class DropoutDistances:
    """Mean distances between dropout embeddings, and the embeddings without dropout.

    Args:
        path: the recogniser's ONNX file.
        known: information about the recogniser that its file does not contain.
        passes: number of Monte Carlo dropout passes; None for the closed form.
        device: `cpu` or `cuda`.
        mini_batch: number of faces in one run of the recogniser.
        threads: number of threads on the CPU.
        numerics: how the recogniser computes on the CPU.
    """

    def __init__(
        self,
        path: Path,
        known: Recogniser,
        passes: int | None,
        device: str,
        mini_batch: int,
        threads: int,
        numerics: Numerics = F32,
    ):
        self._backbone = Backbone(path, known.dropout, known.mean, known.std, device, threads, numerics)
        head = self._backbone.head
        self._head = head
        self._closed_form = serfiq.ClosedForm(head, device) if passes is None else None
        self._monte_carlo = serfiq.MonteCarlo(head, passes, device) if passes is not None else None
        self._device = device
        self._mini_batch = mini_batch
        self._halving = OomSafeBatcher(self.on_device, mini_batch, "serfiq")

    def __call__(self, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances and embeddings.

        Args:
            faces: (N, 112, 112, 3) uint8 RGB, N at least 1.

        Returns:
            distance: (N,) float32. embedding: (N, E) float32, not normalised.
        """
        if self._device != "cpu":
            distance, embedding = self._halving(faces)
            return distance, embedding
        (features,) = in_mini_batches(lambda part: (self._backbone(part),), self._mini_batch, faces)
        if self._closed_form is not None:
            distance, embedding = in_mini_batches(self._last_layer, HEAD_BATCH, features)
            return distance, embedding
        return self._drawn(torch.from_numpy(features), faces)

    def gap(self, faces: np.ndarray) -> float | None:
        """The relative difference between the distances of the closed form and of Monte Carlo dropout.

        Args:
            faces: (N, 112, 112, 3) uint8 RGB, real faces, N at least 1; only the first GAP_FACES are used.

        Returns:
            The mean of closed form / Monte Carlo - 1; None if the closed form is not in use.
        """
        if self._closed_form is None:
            return None
        faces = faces[:GAP_FACES]
        (found,) = in_mini_batches(lambda part: (self._backbone(part),), self._mini_batch, faces)
        features = torch.from_numpy(found).to(self._device)
        drawn = serfiq.MonteCarlo(self._head, _GAP_PASSES // len(faces), self._device)
        distance, _ = drawn(features, [serfiq.seed_of(face) for face in faces])
        closed, _ = self._closed_form(features)
        return float((closed / distance - 1).mean())

    @torch.inference_mode()
    def on_device(self, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Like `__call__`, for one mini-batch, but the features stay on the device."""
        features = self._backbone.on_device(to_device(faces, self._device))
        return self._closed_form(features) if self._closed_form is not None else self._drawn(features, faces)

    def _last_layer(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert self._closed_form is not None
        return self._closed_form(torch.from_numpy(features))

    def _drawn(self, features: torch.Tensor, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert self._monte_carlo is not None
        return self._monte_carlo(features, [serfiq.seed_of(face) for face in faces])
