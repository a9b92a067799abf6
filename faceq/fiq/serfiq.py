"""SER-FIQ: can this face be recognised? Pure functions on arrays.

A recogniser that was trained with dropout before its last layer gives, with dropout left on, a cloud of
embeddings for one face. The tighter the cloud, the more certain the recogniser is of the face.

`ClosedForm` computes the cloud's size from its moments; `MonteCarlo` draws it, as published.

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
"""Of Monte Carlo, in one matrix product: some 50 MB of masked features for SFace."""


class DropoutError(FaceqError, ValueError):
    """Dropout changes nothing, so that every face would look perfectly certain."""


@dataclass(frozen=True)
class Head:
    """A recogniser's last layer, its batch norm folded in: embedding = weight @ features + bias.

    weight: (E, D) float32; bias: (E,) float32; dropout: the rate 0 < p < 1 it was trained with.
    """

    weight: np.ndarray
    bias: np.ndarray
    dropout: float


class ClosedForm:
    """Mean distance between dropout embeddings, without drawing any.

    Only the last layer is random, so its output has a known mean and covariance. With v the features
    before dropout, p the rate and s = p / (1 - p):

    - mu = W v + b, of squared length r;
    - t = s sum_k v_k^2 |W_k|^2, the trace of the covariance S;
    - m = s sum_k v_k^2 (W_k . mu)^2 / r, the variance along mu, which normalisation takes away;
    - n = tr(S)^2 / tr(S^2), the number of directions that the cloud fills.

    Scaled to length one, a draw leaves mu's direction by a squared tangent of tau = (t - m)(1 + 3 m / r) / r
    on average. To second order in tau and 1 / n the squared distance of two draws has the mean
    D = 2 tau / (1 + tau) - 3 tau^2 / (n (1 + tau)^3), and the distance the mean sqrt(D) (1 - 1 / (4 n)): a
    root is concave, and the fewer the directions the more the squared distance varies.

    n is taken from the layer alone, for features all alike. That holds where no few units carry much of t:
    with SFace n varies over faces by a few per cent, which moves the distance by less than 0.02%. A face of
    whose t one unit carries a third may be 6% off; then the cloud is no longer like a normal one, and neither
    its own n nor fourth moments mend it at every rate. `DropoutDistances.gap` measures it.

    Source: second moments of the last layer under Bernoulli dropout, delta method; Terhörst et al., eq. 1.
    """

    def __init__(self, head: Head, device: str = "cpu"):
        check(head)
        self._weight = torch.from_numpy(head.weight).to(device)
        # Kept in both layouts: a few faces times a wide matrix takes half the time in the right one.
        self._transposed = self._weight.T.contiguous()
        self._bias = torch.from_numpy(head.bias).to(device)
        self._odds = head.dropout / (1 - head.dropout)
        self._variance = self._odds * (self._weight.double() ** 2).sum(dim=0).float()
        self._directions = _directions(self._weight)

    @torch.inference_mode()
    def __call__(self, features: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Distance and embedding of each face.

        Args:
            features: (N, D) float32, the recogniser's output just before its dropout layer.

        Returns:
            distance: (N,) float32, 0 (certain) to about sqrt(2) (random direction).
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
    """Mean distance between dropout embeddings as published: by drawing them.

    Only the last layer is repeated, because nothing before it is random.

    Args:
        head: the last layer.
        passes: draws per face, at least 2; published: 100.
        device: `cpu` or `cuda`. The masks are drawn on the host, so that they are the same everywhere.
    """

    def __init__(self, head: Head, passes: int, device: str = "cpu"):
        check(head)
        self._weight = torch.from_numpy(head.weight).to(device)
        self._bias = torch.from_numpy(head.bias).to(device)
        self._dropout = head.dropout
        self._passes = passes

    @torch.inference_mode()
    def __call__(self, features: torch.Tensor, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Distance and embedding of each face.

        Args:
            features: (N, D) float32, the recogniser's output just before its dropout layer.
            seeds: one per face, 0 to 2^64 - 1, e.g. from `seed_of`: the same seed gives the same draws.

        Returns:
            distance: (N,) float32, mean Euclidean distance over all pairs of draws, each scaled to length
                one; 0 to 2.
            embedding: (N, E) float32, without dropout, not normalised.
        """
        # Face by face, so that no bit depends on how many there are.
        mean = [vector @ self._weight.T + self._bias for vector in features]
        pairs = zip(features, seeds, strict=True)
        distance = [self._distance(vector, seed) for vector, seed in pairs]
        embedding = torch.stack(mean) if mean else features.new_empty((0, len(self._bias)))
        return np.array(distance, np.float32), embedding.cpu().numpy()

    def _distance(self, features: torch.Tensor, seed: int) -> float:
        draws = self._draws(features, seed).double()  # in float32, 1 - cosine would keep few digits
        draws /= torch.linalg.vector_norm(draws, dim=1, keepdim=True)
        apart = (2 - 2 * (draws @ draws.T)).clamp_min(0).fill_diagonal_(0).sqrt().sum()
        return float(apart) / (self._passes * (self._passes - 1))

    def _draws(self, features: torch.Tensor, seed: int) -> torch.Tensor:
        """(passes, E) float32 embeddings under dropout."""
        kept = features / (1 - self._dropout)
        # Raw output of a counter-based generator: numpy promises that it stays the same for ever.
        generator = np.random.Philox(key=seed)
        size, parts = len(features), []
        for start in range(0, self._passes, _PASSES_AT_ONCE):
            count = min(_PASSES_AT_ONCE, self._passes - start)
            # 16 bits for each unit: the rate is met to 1 in 65,536.
            bits = generator.random_raw(-(-count * size // 4)).view(np.uint16)[: count * size]
            masks = torch.from_numpy(bits >= round(self._dropout * (1 << 16))).to(features.device)
            parts.append((masks.view(count, size) * kept) @ self._weight.T + self._bias)
        return torch.cat(parts)


def seed_of(face: np.ndarray) -> int:
    """Seed of a face for `MonteCarlo`, from its pixels: it scores the same under any name, anywhere.

    Args:
        face: the aligned face, uint8.
    """
    return int.from_bytes(hashlib.blake2b(face.tobytes(), digest_size=8).digest(), "big")


def check(head: Head) -> None:
    """That dropout can change the embedding.

    Raises:
        DropoutError: a rate of 0 or 1, or a last layer of zeros: all passes would be equal.
    """
    if not 0 < head.dropout < 1:
        raise DropoutError(f"the dropout rate is {head.dropout:g}: SER-FIQ needs one above 0 and below 1")
    if not np.isfinite(head.weight).all() or not np.isfinite(head.bias).all():
        raise DropoutError("the last layer holds values that are not finite")
    if not head.weight.any():
        raise DropoutError("the last layer's weights are all zero: dropout changes nothing")


def has_size(distance: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    """(N,) bool: which faces have a cloud with a size. A distance (N,) of 0 would be a perfect score; where
    distance or embedding (N, E) are not finite, or the embedding is zero, there is none."""
    length = np.linalg.norm(embedding, axis=1)
    return np.isfinite(distance) & (distance > 0) & np.isfinite(length) & (length > 0)


def check_distances(distance: np.ndarray, embedding: np.ndarray) -> None:
    """That the cloud of each face has a size.

    Raises:
        DropoutError: `has_size` says that one has none.
    """
    if not has_size(distance, embedding).all():
        raise DropoutError(
            "all dropout passes of a face are equal: the recogniser's features are zero or not finite, and "
            "no dropout can change them"
        )


def score(distance: np.ndarray) -> np.ndarray:
    """SER-FIQ's raw score from mean distances: 2 / (1 + exp(d)), 1 for certain, towards 0 for not."""
    return 2 / (1 + np.exp(distance))


def calibrated(raw: np.ndarray, slope: float, threshold: float) -> np.ndarray:
    """Raw scores on a scale on which 0.5 is the threshold: a logistic curve, 0...1."""
    return 1 / (1 + np.exp(-slope * (raw - threshold)))


def _directions(weight: torch.Tensor) -> float:
    """tr(S)^2 / tr(S^2) of the covariance S = W W^T, which features that are all alike would give."""
    covariance = (weight @ weight.T).double()
    return float(covariance.trace() ** 2 / (covariance**2).sum())
