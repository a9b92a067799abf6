"""SER-FIQ: how well can a recogniser recognise this face? Pure functions on arrays.

A recogniser trained with dropout before its last layer gives a different embedding of the same face in each
pass if dropout stays on. The less these embeddings vary, the more certain the recogniser is about the face.

The score is based on the mean distance between these embeddings. `ClosedForm` computes it from the moments of
their distribution; `MonteCarlo` estimates it from Monte Carlo dropout passes, as published.

Source: Terhörst et al., "SER-FIQ: Unsupervised Estimation of Face Image Quality Based on Stochastic
Embedding Robustness", CVPR 2020.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from faceq.errors import FaceqError

_PASSES_AT_ONCE = 256
"""Monte Carlo dropout passes in one matrix product: about 50 MB of masked features for SFace."""


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
    """

    def __init__(self, head: Head, device: str = "cpu"):
        check(head)
        self._weight = torch.from_numpy(head.weight).to(device)
        # Keep both layouts: with the right one, a few faces times a wide matrix take half the time.
        self._transposed = self._weight.T.contiguous()
        self._bias = torch.from_numpy(head.bias).to(device)
        self._odds = head.dropout / (1 - head.dropout)
        self._variance = self._odds * (self._weight.double() ** 2).sum(dim=0).float()
        self._directions = _directions(self._weight)

    @torch.inference_mode()
    def __call__(self, features: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The distance and embedding of each face.

        Args:
            features: (N, D) float32, the recogniser's output just before its dropout layer.

        Returns:
            distance: (N,) float32, 0 (certain) to about sqrt(2) (random directions).
            embedding: (N, E) float32, without dropout, not normalised.
        """
        mean = features @ self._transposed + self._bias
        length = torch.linalg.vector_norm(mean, dim=1, keepdim=True).clamp_min(1e-6)
        onto_mean = (mean / length) @ self._weight
        along = self._odds * torch.linalg.vector_norm(features * onto_mean, dim=1) ** 2
        trace = (features**2) @ self._variance
        r, n = length.squeeze(1) ** 2, self._directions
        tau = (trace - along) * (1 + 3 * along / r) / r
        squared = 2 * tau / (1 + tau) - 3 * tau**2 / (n * (1 + tau) ** 3)
        distance = torch.sqrt(squared) * (1 - 1 / (4 * n))
        return distance.cpu().numpy(), mean.cpu().numpy()


class MonteCarlo:
    """Mean distance between dropout embeddings, estimated from Monte Carlo dropout passes as published.

    Only the last layer is repeated, because nothing before it is random.

    Args:
        head: the last layer.
        passes: passes per face, at least 2; published: 100.
        device: `cpu` or `cuda`. The dropout masks are generated on the host, so that they are the same on
            every device.
    """

    def __init__(self, head: Head, passes: int, device: str = "cpu"):
        check(head)
        self._weight = torch.from_numpy(head.weight).to(device)
        self._bias = torch.from_numpy(head.bias).to(device)
        self._dropout = head.dropout
        self._passes = passes

    @torch.inference_mode()
    def __call__(self, features: torch.Tensor, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The distance and embedding of each face.

        Args:
            features: (N, D) float32, the recogniser's output just before its dropout layer.
            seeds: one per face, 0 to 2^64 - 1, for example from `seed_of`. Equal seeds give equal masks.

        Returns:
            distance: (N,) float32, mean Euclidean distance over all pairs of passes, with each embedding
                normalised to L2 norm 1; 0 to 2.
            embedding: (N, E) float32, without dropout, not normalised.
        """
        # Process face by face, so that no bit of a result depends on the number of faces.
        mean = [vector @ self._weight.T + self._bias for vector in features]
        pairs = zip(features, seeds, strict=True)
        distance = [self._distance(vector, seed) for vector, seed in pairs]
        embedding = torch.stack(mean) if mean else features.new_empty((0, len(self._bias)))
        return np.array(distance, np.float32), embedding.cpu().numpy()

    def _distance(self, features: torch.Tensor, seed: int) -> float:
        draws = self._draws(features, seed).double()  # in float32, 1 - cosine would have few correct digits
        draws /= torch.linalg.vector_norm(draws, dim=1, keepdim=True)
        apart = (2 - 2 * (draws @ draws.T)).clamp_min(0).fill_diagonal_(0).sqrt().sum()
        return float(apart) / (self._passes * (self._passes - 1))

    def _draws(self, features: torch.Tensor, seed: int) -> torch.Tensor:
        """(passes, E) float32 embeddings under dropout."""
        kept = features / (1 - self._dropout)
        # numpy guarantees that the raw output of this counter-based generator never changes.
        generator = np.random.Philox(key=seed)
        size, parts = len(features), []
        for start in range(0, self._passes, _PASSES_AT_ONCE):
            count = min(_PASSES_AT_ONCE, self._passes - start)
            # 16 bits per unit: the rate is accurate to 1 / 65,536.
            bits = generator.random_raw(-(-count * size // 4)).view(np.uint16)[: count * size]
            masks = torch.from_numpy(bits >= round(self._dropout * (1 << 16))).to(features.device)
            parts.append((masks.view(count, size) * kept) @ self._weight.T + self._bias)
        return torch.cat(parts)


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


def _directions(weight: torch.Tensor) -> float:
    """tr(S)^2 / tr(S^2) of the covariance S = W W^T, which is that of equal features."""
    covariance = (weight @ weight.T).double()
    return float(covariance.trace() ** 2 / (covariance**2).sum())
