"""SER-FIQ's distances of aligned faces, by a recogniser and its last layer: on the host, or all on one
device."""

from pathlib import Path

import numpy as np
import torch

from faceq.fiq import serfiq
from faceq.fiq.recogniser import Backbone
from faceq.models.zoo import Recogniser
from faceq.runtime.minibatch import OomSafeBatcher, in_mini_batches, to_device

HEAD_BATCH = 32
"""Faces that the closed form takes at once on a CPU: reading the last layer from memory is most of its
time."""

GAP = 0.01
"""Share by which the closed form's distance may differ from that of passes, before it is worth a warning."""

GAP_FACES = 8
"""Faces, at most, on which that is measured."""

_GAP_PASSES = 1600
"""Dropout passes for this, of all faces together: so the gap is known to some 0.2%, in a second or two."""

CUDA_TOLERANCE = 1e-3
"""By how much `serfiq_raw` on CUDA may differ from that on a CPU: both compute in single precision, in
another order."""


class DropoutDistances:
    """Mean distances between dropout embeddings, and the embeddings without dropout.

    Args:
        path: the recogniser's ONNX file.
        known: what is known of it beside the file.
        passes: dropout passes that are drawn; None: the closed form.
        device: `cpu` or `cuda`. mini_batch: faces that the recogniser is shown at once. threads: on the CPU.
    """

    def __init__(
        self, path: Path, known: Recogniser, passes: int | None, device: str, mini_batch: int, threads: int
    ):
        self._backbone = Backbone(path, known.dropout, known.mean, known.std, device, threads)
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
        """By how much the closed form's distances differ from those of dropout passes; None where it is not
        used.

        Args:
            faces: (N, 112, 112, 3) uint8 RGB, real ones, N at least 1; the first GAP_FACES count.

        Returns:
            The mean of closed form / passes - 1.
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
        """The same for one mini-batch, whose features stay on the device until they are distances."""
        features = self._backbone.on_device(to_device(faces, self._device))
        return self._closed_form(features) if self._closed_form is not None else self._drawn(features, faces)

    def _last_layer(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert self._closed_form is not None
        return self._closed_form(torch.from_numpy(features))

    def _drawn(self, features: torch.Tensor, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert self._monte_carlo is not None
        return self._monte_carlo(features, [serfiq.seed_of(face) for face in faces])
