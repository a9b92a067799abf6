"""SER-FIQ: how well can a recogniser recognise this face? Pure functions on arrays.

A recogniser trained with dropout before its last layer gives a different embedding of the same face in each
pass if dropout stays on. The less these embeddings vary, the more certain the recogniser is about the face.

The score is based on the mean distance between these embeddings. `ClosedForm` computes it from the moments of
their distribution; `faceq.fiq.monte_carlo` estimates it from Monte Carlo dropout passes, as published.

Source: Terhörst et al., "SER-FIQ: Unsupervised Estimation of Face Image Quality Based on Stochastic
Embedding Robustness", CVPR 2020.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from faceq.errors import FaceqError
from faceq.runtime.onnx_runtime import linear


class DropoutError(FaceqError, ValueError):
    """Dropout has no effect on the embedding, so that every face would get a perfect score."""


@dataclass(frozen=True)
class Head:
    """A recogniser's last layer, with batch norm folded in: embedding = weight @ features + bias.

    weight: (E, D) float32; bias: (E,) float32; dropout: the dropout rate of its training, 0 < p < 1.
    """

    weight: np.ndarray
    bias: np.ndarray
    dropout: float


Layer = Callable[[Any], Any]
"""Features (N, D) to (N, E), arrays or tensors."""


class ClosedForm:
    """Mean distance between dropout embeddings, without Monte Carlo passes.

    Only the last layer is random, so its output has a known mean and covariance. With v the features before
    dropout, p the rate and s = p / (1 - p):

    - mu = W v + b, with squared L2 norm r;
    - t = s sum_k v_k^2 |W_k|^2, the trace of the covariance S;
    - m = s sum_k v_k^2 (W_k . mu)^2 / r, the variance along mu, which normalisation removes;
    - n = tr(S)^2 / tr(S^2), the effective number of dimensions of the distribution.

    After normalisation, the angle between a random embedding and mu has a mean squared tangent of
    tau = (t - m)(1 + 3 m / r) / r. To second order in tau and 1 / n, the squared distance of two random
    embeddings has the mean D = 2 tau / (1 + tau) - 3 tau^2 / (n (1 + tau)^3), and the distance has the mean
    sqrt(D) (1 - 1 / (4 n)). The last factor exists because the square root is concave, and because the
    squared distance varies more if there are fewer dimensions.

    n is computed from the layer alone, as if all features were equal. This is accurate unless a few units
    contribute much of t. With SFace, n varies between faces by a few per cent, which changes the distance by
    less than 0.02%. If a single unit contributes a third of a face's t, the distance may be 6% off: the
    distribution is then far from normal, and neither the face's own n nor fourth moments correct this at
    every rate. `DropoutDistances.gap` measures the difference.

    Source: second moments of the last layer under Bernoulli dropout, delta method; Terhörst et al., eq. 1.

    Args:
        head: the last layer.
        layer: makes a linear layer from its weight (E, D) and its bias, a function of features (N, D). The
            formulas use only what arrays of numpy and tensors of torch have in common, so that a layer may
            also take tensors.
    """

    def __init__(self, head: Head, layer: Callable[[np.ndarray, np.ndarray | None], Layer] = linear):
        check(head)
        odds = head.dropout / (1 - head.dropout)
        squares = np.einsum("ed,ed->d", head.weight, head.weight, dtype=np.float64)
        self._odds = odds
        self._embedding = layer(head.weight, head.bias)
        self._onto = layer(head.weight.T, None)
        self._trace = layer((odds * squares)[None].astype(np.float32), None)
        covariance = (head.weight @ head.weight.T).astype(np.float64)  # S for equal features
        directions = float(covariance.trace() ** 2 / (covariance**2).sum())
        # The last bits of numpy's products depend on the number of threads.
        self._directions = round(directions, 3)

    def __call__(self, features: Any) -> tuple[Any, Any]:
        """The distance and embedding of each face.

        Args:
            features: (N, D) float32, the recogniser's output just before its dropout layer.

        Returns:
            distance: (N,) float32, 0 (certain) to about sqrt(2) (random directions).
            embedding: (N, E) float32, without dropout, not normalised.
        """
        with np.errstate(all="ignore"):  # `is_valid` finds the faces without a valid distance
            mean = self._embedding(features)
            length = ((mean**2).sum(axis=1) ** 0.5).clip(min=1e-6)
            onto_mean = self._onto(mean / length[:, None])
            along = self._odds * ((features * onto_mean) ** 2).sum(axis=1)
            trace = self._trace(features**2)[:, 0]
            r, n = length**2, self._directions
            tau = (trace - along) * (1 + 3 * along / r) / r
            squared = 2 * tau / (1 + tau) - 3 * tau**2 / (n * (1 + tau) ** 3)
            return squared**0.5 * (1 - 1 / (4 * n)), mean


def seed_of(face: np.ndarray) -> int:
    """The seed of a face for `MonteCarlo`. It depends only on the pixels, so a face always gets the same
    score.

    Args:
        face: the aligned face, uint8.
    """
    return int.from_bytes(hashlib.blake2b(face.tobytes(), digest_size=8).digest(), "big")


def check(head: Head) -> None:
    """Check that dropout can change the embedding.

    Raises:
        DropoutError: the rate is 0 or 1, or the last layer is zero (all passes would be equal) or not finite.
    """
    if not 0 < head.dropout < 1:
        raise DropoutError(f"the dropout rate is {head.dropout:g}: SER-FIQ needs one above 0 and below 1")
    if not np.isfinite(head.weight).all() or not np.isfinite(head.bias).all():
        raise DropoutError("the last layer has values that are not finite")
    if not head.weight.any():
        raise DropoutError("the last layer's weights are all zero: dropout has no effect")


def is_valid(distance: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    """(N,) bool: which faces have a valid distance.

    The distance (N,) and the embedding (N, E) must be finite and not zero. A distance of 0 would be a perfect
    score.
    """
    length = np.linalg.norm(embedding, axis=1)
    return np.isfinite(distance) & (distance > 0) & np.isfinite(length) & (length > 0)


def check_distances(distance: np.ndarray, embedding: np.ndarray) -> None:
    """Check that every face has a valid distance.

    Raises:
        DropoutError: `is_valid` is false for one of them.
    """
    if not is_valid(distance, embedding).all():
        raise DropoutError(
            "all dropout passes of a face are equal: the recogniser's features are zero or not finite, so "
            "dropout has no effect"
        )


def score(distance: np.ndarray) -> np.ndarray:
    """SER-FIQ's raw score from mean distances d: 2 / (1 + exp(d)). 1 means certain, lower is less certain."""
    return 2 / (1 + np.exp(distance))


def calibrated(raw: np.ndarray, slope: float, threshold: float) -> np.ndarray:
    """Map raw scores by a logistic curve to a scale 0...1, on which 0.5 is the threshold."""
    return 1 / (1 + np.exp(-slope * (raw - threshold)))
