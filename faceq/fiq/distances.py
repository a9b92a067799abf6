"""SER-FIQ's distances of aligned faces, computed with a recogniser on the CPU or on one GPU."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from faceq.fiq import serfiq
from faceq.fiq.recogniser import Backbone
from faceq.models.zoo import Recogniser
from faceq.runtime.minibatch import OomSafeBatcher, in_mini_batches, to_device
from faceq.runtime.numerics import F32, Numerics
from faceq.runtime.onnx_runtime import linear

if TYPE_CHECKING:
    from faceq.fiq.monte_carlo import MonteCarlo

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
        trusted: see `Backbone`.
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
        trusted: bool = False,
    ):
        given = known.dropout, known.mean, known.std
        self._backbone = Backbone(path, *given, device, threads, numerics, trusted)
        self._monte_carlo = None if passes is None else _monte_carlo(self._backbone.head, passes, device)
        self._device = device
        self._mini_batch = mini_batch
        self._threads = threads
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
        features = self._features(faces)
        if self._monte_carlo is not None:
            return self._monte_carlo(to_device(features, "cpu"), _seeds(faces))
        distance, embedding = in_mini_batches(self._closed_form, HEAD_BATCH, features)
        return distance, embedding

    def gap(self, faces: np.ndarray) -> float | None:
        """The relative difference between the distances of the closed form and of Monte Carlo dropout.

        Args:
            faces: (N, 112, 112, 3) uint8 RGB, real faces, N at least 1; only the first GAP_FACES are used.

        Returns:
            The mean of closed form / Monte Carlo - 1; None if the closed form is not in use.
        """
        if self._monte_carlo is not None:
            return None
        faces = faces[:GAP_FACES]
        features = self._features(faces)
        monte_carlo = _monte_carlo(self._backbone.head, _GAP_PASSES // len(faces), self._device)
        drawn, _ = monte_carlo(to_device(features, self._device), _seeds(faces))
        closed, _ = self._closed_form(features)
        return float((closed / drawn - 1).mean())

    def on_device(self, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Like `__call__`, for one mini-batch, but the features stay on the device."""
        features = self._backbone.on_device(to_device(faces, self._device))
        if self._monte_carlo is not None:
            return self._monte_carlo(features, _seeds(faces))
        distance, embedding = self._closed_form_of_tensors(features)
        return distance.cpu().numpy(), embedding.cpu().numpy()

    def _features(self, faces: np.ndarray) -> np.ndarray:
        (features,) = in_mini_batches(lambda part: (self._backbone(part),), self._mini_batch, faces)
        return features

    @functools.cached_property
    def _closed_form(self) -> serfiq.ClosedForm:
        return serfiq.ClosedForm(self._backbone.head, functools.partial(linear, threads=self._threads))

    @functools.cached_property
    def _closed_form_of_tensors(self) -> serfiq.ClosedForm:
        return serfiq.ClosedForm(self._backbone.head, functools.partial(_layer_on, self._device))


def _layer_on(device: str, weight: np.ndarray, bias: np.ndarray | None) -> serfiq.Layer:
    """Like `onnx_runtime.linear`, for tensors on a device."""
    # The transpose in memory: a few faces times a wide matrix then take half the time.
    transposed = to_device(np.ascontiguousarray(weight.T), device)
    shift = 0.0 if bias is None else to_device(bias, device)
    return lambda features: features @ transposed + shift


def _monte_carlo(head: serfiq.Head, passes: int, device: str) -> MonteCarlo:
    from faceq.fiq.monte_carlo import MonteCarlo  # noqa: PLC0415 - torch takes a second to import

    return MonteCarlo(head, passes, device)


def _seeds(faces: np.ndarray) -> list[int]:
    return [serfiq.seed_of(face) for face in faces]
